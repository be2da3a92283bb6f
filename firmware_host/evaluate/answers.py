"""The answers of one lineage on one device, as columns in the order of their numbers.

About 50 bytes an answer, and MOST answers at once: what is older than the newest MOST is left out, and told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt

Column = npt.NDArray[Any]

MOST: Final = 1 << 23
"""Answers that are looked at together: some 400 MB."""
NONE: Final = -1
"""Instead of a label that is not known."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BACK_US: Final = 1_000_000
"""That a clock may go back without being told."""


@dataclass(frozen=True)
class Answers:
    """Columns of equal length."""

    seq: Column
    time_us: Column
    label: Column
    truth: Column
    """NONE where the label is not known."""
    confidence: Column
    entropy: Column
    similarity: Column
    """nan without a detector."""
    novel: Column
    domain: Column
    latency_ms: Column
    bundle: Column
    """Place in the lineage's bundles."""

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def known(self) -> Column:
        """Where the label is known."""
        known: Column = self.truth != NONE
        return known

    @property
    def correct(self) -> Column:
        """Whether the answer is right; means something where the label is known."""
        correct: Column = self.label == self.truth
        return correct

    def time(self, place: int) -> datetime:
        """Of one answer."""
        return at(self.time_us[place])

    def of(self, rows: Any) -> "Answers":
        """Some of them."""
        return Answers(**{name: column[rows] for name, column in vars(self).items()})


def at(time_us: int) -> datetime:
    """A time, of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=int(time_us))


@dataclass(frozen=True)
class Lineage:
    """A lineage that ran on a device."""

    device: str
    name: str
    bundles: tuple[str, ...]
    """In the order in which they ran."""
    learner: str
    """Of the last run."""
    runs: int


def lineages(connection: duckdb.DuckDBPyConnection, device: str) -> list[Lineage]:
    """Those of a device, the one that ran last at the end."""
    rows = connection.execute(
        """
        SELECT coalesce(nullif(lineage, ''), name) AS known, bundle, arg_max(learner, time), count(*), max(time) AS last
        FROM runs WHERE device = ? GROUP BY known, bundle ORDER BY min(seen), min(time), bundle
        """,
        [device],
    ).fetchall()
    found: dict[str, list[Any]] = {}
    for row in sorted(rows, key=lambda row: max(other[4] for other in rows if other[0] == row[0])):
        found.setdefault(row[0], []).append(row)
    return [
        Lineage(
            device=device,
            name=name,
            bundles=tuple(row[1] for row in of),
            learner=max(of, key=lambda row: row[4])[2],
            runs=sum(row[3] for row in of),
        )
        for name, of in found.items()
    ]


def gather(connection: duckdb.DuckDBPyConnection, lineage: Lineage) -> tuple[Answers, list[str]]:
    """All answers of a lineage, and what was odd about them."""
    notes: list[str] = []
    given = [lineage.device, list(lineage.bundles)]
    (count,) = connection.execute("SELECT count(*) FROM predictions WHERE device = ? AND bundle IN ?", given).fetchone()  # type: ignore[misc]
    older = max(0, count - MOST)
    if older:
        notes.append(f"the oldest {older} answers are left out: {MOST} are looked at together")
    found = connection.execute(
        f"""
        WITH l AS (
            SELECT seq, arg_max(y, (time, monotonic_ns, sequence)) AS given FROM labels
            WHERE device = $1 AND bundle IN $2 GROUP BY seq
        )
        SELECT p.seq::BIGINT AS seq, epoch_us(p.time) AS time_us, p.label::INT AS label,
            coalesce(l.given, p.y, {NONE})::INT AS truth, p.confidence, p.entropy,
            coalesce(p.similarity, 'nan'::FLOAT) AS similarity, p.novel, p.domain::INT AS domain,
            (p.latency_ns / 1e6)::FLOAT AS latency_ms, (list_position($2, p.bundle) - 1)::SMALLINT AS bundle
        FROM predictions p LEFT JOIN l ON p.seq = l.seq
        WHERE p.device = $1 AND p.bundle IN $2 ORDER BY p.seq, p.time OFFSET {older}
        """,
        given,
    ).fetchnumpy()
    answers = Answers(**{name: np.asarray(column) for name, column in found.items()})
    twice = np.append(answers.seq[1:] == answers.seq[:-1], False)
    if len(answers) and twice.any():
        first, last = answers.seq[twice][[0, -1]].tolist()
        notes.append(
            f"{int(twice.sum())} numbers between {first} and {last} were given to two answers: two boards, or a state "
            "directory that was begun anew; the later answer counts. Pull each board into a folder of its own"
        )
        answers = answers.of(~twice)
    return answers, notes + _clocks(connection, lineage)


def _clocks(connection: duckdb.DuckDBPyConnection, lineage: Lineage) -> list[str]:
    """What is odd about the times of boots."""
    rows = connection.execute(
        """
        SELECT boot, epoch_us(min(time)), epoch_us(max(time)), count(*), count(*) FILTER (clock <> 'synchronised')
        FROM predictions WHERE device = ? AND bundle IN ? GROUP BY boot ORDER BY min(seq), boot
        """,
        [lineage.device, list(lineage.bundles)],
    ).fetchall()
    notes, latest = [], None
    for boot, first, last, _, _ in rows:
        if latest is not None and first < latest[1] - _BACK_US:
            back = timedelta(microseconds=latest[1] - first)
            notes.append(
                f"two clocks: boot {boot} says that it ran {_length(back)} before the end of boot {latest[0]}, which "
                "came first; the order is that of the numbers of answers"
            )
        latest = (boot, last) if latest is None or last > latest[1] else latest
    guessed = sum(row[4] for row in rows)
    if guessed:
        boots = [row[0] for row in rows if row[4]]
        notes.append(f"the clock was not known to be right for {guessed} answers, of {_few('boot', boots)}")
    return notes


def _length(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _few(what: str, names: Sequence[str]) -> str:
    """Names, or how many there are."""
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names)} {what}s"


def class_names(connection: duckdb.DuckDBPyConnection, lineage: Lineage, own: Sequence[str]) -> Mapping[int, str]:
    """Names of classes by their index: the bundle's `own`, where it is here, and those that the journal tells."""
    rows = connection.execute(
        """
        SELECT y, arg_max(name, time) FROM (
            SELECT device, bundle, y, name, time FROM labels UNION ALL
            SELECT device, bundle, "index", name, time FROM classes
        ) WHERE device = ? AND bundle IN ? AND name <> '' GROUP BY y
        """,
        [lineage.device, list(lineage.bundles)],
    ).fetchall()
    return {int(index): name for index, name in rows} | dict(enumerate(own))
