"""Runs the loop of a bundle over stretches of samples; keeps what it answered, and what it had learned after each.

What a run has learned is read from its checkpoints, as the next run would read it.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import journal
from edgecl.bank import SOURCE, Bank, source_bank
from edgecl.bundle import open_bundle, read_router, read_state
from edgecl.checkpoints import Checkpoints
from edgecl.clock import SystemClock
from edgecl.engine import open_program
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.preprocess import Preprocess
from edgecl.router import Router
from edgecl.settings import Settings
from edgecl.state import State

Floats = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

MINE: Final = Settings(sync=True, wait=True, checkpoint_every=1, budget_bytes=0)
"""Repeatable, with a checkpoint after every update."""


@dataclass(frozen=True)
class Stretch:
    """A part of a stream, all of one kind."""

    domain: str
    x: Floats
    y: Labels
    labels: int = 0
    """Samples at its start whose labels are told, all at once when the last of them has been answered."""


@dataclass(frozen=True)
class After:
    """What had been learned when a stretch was over."""

    bank: Bank
    states: Mapping[int, State]
    active: int
    """The domain the stream was in; one that is not in the bank answers as built."""


@dataclass(frozen=True)
class Turn:
    """What the router did, and before which sample of the stream."""

    event: int
    """As `journal.Domain` has it."""
    domain: int
    place: int


@dataclass
class Ran:
    """One run of a loop. Arrays have one entry a sample, in the order of the stream."""

    stretches: Sequence[Stretch]
    answered: list[int] = field(default_factory=list)
    """Indices of classes."""
    domains: list[int] = field(default_factory=list)
    """That answered."""
    latencies_ns: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    refused: int = 0
    """Updates that the guard did not let pass."""
    learned: int = 0
    """Labels."""
    after: list[After] = field(default_factory=list)
    """Each stretch."""
    sizes: Mapping[int, int] = field(default_factory=dict)
    """Bytes of state and signature of each domain on the disk, at the end."""
    taught: int = 0
    """Bytes of what labels left there: heads, samples to rehearse, and which have labels."""

    def note(self, record: journal.Record) -> None:
        """Keep what matters of a record."""
        if isinstance(record, journal.Prediction):
            self.answered.append(record.label)
            self.domains.append(record.domain)
            self.latencies_ns.append(record.latency_ns)
        elif isinstance(record, journal.Domain):
            self.turns.append(Turn(record.what, record.domain, len(self.answered)))
        elif isinstance(record, journal.Guard):
            self.refused += 1

    @property
    def spans(self) -> list[slice]:
        """Where each stretch lies in the stream."""
        ends = np.cumsum([len(stretch.x) for stretch in self.stretches]).tolist()
        return [slice(end - len(stretch.x), end) for end, stretch in zip(ends, self.stretches, strict=True)]

    def errors(self) -> list[float]:
        """Percent of wrong answers in each stretch."""
        return [
            100 * float(np.mean(np.array(self.answered[span]) != stretch.y))
            for span, stretch in zip(self.spans, self.stretches, strict=True)
        ]

    def founded(self) -> dict[int, str]:
        """What each domain was founded on: the kind of most samples that it answered until it was in the bank."""
        truth = np.concatenate([[stretch.domain] * len(stretch.x) for stretch in self.stretches])
        found = {}
        for turn in self.turns:
            if turn.event == journal.Domain.FOUNDED:
                here = truth[: turn.place][np.array(self.domains[: turn.place]) == turn.domain]
                names, counts = np.unique(here, return_counts=True)
                found[turn.domain] = str(names[counts.argmax()])
        return found


def run(
    bundle: Path,
    stretches: Sequence[Stretch],
    settings: Settings,
    *,
    classes: Sequence[str] | None = None,
    clock: journal.Clock | None = None,
) -> Ran:
    """The loop over a stream, from the state as built; `classes` are those of the bundle, and others to add."""
    ran = Ran(stretches)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with Loop(bundle, state, settings, on_record=ran.note, clock=clock) as loop:
            kept = Checkpoints(state / "learned" / loop.manifest.lineage)
            names = classes or loop.manifest.classes
            for name in names[len(loop.classes) :]:
                loop.operations.add_class(name)
            for stretch in stretches:
                given: list[Given] = []
                for x, y in zip(stretch.x, stretch.y, strict=True):
                    answer = loop.predict(x)
                    if len(given) < stretch.labels:
                        given.append(Given(answer.seq, names[y]))
                        if len(given) == stretch.labels:
                            ran.learned += loop.operations.label(given).learned
                found = kept.newest(loop.manifest.layout)
                if found:
                    learned, turned = found.learned, ran.domains[-1]
                    ran.after.append(After(learned.bank, learned.states, turned))
                else:
                    ran.after.append(_built(bundle))
            lineage = loop.manifest.lineage
        ran.sizes, ran.taught = _sizes(state / "learned" / lineage)
    return ran


def _built(bundle: Path) -> After:
    with open_bundle(bundle) as opened:
        record, made = opened.manifest.router, read_router(opened)
        assert record and made
        bank = source_bank(record.calibration, made.prototype, opened.manifest.features)
        return After(bank, {SOURCE: read_state(opened)}, SOURCE)


def _sizes(learned: Path) -> tuple[dict[int, int], int]:
    newest = max(learned.glob("[0-9]*.json"), default=None)
    if not newest:
        return {}, 0
    index = msgspec.json.decode(newest.read_bytes())

    def size(*names: str | None) -> int:
        return sum((learned / "objects" / f"{name}.safetensors").stat().st_size for name in names if name)

    sizes = {entry["number"]: size(entry["state"], entry["signature"]) for entry in index["domains"]}
    return sizes, size(index["rehearsal"], index["labels"], *(entry["head"] for entry in index["domains"]))


class Busy(SystemClock):
    """Counts the processor time of this thread, so that latencies do not depend on what else the machine does."""

    def monotonic_ns(self) -> int:
        return time.thread_time_ns()


class Network:
    """A bundle's compiled network with any state, outside a loop; and its router."""

    def __init__(self, path: Path, batch: int) -> None:
        self._batch = batch
        self._folder = tempfile.TemporaryDirectory()
        bundle = open_bundle(path, cache=Path(self._folder.name))
        self.built = read_state(bundle)
        self._method = f"infer_b{batch}"
        self._program = open_program(bundle.path("program.pte"), methods=[self._method], threads=1)
        self._preprocess = Preprocess(bundle.manifest.input)
        record, made = bundle.manifest.router, read_router(bundle)
        assert record and made
        self.record, self.signatures = record, made.signatures

    def look(self, state: State, x: Floats) -> tuple[Floats, Floats]:
        """Logits [N, C] and taps [N, F] of samples as a state sees them."""
        found: list[list[Floats]] = []
        for start in range(0, len(x), self._batch):
            some = [x[min(place, len(x) - 1)] for place in range(start, start + self._batch)]
            given = [state.theta] if len(state.theta) else []
            found.append(self._program.execute(self._method, [*given, self._preprocess.batch(some)]))
        logits, taps = (np.concatenate([one[place] for one in found])[: len(x)] for place in (0, 1))
        return logits, taps

    def routes(self, after: After, white: Floats, *, hysteresis: int, start: int) -> npt.NDArray[np.int64]:
        """The domain that would answer each sample of these whitened taps [N, F], in this order; learning aside."""
        router = Router(self.record, after.bank, hysteresis=hysteresis, active=start)
        signatures = np.concatenate([self.signatures.of_white(one[None]) for one in white])
        return np.array([router.note(*one).domain for one in zip(signatures, white, strict=True)])

    def close(self) -> None:
        """Free it."""
        self._program.close()
        self._folder.cleanup()
