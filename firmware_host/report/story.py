"""What happened on a device, for its timeline: stays in domains, deployments, shifts, what the guard did, labels.

What is rare is told one by one. What may be frequent is told by stretches of time, so that a story is of bounded size,
however long the journal is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import duckdb

from firmware_host.evaluate.evaluation import Evaluation

STRETCHES: Final = 120
"""That a story is divided in, for what may be frequent."""
BANDS: Final = 240
"""Stays in domains that are told exactly; where there are more, each window tells where most of it was."""
EVENTS: Final = 400
"""Shifts and changes of domains that are told, evenly chosen."""


@dataclass(frozen=True)
class Band:
    """A stay in one domain."""

    domain: int
    first_seq: int
    last_seq: int
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Deployment:
    """A run of another bundle than the one before."""

    time: datetime
    seq: int
    bundle: str
    name: str
    version: int
    learner: str
    by: str
    """Who deployed it; empty where the run did not say."""


@dataclass(frozen=True)
class Event:
    """Something that happened once, or some times in one stretch."""

    lane: str
    """deployment, shift, domain, guard, label, gap"""
    what: str
    """Within the lane: `began`, `founded`, `rolled_back`..."""
    time: datetime
    seq: int | None
    text: str
    times: int = 1


@dataclass(frozen=True)
class Story:
    """Of one lineage on one device."""

    bands: tuple[Band, ...]
    names: dict[int, str]
    """Of domains, as they were called last."""
    deployments: tuple[Deployment, ...]
    events: tuple[Event, ...]
    """In the order of time."""
    notes: tuple[str, ...]


def story(connection: duckdb.DuckDBPyConnection, found: Evaluation) -> Story:
    """Ask a host store, opened by `firmware_host/query.py`, for all that happened to what was evaluated."""
    asker = _Asker(connection, found)
    names, events, told = asker.domains()
    deployments = asker.deployments()
    events += asker.shifts(told) + asker.guard() + asker.labels() + asker.gaps()
    return Story(
        bands=asker.bands(),
        names={one.number: one.name for one in found.domains} | names,
        deployments=deployments,
        events=tuple(sorted(events, key=lambda event: event.time)),
        notes=tuple(told),
    )


class _Asker:
    def __init__(self, connection: duckdb.DuckDBPyConnection, found: Evaluation) -> None:
        self._connection, self._found = connection, found
        self._width_s = max(1e-3, abs((found.last - found.first).total_seconds()) / STRETCHES)

    def _ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query in which `{mine}` keeps the rows of this device and lineage."""
        marks = ", ".join("?" for _ in self._found.bundles) or "''"
        query = sql.format(mine=f"device = ? AND bundle IN ({marks})")
        rows = self._connection.execute(query, [self._found.device, *self._found.bundles, *values]).fetchall()
        return [tuple(one.replace(tzinfo=UTC) if isinstance(one, datetime) else one for one in row) for row in rows]

    def bands(self) -> tuple[Band, ...]:
        rows = self._ask(
            """
            SELECT domain, seq, time FROM (
                SELECT domain, seq, time, lag(domain) OVER (ORDER BY seq, time) AS before
                FROM predictions WHERE {mine}
            ) WHERE domain IS DISTINCT FROM before ORDER BY seq, time LIMIT ?
            """,
            BANDS + 1,
        )
        windows = self._found.over_time
        if len(rows) > BANDS:
            rows = [
                (window.domain, window.first_seq, window.start)
                for number, window in enumerate(windows)
                if not number or windows[number - 1].domain != window.domain
            ]
        ends = [(seq - 1, time) for _, seq, time in rows[1:]]
        if rows:
            ends.append((windows[-1].last_seq if windows else rows[-1][1], self._found.last))
        return tuple(
            Band(domain, first, last, start, end)
            for (domain, first, start), (last, end) in zip(rows, ends, strict=True)
        )

    def deployments(self) -> tuple[Deployment, ...]:
        rows = self._ask(
            """
            SELECT time, seen, bundle, name, version, learner, settings['deployed_by'] FROM (
                SELECT *, lag(bundle) OVER (ORDER BY time, monotonic_ns) AS before FROM runs WHERE {mine}
            ) WHERE bundle IS DISTINCT FROM before ORDER BY time, monotonic_ns LIMIT ?
            """,
            EVENTS,
        )
        return tuple(
            Deployment(time, seen, bundle, name, version, learner, _text(by))
            for time, seen, bundle, name, version, learner, by in rows
        )

    def domains(self) -> tuple[dict[int, str], list[Event], list[str]]:
        rows = self._ask(
            "SELECT time, seq, what, domain, name, other, asked FROM domains WHERE {mine} ORDER BY time, monotonic_ns"
        )
        names = {row[3]: row[4] for row in rows if row[4]}
        told: list[str] = []
        events = []
        for time, seq, what, domain, name, other, asked in _some(rows, "changes of domains", told):
            text = f"{name or f'domain {domain}'} {what}"
            text += "" if other is None else f" with {names.get(other, f'domain {other}')}"
            events.append(Event("domain", what, time, seq, f"{text}, asked for" if asked else text))
        return names, events, told

    def shifts(self, told: list[str]) -> list[Event]:
        rows = self._ask(
            "SELECT time, seq, began, test, share, similarity FROM shifts WHERE {mine} ORDER BY time, monotonic_ns"
        )
        return [
            Event(
                "shift",
                "began" if began else "ended",
                time,
                seq,
                f"{'unlike the source' if began else 'like the source again'}: {100 * (share or 0):.0f} % of the last "
                f"answers are novel, similarity {similarity or 0:.2f} ({test})",
            )
            for time, seq, began, test, share, similarity in _some(rows, "shifts", told)
        ]

    def guard(self) -> list[Event]:
        rows = self._stretched(
            "SELECT action, reason, min(time), min(first_seq), count(*), any_value(detail) FROM guard", "action, reason"
        )
        return [
            Event(
                "guard", action, time, seq,
                f"{action.replace('_', ' ')}: {reason}{f' ({detail})' if detail and times == 1 else ''}", times,
            )
            for action, reason, time, seq, times, detail in rows
        ]  # fmt: skip

    def labels(self) -> list[Event]:
        rows = self._stretched("SELECT min(time), count(*) FROM labels", "")
        return [Event("label", "given", time, None, _plural(times, "label"), times) for time, times in rows]

    def gaps(self) -> list[Event]:
        rows = self._stretched("SELECT min(time), sum(records)::BIGINT, sum(samples)::BIGINT FROM gaps", "")
        return [
            Event("gap", "gap", time, None, f"{_plural(records, 'record')} missing, of {_plural(samples, 'answer')}")
            for time, records, samples in rows
        ]

    def _stretched(self, select: str, by: str) -> list[tuple[Any, ...]]:
        """Grouped by columns, and by stretches of time."""
        start = f"TIMESTAMP '{self._found.first.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
        place = f"floor((epoch(time) - epoch({start})) / {self._width_s!r})"
        stretch = f"greatest(-1, least({STRETCHES}, {place}))"  # a clock may have been wrong
        return self._ask(f"{select} WHERE {{mine}} GROUP BY {f'{by}, ' if by else ''}{stretch} ORDER BY min(time)")


def _some(rows: Sequence[tuple[Any, ...]], what: str, told: list[str]) -> Sequence[tuple[Any, ...]]:
    """Rows, evenly chosen where there are too many."""
    if len(rows) <= EVENTS:
        return rows
    told.append(f"{EVENTS} of {len(rows)} {what} are shown")
    return [rows[round(place * (len(rows) - 1) / (EVENTS - 1))] for place in range(EVENTS)]


def seq_at(found: Evaluation, time: datetime) -> int:
    """The answer that was given about then."""
    windows = found.over_time
    for window in windows:
        if time <= window.end:
            span = (window.end - window.start) / timedelta(seconds=1)
            part = max(0.0, (time - window.start) / timedelta(seconds=1)) / span if span > 0 else 0.0
            return round(window.first_seq + part * (window.last_seq - window.first_seq))
    return windows[-1].last_seq if windows else 0


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _text(value: object) -> str:
    """Of a map in DuckDB, whose lookups give a list in older versions."""
    if isinstance(value, list):
        return str(value[0]) if value else ""
    return "" if value is None else str(value)
