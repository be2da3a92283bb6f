"""The life of one board, drawn from a seed: which drifts come when, and how badly.

* `steady`   nothing happens
* `steps`    drifts come and go at once, some of them again, with the source in between
* `slow`     one drift grows from nothing to its worst
* `seasons`  one drift comes and goes in a cycle, as the light of the year does
* `both`     a slow one, and steps above it
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

PATTERNS: Final = ("steady", "steps", "slow", "seasons", "both")
SHARES: Final = (0.15, 0.35, 0.2, 0.2, 0.1)
"""Of boards with each pattern."""
BROKEN: Final = 0.03
"""Of boards whose drifts are as bad as they get; others have between a third and two."""

Form = Literal["constant", "ramp", "cycle"]


@dataclass(frozen=True)
class Stretch:
    """One drift, for some part of a board's life."""

    drift: str
    start: int
    """First sample."""
    end: int
    severity: float
    form: Form
    period: float = 1.0
    """Samples of a cycle."""

    def at(self, position: int) -> float:
        """Its severity for a sample; 0 outside of the stretch."""
        if not self.start <= position < self.end:
            return 0.0
        if self.form == "ramp":
            return self.severity * (position - self.start) / max(1, self.end - self.start - 1)
        if self.form == "cycle":
            return self.severity * 0.5 * (1 - math.cos(2 * math.pi * (position - self.start) / self.period))
        return self.severity


@dataclass(frozen=True)
class Schedule:
    """What happens to one board."""

    pattern: str
    stretches: tuple[Stretch, ...]

    def at(self, position: int) -> list[tuple[str, float]]:
        """Drifts of a sample with their severities."""
        found = ((stretch.drift, stretch.at(position)) for stretch in self.stretches)
        return [(drift, severity) for drift, severity in found if severity > 0]


def draw(chance: np.random.Generator, samples: int, drifts: Sequence[str]) -> Schedule:
    """A schedule of some of these drifts; without any, the board is steady."""
    pattern = PATTERNS[int(chance.choice(len(PATTERNS), p=SHARES))] if drifts else "steady"
    worst = 1.0 if chance.random() < BROKEN else 0.33 + 0.33 * chance.random()
    stretches: list[Stretch] = []
    if pattern in ("slow", "both"):
        stretches.append(Stretch(str(chance.choice(drifts)), 0, samples, worst, "ramp"))
    if pattern == "seasons":
        period = samples / float(chance.choice([1, 2, 3]))
        stretches.append(Stretch(str(chance.choice(drifts)), 0, samples, worst, "cycle", period))
    if pattern in ("steps", "both"):
        stretches += _steps(chance, samples, drifts, worst)
    return Schedule(pattern, tuple(stretches))


def _steps(chance: np.random.Generator, samples: int, drifts: Sequence[str], worst: float) -> list[Stretch]:
    """Three to six parts of the life, at least every other one under a drift; a few drifts, so that some return."""
    parts = int(chance.integers(3, 7))
    some = chance.choice(drifts, min(len(drifts), 3), replace=False).tolist()
    cuts = np.linspace(0, samples, parts + 1) + chance.uniform(-0.2, 0.2, parts + 1) * samples / parts
    edges = [0, *cuts[1:-1].astype(int).tolist(), samples]
    found = []
    for place in range(parts):
        drifts_here = place % 2 == 1 or chance.random() < 0.3
        drift, severity = str(chance.choice(some)), worst * (0.8 + 0.2 * chance.random())
        if drifts_here:
            found.append(Stretch(drift, edges[place], edges[place + 1], severity, "constant"))
    return found
