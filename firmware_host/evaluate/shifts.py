"""Changes of a stream, and how long it took until answers were as good again as before.

The level is a mean over the last LEVEL answers whose label is known, or else of the entropy of the last LEVEL answers.
Before a change it is the mean of up to BEFORE answers in front of the place where the change can have begun, as changes
are told late.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from firmware_host.evaluate import metrics
from firmware_host.evaluate.answers import Answers
from firmware_host.evaluate.evaluation import Recovery

LEVEL: Final = 64
BEFORE: Final = 256
"""Answers that tell the level before a change."""
MARGIN: Final = 0.05
"""Of accuracy, or of the entropy before, within which it is as good as before; more where its noise is more."""
LATE: Final = 64
"""Answers that a change may be told after it began: the window of the test (edgecl/shift.py)."""
SHOWN: Final = 500
"""Changes that are looked at: the latest ones."""


@dataclass(frozen=True)
class Change:
    """The stream has become another one."""

    place: int
    """Of the answer where it was told."""
    what: str
    told_late: bool = True


def joined(changes: list[Change]) -> list[Change]:
    """In their order, without those that follow another within LATE answers: they are of one and the same change."""
    found: list[Change] = []
    for change in sorted(changes, key=lambda change: change.place):
        if found and change.place - found[-1].place < LATE:
            if found[-1].what == "shift":
                found[-1] = Change(found[-1].place, change.what, found[-1].told_late)
            continue
        found.append(change)
    return found


def recoveries(answers: Answers, changes: list[Change]) -> list[Recovery]:
    """What came of each change until the next one."""
    known = np.flatnonzero(answers.known)
    right = _Level("accuracy", known, answers.correct[known])
    unsure = _Level("entropy", np.arange(len(answers)), np.nan_to_num(answers.entropy))
    found = []
    shown = changes[-SHOWN:]
    ends = [*(change.place for change in shown), len(answers)][1:]
    last = changes[-SHOWN - 1].place if len(changes) > SHOWN else 0
    for change, end in zip(shown, ends, strict=True):
        start = max(last, change.place - LATE) if change.told_late else change.place
        for level in (right, unsure):
            if level.tells(last, start, end):
                found.append(_one(answers, change, level, last, start, end))
                break
        last = change.place
    return found


class _Level:
    """How good answers were, by one figure."""

    def __init__(self, by: Literal["accuracy", "entropy"], places: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """`values` stand at these places of answers."""
        self.by, self.places, self._values = by, places, values.astype(np.float64)
        self.recent = metrics.sliding(values, LEVEL)

    def tells(self, last: int, start: int, end: int) -> bool:
        """Whether there are values enough on both sides of `start`."""
        low, here, high = np.searchsorted(self.places, (last, start, end)).tolist()
        return bool(here - low >= LEVEL // 2 and high - here >= LEVEL // 2)

    def before(self, last: int, start: int) -> tuple[float, float]:
        """The mean in front of `start`, and how far from it a level is still the same: two deviations of its noise."""
        low, here = np.searchsorted(self.places, (last, start)).tolist()
        values = self._values[max(low, here - BEFORE) : here]
        noise = 2 * float(values.std()) / LEVEL**0.5
        mean = float(values.mean())
        return mean, max(MARGIN * (1 if self.by == "accuracy" else mean), noise)


def _one(answers: Answers, change: Change, level: _Level, last: int, start: int, end: int) -> Recovery:
    """What came of a change between the place where it can have begun and the next one."""
    first, behind = np.searchsorted(level.places, (start, end)).tolist()
    recent, places = level.recent[first:behind], level.places[first:behind]
    before, margin = level.before(last, start)
    if level.by == "accuracy":
        bad, worst = recent < before - margin, float(recent.min())
    else:
        bad, worst = recent > before + margin, float(recent.max())
    left = int(bad.argmax())
    count: int | None = 0
    seconds: float | None = 0.0
    if bad.any():
        begun = int(places[left]) if change.told_late else change.place
        back = left + int((~bad[left:]).argmax())
        count = seconds = None
        if not bad[back]:
            count = int(places[back]) - begun
            seconds = max(0.0, float(answers.time_us[places[back]] - answers.time_us[begun]) / 1e6)
    return Recovery(
        seq=int(answers.seq[change.place]),
        time=answers.time(change.place),
        what=change.what,
        by=level.by,
        before=before,
        worst=worst,
        answers=count,
        seconds=seconds,
    )
