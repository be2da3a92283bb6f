"""Replays of many devices, a task each: what a worker is given, and what it gives back, as plain data.

A worker keeps the bundles that it has opened, so that the next device of the same bundle costs no unpacking.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from edgecl.errors import EdgeclError
from firmware_host.executor import Executor
from firmware_host.replay import what_if
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.compare import Difference
from firmware_host.replay.device import Outcome, Replay, Verdict
from firmware_host.replay.recording import Recording
from firmware_host.replay.results_file import ResultsFile
from firmware_host.replay.what_if import Result, Try

R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """What is to be done with one device."""

    recording: Recording
    given: tuple[Path, ...]
    """Bundles, or directories of them."""
    unpacked: Path
    """Where workers keep opened bundles, all the same ones."""
    tries: tuple[Try, ...] = ()
    folder: Path = Path()
    """Where the paths of the tries begin."""


class Field(msgspec.Struct, frozen=True):
    """That the two records have differently; None is nothing."""

    name: str
    recorded: str | None
    replayed: str | None


class Differs(msgspec.Struct, frozen=True, kw_only=True):
    """The first record that differs."""

    record: str
    """Kind, as in the journal."""
    step: int
    seq: int | None
    missing: str = ""
    """Who has no such record: `the board`, `the replay`; nobody."""
    fields: tuple[Field, ...]


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict that can be sent and kept; see `Verdict`."""

    device: str
    outcome: Outcome
    runs: int
    answers: int
    updates: int
    unchecked: int
    gaps: tuple[str, ...]
    notes: tuple[str, ...]
    run: int
    differs: Differs | None
    apart: float
    seconds: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What-ifs of one device."""

    device: str
    results: tuple[Result, ...]


def verify(job: Job) -> Replayed:
    """Run all of one device again. Raises EdgeclError: a file cannot be read."""
    return replayed(Replay(job.recording, _bundles(job)).verify())


def try_out(job: Job) -> Tried:
    """Answer the stream of one device with other settings. Raises EdgeclError."""
    results = what_if.what_if(job.recording, job.tries, _bundles(job), folder=job.folder)
    return Tried(device=job.recording.name, results=tuple(results))


def each(
    executor: Executor,
    function: Callable[[Job], R],
    jobs: Sequence[Job],
    kind: type[R],
    kept: ResultsFile | None,
    progress: Callable[[int], object],
) -> Iterator[tuple[Job, R | EdgeclError]]:
    """What came of each device, in their order; of those in the file, what it has. `progress`: how many were done."""
    if not kept:
        for done in executor.map(function, jobs, ordered=True, progress=progress):
            yield done.task, done.result
        return
    known = {place: found for place, job in enumerate(jobs) if (found := kept.find(mark(job, function.__name__), kind))}
    left = executor.map(function, [job for place, job in enumerate(jobs) if place not in known], ordered=True,
                        progress=progress)  # fmt: skip
    for place, job in enumerate(jobs):
        if place in known:
            yield job, known[place]
            continue
        done = next(left)
        if not isinstance(done.result, EdgeclError) and not _may_change(done.result):
            kept.add(mark(job, function.__name__), done.result)
        yield job, done.result
    for _ in left:
        pass


def _may_change(result: object) -> bool:
    """Whether another time may find what is missing now: a bundle, say."""
    return isinstance(result, Replayed) and result.outcome == "not replayable"


def mark(job: Job, what: str) -> str:
    """Differs for another device, other segments, bundles or tries."""
    told = [what, job.recording.name, *map(str, job.given), msgspec.json.encode(job.tries).decode(), str(job.folder)]
    for path in (*job.recording.segments, *job.recording.samples):
        status = path.stat()
        told.append(f"{path.parent.name}/{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def replayed(verdict: Verdict) -> Replayed:
    """The same, as plain data."""
    return Replayed(
        device=verdict.device,
        outcome=verdict.outcome,
        runs=verdict.runs,
        answers=verdict.answers,
        updates=verdict.updates,
        unchecked=verdict.unchecked,
        gaps=tuple(verdict.gaps),
        notes=tuple(verdict.notes),
        run=verdict.run,
        differs=_differs(verdict.difference) if verdict.difference else None,
        apart=verdict.apart,
        seconds=verdict.seconds,
    )


def _differs(difference: Difference) -> Differs:
    missing = "the board" if difference.recorded is None else "the replay" if difference.replayed is None else ""
    fields = [
        Field(name, *(None if one is None else str(one) for one in values))
        for name, values in difference.fields().items()
    ]
    record = difference.recorded or difference.replayed
    return Differs(
        record=type(record).__name__,
        step=difference.step,
        seq=difference.seq,
        missing=missing,
        fields=tuple(fields),
    )


_OPENED: Final[dict[tuple[Path, ...], Bundles]] = {}
"""In a worker."""


def _bundles(job: Job) -> Bundles:
    key = (job.unpacked, *job.given)
    if key not in _OPENED:
        _OPENED[key] = Bundles(job.given, (), unpacked=job.unpacked)
    homes = (job.recording.home,) if job.recording.home else ()
    return _OPENED[key].beside(homes)
