"""Host stores as `edgecl pull` leaves them, of journals that are made here."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgecl import journal
from edgecl.journal import Journal, Prediction, Record, Run, Stamp, Update

JUNE_NS = 1_750_000_000 * 10**9
"""15 June 2025, 15:06:40 UTC."""

BUNDLE = "ab" * 32


@dataclass
class Board:
    """A board's clocks: it boots at `wall`, ticks 10 ms a record, and may have its clock set."""

    now_ns: int = 10**9
    wall: int = JUNE_NS
    told: Stamp.Quality.ValueType = Stamp.SYNCHRONISED

    def monotonic_ns(self) -> int:
        self.now_ns += 10_000_000
        return self.now_ns

    def wall_ns(self) -> int:
        return self.wall + self.now_ns

    def quality(self) -> Stamp.Quality.ValueType:
        return self.told


def run(name: str = "door", *, bundle: str = BUNDLE, version: int = 3) -> Run:
    """A run of a bundle, whose lineage has its name."""
    return Run(bundle=bundle, name=name, lineage=name, version=version, learner="tent", seed=1, threads=1)


def answers(count: int, *, first: int = 0, seed: int = 1) -> list[Record]:
    """Predictions, and an update behind every sixteen."""
    chance, found = random.Random(seed), list[Record]()
    for seq in range(first, first + count):
        label = chance.randrange(4)
        y = chance.choice((label, chance.randrange(4), None))
        found.append(
            Prediction(
                seq=seq, label=label, confidence=chance.random(), entropy=chance.random(), step=seq // 16,
                position=seq, y=y, latency_ns=1_500_000 + chance.randrange(10**6), domain=seq // 100 % 2,
            )
        )  # fmt: skip
        if seq % 16 == 15:
            found.append(
                Update(
                    kind=Update.ADAPT, step=seq // 16 + 1, first_seq=seq - 15, last_seq=seq, committed=True,
                    report=[chance.random(), chance.random()], digest=chance.randbytes(32).hex(), duration_ns=10**7,
                )
            )  # fmt: skip
    return found


def put(
    store: Path,
    device: str,
    records: Iterable[Record],
    *,
    boot: str = "b1",
    clock: Board | None = None,
    folder: str = "journal",
    segment_bytes: int = journal.SEGMENT_BYTES,
    every: int = 20,
) -> list[Path]:
    """Journal records as a device, sealed; its segments."""
    place = store / device / folder
    with Journal(place, boot=boot, clock=clock or Board(), segment_bytes=segment_bytes) as out:
        for number, record in enumerate(records, 1):
            out.append(record)
            if number % every == 0:
                out.sync()
    return journal.segments(place)
