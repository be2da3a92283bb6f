"""One simulated board, from its first sample to its last: the board's own loop, in a state directory of its own.

Time, boots, drifts, labels and power cuts are drawn from the seed and the number of the board, and the loop learns in
step with its answers: so the same board is the same to the byte, whoever simulates it.
"""

import hashlib
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import disk
from edgecl.bundle import Bundle, open_in_place
from edgecl.journal import Guard, Prediction, Record, Update
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.settings import Settings
from firmware_host.simulate import schedule
from firmware_host.simulate.clock import SimulatedClock
from firmware_host.simulate.data_set import UNKNOWN, DataSet
from firmware_host.simulate.drifts import DRIFTS

SOURCE: Final = "simulated"
FIRST_DAY_NS: Final = 1_767_571_200 * 10**9
"""Midnight of 5 January 2026, UTC, a Monday."""
DAY_NS: Final = 86_400 * 10**9
HOUR_NS: Final = 3_600 * 10**9
PHASES: Final = "phases.csv"
"""Beside the journal: which drift was really there, from which answer on, as `edgecl evaluate --phases` takes it."""
CLEAN: Final = "clean"
SEEN: Final = 0.25
"""Severity from which a drift counts as there."""
EVERY_NS: Final = 250_000_000
"""Between two samples, about."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What all boards of a fleet have in common."""

    seed: int
    samples: int
    """Each."""
    days: int
    """Over which its samples are spread, a part each morning."""
    labels: float
    """Share of samples whose labels somebody tells the morning after."""
    power_cuts: float
    """Of a board, on the average."""
    keep_bytes: int
    drifts: tuple[str, ...]
    """That may come."""
    blind: bool
    """Whether the journal is not told the true labels."""
    learned: bool
    """Whether what was learned is kept beside the journal."""
    checkpoint_every: int
    bundle: str
    """Id."""
    data: str
    """Digest."""


@dataclass(frozen=True)
class Order:
    """One board to be simulated."""

    number: int
    name: str
    settled: Settled
    bundle: Path
    """Verified and tested files."""
    data: Path
    into: Path
    """Its folder, which is there when it is whole."""
    scratch: Path


class Lived(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one board; a line of `--json`."""

    device: str
    pattern: str
    drifts: tuple[str, ...]
    samples: int
    """Of the source; those answered again after a power cut count once."""
    answers: int
    updates: int
    refused: int
    labels: int
    """That were learned."""
    power_cuts: int
    domains: int
    bytes: int
    seconds: float
    """Of this machine's time."""


@dataclass
class _Tally:
    answers: int = 0
    updates: int = 0
    refused: int = 0

    def note(self, record: Record) -> None:
        self.answers += isinstance(record, Prediction)
        self.updates += isinstance(record, Update) and record.committed
        self.refused += isinstance(record, Guard)


def live(order: Order) -> Lived:
    """Simulate one board. Raises EdgeclError."""
    start = time.perf_counter()
    disk.remove(order.scratch)
    order.scratch.mkdir(parents=True)
    life = _Life(order)
    while life.goes_on:
        life.run()
    kept = ["journal", "samples", *(["learned"] if order.settled.learned else [])]
    whole = order.scratch / "whole"
    whole.mkdir()
    for name in kept:
        if (order.scratch / name).is_dir():
            (order.scratch / name).rename(whole / name)
    (whole / PHASES).write_text(life.phases(), "utf-8")
    size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    whole.rename(order.into)
    disk.remove(order.scratch)
    return life.lived(size, time.perf_counter() - start)


@dataclass
class _Life:
    order: Order
    tally: _Tally = field(default_factory=_Tally)
    told: int = 0
    """Labels."""
    boots: int = 1
    domains: int = 1

    def __post_init__(self) -> None:
        settled = self.order.settled
        chance = np.random.default_rng([settled.seed, self.order.number])
        self._data, self._bundle = _data(self.order.data), _bundle(self.order.bundle)
        self._drifts = DRIFTS[self._bundle.manifest.input.kind]
        self.schedule = schedule.draw(chance, settled.samples, settled.drifts)
        self._picks = _picks(chance, self._data, settled.samples)
        self._labelled = chance.random(settled.samples) < settled.labels
        cuts = int(chance.poisson(settled.power_cuts))
        self._cuts = deque(sorted(chance.integers(1, max(2, settled.samples), cuts).tolist()))
        self._morning_ns = int((5 + 4 * chance.random()) * HOUR_NS)
        self._clock = SimulatedClock(chance, FIRST_DAY_NS + self._morning_ns)
        self._chance = chance
        self._waiting: list[tuple[int, str]] = []
        self._day = 0
        self._phases: list[tuple[int, str]] = []
        self.goes_on = True

    def run(self) -> None:
        """From a start of the board to its end, or to a power cut."""
        order, settled = self.order, self.order.settled
        loop = Loop(
            self._bundle,
            order.scratch,
            Settings(
                sync=True,
                wait=True,
                checkpoint_every=settled.checkpoint_every,
                budget_bytes=0,  # of a process that simulates many boards
                seed=order.number,
                keep_bytes=settled.keep_bytes,
            ),
            source=SOURCE,
            told={"simulated": f"seed {settled.seed}, board {order.number}, {self.schedule.pattern}"},
            clock=self._clock,
            boot=hashlib.sha256(f"{settled.seed} {order.number} {self.boots}".encode()).hexdigest()[:32],
            on_record=self.tally.note,
        )
        with loop:
            first = True
            for position in range(loop.place.position, settled.samples):
                self._wake_up(loop, position)
                y = int(self._data.y[self._picks[position]])
                truth = None if y == UNKNOWN or settled.blind else y
                answer = loop.predict(self._sample(position), position=position, y=truth)
                self._note_phase(answer.seq, position)
                if first:  # numbers of answers that a power cut took away are given again
                    self._waiting = [one for one in self._waiting if one[0] < answer.seq]
                    first = False
                if self._labelled[position] and y != UNKNOWN:
                    self._waiting.append((answer.seq, self._bundle.manifest.classes[y]))
                self._clock.advance(int(EVERY_NS * (0.8 + 0.4 * self._chance.random())))
                if self._cuts and position >= self._cuts[0]:
                    self._cuts.popleft()
                    self.boots += 1
                    loop.abandon()
                    self._clock.reboot(int((30 + 300 * self._chance.random()) * 10**9))
                    return
            self._tell(loop)
            self.domains = loop.domains
        self.goes_on = False

    def lived(self, size: int, seconds: float) -> Lived:
        """What became of it."""
        return Lived(
            device=self.order.name,
            pattern=self.schedule.pattern,
            drifts=tuple(dict.fromkeys(stretch.drift for stretch in self.schedule.stretches)),
            samples=self.order.settled.samples,
            answers=self.tally.answers,
            updates=self.tally.updates,
            refused=self.tally.refused,
            labels=self.told,
            power_cuts=self.boots - 1,
            domains=self.domains,
            bytes=size,
            seconds=seconds,
        )

    def phases(self) -> str:
        """CSV."""
        rows = "".join(f"{self.order.name},{seq},{name}\n" for seq, name in self._phases)
        return f"device,seq,domain\n{rows}"

    def _note_phase(self, seq: int, position: int) -> None:
        name = "+".join(drift for drift, severity in self.schedule.at(position) if severity >= SEEN) or CLEAN
        while self._phases and self._phases[-1][0] >= seq:  # of answers that a power cut took away
            self._phases.pop()
        if not self._phases or self._phases[-1][1] != name:
            self._phases.append((seq, name))

    def _wake_up(self, loop: Loop, position: int) -> None:
        """Where a sample is the first of a day: time passes, and somebody tells labels of the day before."""
        day = position * self.order.settled.days // self.order.settled.samples
        if day > self._day:
            self._day = day
            self._clock.until(FIRST_DAY_NS + day * DAY_NS + self._morning_ns)
            self._tell(loop)

    def _tell(self, loop: Loop) -> None:
        if self._waiting:
            self.told += loop.operations.label([Given(seq, name) for seq, name in self._waiting]).learned
            self._waiting = []

    def _sample(self, position: int) -> npt.NDArray[Any]:
        x: npt.NDArray[Any] = self._data.x[self._picks[position]]
        of_sample = None
        for drift, severity in self.schedule.at(position):
            of_sample = of_sample or np.random.default_rng([self.order.settled.seed, self.order.number, position])
            x = self._drifts[drift](x, severity, of_sample)
        return x


def _picks(chance: np.random.Generator, data: DataSet, samples: int) -> npt.NDArray[np.int64]:
    """Samples of the data set that a board sees: of some classes more than of others, as everywhere."""
    classes, place = np.unique(data.y, return_inverse=True)
    weights = chance.dirichlet(np.full(len(classes), 4.0)) / np.bincount(place)
    return np.asarray(chance.choice(len(data), samples, p=weights[place] / weights[place].sum()), np.int64)


_OPENED: Final[dict[Path, Bundle]] = {}
_DATA: Final[dict[Path, DataSet]] = {}
"""In a worker, which simulates one board after the other."""


def _bundle(directory: Path) -> Bundle:
    if directory not in _OPENED:
        _OPENED.clear()
        _OPENED[directory] = open_in_place(directory)
    return _OPENED[directory]


def _data(folder: Path) -> DataSet:
    if folder not in _DATA:
        _DATA.clear()
        _DATA[folder] = DataSet(folder)
    return _DATA[folder]
