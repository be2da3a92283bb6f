"""Evaluates one device of a host store: gathers what was journalled, and puts the figures together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt

from edgecl.bundle import Bundle
from edgecl.errors import EdgeclError, StoreError
from edgecl.journal import Run, Setting
from firmware_host import query
from firmware_host.evaluate import answers as columns
from firmware_host.evaluate import domains, figures, shifts, source, windows
from firmware_host.evaluate.answers import Answers, Lineage
from firmware_host.evaluate.domains import Stays
from firmware_host.evaluate.evaluation import Evaluation, GuardCount
from firmware_host.evaluate.given import Labels, Phases
from firmware_host.evaluate.source import Beside
from firmware_host.host_store import HostStore
from firmware_host.replay.bundles import Bundles, missing
from firmware_host.replay.recording import Recording, recordings

BEFORE: Final = 2000
"""Samples that the source model answers again, unless told otherwise."""


@dataclass(frozen=True)
class Options:
    """How to evaluate."""

    labels: Labels = field(default_factory=lambda: Labels({}))
    phases: Phases = field(default_factory=lambda: Phases({}))
    before: int = BEFORE
    """Samples that the source model answers again at most; 0 for none."""
    lineage: str = ""
    """Of this one alone."""
    seed: int = 0


@dataclass(frozen=True)
class Gathered:
    """What there is of one lineage on a device."""

    lineage: Lineage
    answers: Answers
    names: Mapping[int, str]
    """Of classes, by their index."""
    stays: Stays
    beside: Beside | None
    kept: npt.NDArray[np.int64]
    """Numbers of the samples that were kept, rising."""
    recording: Recording | None
    notes: tuple[str, ...]


def evaluate(store: HostStore, device: str, bundles: Bundles, options: Options | None = None) -> tuple[Evaluation, ...]:
    """Evaluate each lineage of a device, the one that ran last at the end.

    Raises StoreError: the device is not in the tables, or has answered nothing.
    """
    options = options or Options()
    with query.opened(store, [device]) as connection:
        return tuple(
            _evaluation(connection, gathered, options)
            for gathered in gather(store, connection, device, bundles, options)
        )


def gather(
    store: HostStore, connection: duckdb.DuckDBPyConnection, device: str, bundles: Bundles, options: Options
) -> list[Gathered]:
    """What there is of each lineage that has answered. Raises StoreError."""
    every = columns.lineages(connection, device)
    wanted = [one for one in every if not options.lineage or one.name == options.lineage]
    if options.lineage and not wanted:
        have = ", ".join(one.name for one in every) or "none"
        raise StoreError(f"{device}: no lineage {options.lineage} ran there; it has {have}")
    common = _common(store, connection, device, every)
    found = [_gather(store, connection, lineage, bundles, options, common) for lineage in wanted]
    found = [one for one in found if len(one.answers)]
    if not found:
        raise StoreError(
            f"{device}: it has answered nothing that is in the tables; edgecl pull and edgecl ingest first"
        )
    return found


def _common(
    store: HostStore, connection: duckdb.DuckDBPyConnection, device: str, every: Sequence[Lineage]
) -> tuple[str, ...]:
    """What is odd about a whole device."""
    notes = []
    if len(every) > 1:
        names = ", ".join(one.name for one in every)
        notes.append(f"{len(every)} lineages ran on this device, each is evaluated alone: {names}")
    known = {segment.name: segment for part in store.index(device).parts for segment in part.segments}
    new = sum(not (there := known.get(segment.name)) or not there.same(segment) for segment in store.segments(device))
    if new:
        notes.append(f"{new} segments that were pulled are not in the tables; edgecl ingest takes them")
    (homeless,) = _row(connection, "SELECT count(*) FROM predictions WHERE device = ? AND bundle = ''", [device])
    if homeless:
        notes.append(f"{homeless} answers are of a run whose beginning is not here, so of no known lineage: left out")
    (unheard,) = _row(connection, "SELECT coalesce(sum(samples), 0) FROM gaps WHERE device = ?", [device])
    if unheard:
        notes.append(f"{unheard} answers were not journalled, as the journal was full")
    return tuple(notes)


def _gather(
    store: HostStore,
    connection: duckdb.DuckDBPyConnection,
    lineage: Lineage,
    bundles: Bundles,
    options: Options,
    common: tuple[str, ...],
) -> Gathered:
    answers, notes = columns.gather(connection, lineage)
    opened = {identity: found for identity in lineage.bundles if (found := bundles.find(identity))}
    own = opened[lineage.bundles[-1]].manifest.classes if lineage.bundles[-1] in opened else ()
    names = columns.class_names(connection, lineage, own)
    kept = connection.execute(
        "SELECT DISTINCT seq::BIGINT AS seq FROM samples WHERE device = ? AND NOT learned ORDER BY seq",
        [lineage.device],
    ).fetchnumpy()["seq"]
    answers = _labelled(answers, options.labels.on(lineage.device), names, kept, notes)
    late = _row(
        connection,
        """
        SELECT count(DISTINCT seq) FROM labels ANTI JOIN predictions USING (device, seq)
        WHERE device = ? AND labels.bundle IN ?
        """,
        [lineage.device, list(lineage.bundles)],
    )[0]
    if late:
        notes.append(f"{late} labels in the journal are of samples whose answers are not here")
    recording = _recording(store, lineage.device)
    beside = _beside(connection, lineage, answers, kept, recording, opened, options, notes)
    stays = _stays(connection, lineage, answers, options.phases)
    return Gathered(lineage, answers, names, stays, beside, np.asarray(kept), recording, (*common, *notes))


def _labelled(
    answers: Answers, given: Mapping[int, str], names: Mapping[int, str], kept: npt.NDArray[Any], notes: list[str]
) -> Answers:
    """The answers with the labels that somebody brings."""
    if not given or not len(answers):
        return answers
    index = {name: number for number, name in names.items()}
    seqs = np.array(sorted(given), np.int64)
    labels = np.array([index.get(given[seq], _index(given[seq], names)) for seq in seqs.tolist()])
    unknown = sorted({given[seq] for seq in seqs[labels < 0].tolist()})
    if unknown:
        have = ", ".join(names[number] for number in sorted(names)) or "none, as the bundle is not here: --bundles DIR"
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        notes.append(f"{int((labels < 0).sum())} labels name classes that are not known ({some}); known are {have}")
    places = np.searchsorted(answers.seq, seqs).clip(max=len(answers) - 1)
    there = answers.seq[places] == seqs
    if not there.all():
        notes.append(f"{int((~there).sum())} of the labels given are of samples that have no answer here")
    gone = there & ~np.isin(seqs, kept)
    if gone.any():
        notes.append(
            f"{int(gone.sum())} of the labels given are of samples that were dropped: counted, but not to be learned"
        )
    good = there & (labels >= 0)
    truth = answers.truth.copy()
    truth[places[good]] = labels[good]
    return replace(answers, truth=truth)


def _index(name: str, names: Mapping[int, str]) -> int:
    """An index for a name, where no names are known; -1 for none."""
    return int(name) if not names and name.isdecimal() and len(name) < 6 else -1


def _recording(store: HostStore, device: str) -> Recording | None:
    """The segments of a device, where they are still there."""
    home = store.root / device
    try:
        found = recordings([home]) if home.is_dir() else []
    except EdgeclError:
        return None
    return found[0] if found and found[0].samples else None


def _beside(
    connection: duckdb.DuckDBPyConnection,
    lineage: Lineage,
    answers: Answers,
    kept: npt.NDArray[Any],
    recording: Recording | None,
    opened: Mapping[str, Bundle],
    options: Options,
    notes: list[str],
) -> Beside | None:
    """What the source model says, or a note that tells why that is not known."""
    if not options.before or not len(answers):
        return None
    for identity in lineage.bundles:
        if identity not in opened:
            notes.append(f"no figures before learning: {missing(_run(connection, lineage, identity), lineage.device)}")
    here = np.isin(answers.bundle, [place for place, one in enumerate(lineage.bundles) if one in opened])
    if not here.any():
        return None
    there = here & np.isin(answers.seq, kept)
    if recording is None or not there.any():
        notes.append("no figures before learning: no samples were kept; a run keeps them with --keep")
        return None
    labelled = there & answers.known
    places = source.chosen(labelled if labelled.any() else there, options.before)
    wanted = [(int(answers.seq[place]), lineage.bundles[answers.bundle[place]]) for place in places.tolist()]
    try:
        said = source.ask(recording, wanted, opened)
    except EdgeclError as error:
        notes.append(f"no figures before learning: {error}")
        return None
    if not len(said):
        notes.append("no figures before learning: the segments with the samples are not in the store any more")
        return None
    return source.beside(answers, said)


def _run(connection: duckdb.DuckDBPyConnection, lineage: Lineage, bundle: str) -> Run:
    """Enough of the last run of a bundle to say where it was deployed."""
    name, by = _row(
        connection,
        "SELECT name, settings['deployed_by'] FROM runs WHERE device = ? AND bundle = ? ORDER BY time DESC LIMIT 1",
        [lineage.device, bundle],
    )
    return Run(bundle=bundle, name=name, settings=[Setting(name="deployed_by", value=by)] if by else [])


def _stays(connection: duckdb.DuckDBPyConnection, lineage: Lineage, answers: Answers, phases: Phases) -> Stays:
    """Where the stream was: as a file says, or the routing, or the detector."""
    if told := phases.on(lineage.device, answers.seq):
        return domains.stays("phases", *told)
    numbers, place = np.unique(answers.domain, return_inverse=True)
    if len(numbers) > 1:
        names = _domain_names(connection, lineage)
        return domains.stays("domains", place, [names.get(int(one), f"domain-{one}") for one in numbers])
    rows = _shifts(connection, lineage)
    unlike = np.zeros(len(answers), np.intp)
    for seq, began in rows:
        unlike[np.searchsorted(answers.seq, seq) :] = began
    return domains.stays("shifts", unlike, ("like the source", "unlike the source"))


def _domain_names(connection: duckdb.DuckDBPyConnection, lineage: Lineage) -> dict[int, str]:
    rows = connection.execute(
        """
        SELECT domain, arg_max(name, (time, monotonic_ns)) FROM (
            SELECT device, bundle, domain, name, time, monotonic_ns FROM domains WHERE name <> '' UNION ALL
            SELECT device, bundle, kept.domain, kept.name, time, monotonic_ns
            FROM (SELECT device, bundle, time, monotonic_ns, unnest(domains) AS kept FROM runs)
        ) WHERE device = ? AND bundle IN ? GROUP BY domain
        """,
        [lineage.device, list(lineage.bundles)],
    ).fetchall()
    return {0: "source"} | {int(number): name for number, name in rows}


def _shifts(connection: duckdb.DuckDBPyConnection, lineage: Lineage) -> list[tuple[int, bool]]:
    return connection.execute(
        "SELECT seq::BIGINT, began FROM shifts WHERE device = ? AND bundle IN ? ORDER BY seq",
        [lineage.device, list(lineage.bundles)],
    ).fetchall()


def _changes(
    connection: duckdb.DuckDBPyConnection, lineage: Lineage, answers: Answers, stays: Stays
) -> list[shifts.Change]:
    """Where the stream became another one."""
    late = stays.by != "phases"
    found = [
        shifts.Change(start, stays.names[domain], late)
        for start, domain in zip(stays.starts[1:].tolist(), stays.of[1:].tolist(), strict=True)
        if stays.by != "shifts"
    ]
    if late:
        told = [(seq, "shift") for seq, began in _shifts(connection, lineage) if began]
        found += [shifts.Change(int(np.searchsorted(answers.seq, seq)), what) for seq, what in told]
    return shifts.joined([change for change in found if change.place < len(answers)])


def _evaluation(connection: duckdb.DuckDBPyConnection, gathered: Gathered, options: Options) -> Evaluation:
    lineage, answers, stays, beside = gathered.lineage, gathered.answers, gathered.stays, gathered.beside
    given = [lineage.device, list(lineage.bundles)]
    durations = connection.execute(
        "SELECT duration_ns / 1e6 AS ms, committed FROM updates WHERE device = ? AND bundle IN ?", given
    ).fetchnumpy()
    guard = tuple(
        GuardCount(*row[:3], *(columns.at(value) for value in row[3:]))
        for row in connection.execute(
            """
            SELECT action, reason, count(*) AS times, epoch_us(min(time)), epoch_us(max(time)) FROM guard
            WHERE device = ? AND bundle IN ? GROUP BY action, reason ORDER BY times DESC, action, reason
            """,
            given,
        ).fetchall()
    )
    (damaged,) = _row(connection, "SELECT count(*) FROM damaged WHERE device = ? AND bundle IN ?", given)
    learned = dict(
        connection.execute(
            "SELECT domain, count(*) FROM updates WHERE device = ? AND bundle IN ? AND committed GROUP BY domain", given
        ).fetchall()
    )
    notes = [*gathered.notes]
    if not answers.known.any():
        notes.append("no labels: bring some with --labels FILE; --suggest-labels says which are worth most")
    if skewed := figures.skewed(answers):
        notes.append(skewed)
    told = len({int(one) for one in np.unique(answers.domain)})
    (began,) = _row(connection, "SELECT count(*) FROM shifts WHERE device = ? AND bundle IN ? AND began", given)
    return Evaluation(
        device=lineage.device,
        lineage=lineage.name,
        bundles=lineage.bundles,
        learner=lineage.learner,
        runs=lineage.runs,
        answers=len(answers),
        labelled=int(answers.known.sum()),
        damaged=damaged,
        first=answers.time(int(answers.time_us.argmin())),
        last=answers.time(int(answers.time_us.argmax())),
        accuracy=figures.accuracy(answers, options.seed),
        against=figures.against(answers, beside, options.seed) if beside else None,
        over_time=tuple(windows.windows(answers, beside)),
        domains=figures.domain_figures(answers, stays, beside, learned, options.seed),
        matrix=domains.matrix(answers, stays, beside, seed=options.seed),
        novelty=figures.novelty(answers, stays, options.seed),
        calibration=figures.calibration(answers, beside, options.seed),
        recoveries=tuple(shifts.recoveries(answers, _changes(connection, lineage, answers, stays))),
        updates=int(durations["committed"].sum()),
        refused=sum(count.times for count in guard),
        guard=guard,
        latency=figures.percentiles(answers.latency_ms),
        update=figures.percentiles(durations["ms"]),
        answering_seconds=float(answers.latency_ms.sum(dtype=np.float64) / 1e3),
        learning_seconds=float(durations["ms"].sum() / 1e3),
        behaviour=figures.behaviour(answers, gathered.names, began, told, options.seed),
        notes=tuple(notes),
    )


def _row(connection: duckdb.DuckDBPyConnection, sql: str, given: Sequence[Any]) -> tuple[Any, ...]:
    found = connection.execute(sql, given).fetchone()
    assert found is not None  # each of these asks for one row
    return found
