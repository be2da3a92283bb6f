"""Tells when the stream, and not just a sample of it, has become unlike the source, and when it is like it again.

Two tests look at the similarities that the detector finds:

- the share of novel samples among the last WINDOW. A sample of the source is novel with probability 0.05, so their
  number is binomial, and the limit is the least that is exceeded once in FALSE_ALARM samples or more rarely;
- a CUSUM (Page 1954) for what is small and lasts: S <- max(0, S + min(-z, MOST) - SLACK), z the similarity in
  deviations from its mean over the source. On source samples S exceeds h after exp(theta h) samples or more on average,
  where theta solves E[exp(theta (min(-z, MOST) - SLACK))] = 1. The build finds theta on held-out samples, and stores
  h = ln(FALSE_ALARM) / theta as `drift`.

The source is back when few of the window are novel, and they are no less similar than SLACK on average. A shift and its
end last WINDOW samples at least, so that a stream on the border does not flap.

Both rates are for samples that are independent of each other. Pictures of one scene are not: what is like itself
and a little unlike the source for long is told as a shift, and rightly.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from edgecl.detector import Likeness
from edgecl.manifest import Detector as Record

NOVEL: Final = 0.05
"""Share of source samples below the detector's threshold."""
FALSE_ALARM: Final = 100_000
"""Samples like the source between two false alarms of one test, on average, at least."""
WINDOW: Final = 64
SLACK: Final = 0.5
"""Deviations that are no shift."""
MOST: Final = 4.0
"""Deviations that one sample counts at most: a single odd one is no shift."""
_STEEPEST: Final = 64.0
"""No theta is sought above: it is a shift of almost nothing then."""

Test = Literal["window", "cusum"]


@dataclass(frozen=True)
class Shift:
    """The stream has changed its side."""

    began: bool
    """Unlike the source from now on; or like it again."""
    test: Test
    """Which test told; that the source is back, always the window."""
    share: float
    """Of novel samples in the window."""
    similarity: float
    """Mean over the window."""


class Watch:
    """Looks at one stream, from its start or anywhere in it."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._recent: deque[Likeness] = deque(maxlen=WINDOW)
        self._novel = 0  # of the recent ones
        self._sum = 0.0
        self._since = WINDOW
        self.shifted = False

    def note(self, likeness: Likeness) -> Shift | None:
        """Look at the next sample; what it changed, if anything."""
        self._novel += likeness.novel - (len(self._recent) == WINDOW and self._recent[0].novel)
        self._recent.append(likeness)
        self._since += 1
        self._sum = max(0.0, self._sum + self._deficit(likeness) - SLACK)
        if self._since < WINDOW:
            return None
        if self.shifted:
            back = self._novel <= BACK and sum(map(self._deficit, self._recent)) <= SLACK * WINDOW
            return self._turn(False, "window") if back else None
        if self._novel > LIMIT:
            return self._turn(True, "window")
        return self._turn(True, "cusum") if self._sum > self._record.drift else None

    def _deficit(self, likeness: Likeness) -> float:
        """Deviations that a sample is less similar than the source, at most MOST."""
        return min((self._record.mean - likeness.similarity) / self._record.deviation, MOST)

    def _turn(self, began: bool, test: Test) -> Shift:
        self.shifted, self._since, self._sum = began, 0, 0.0
        count = len(self._recent)
        similarity = sum(one.similarity for one in self._recent) / count
        return Shift(began, test, self._novel / count, similarity)


def limit(window: int, probability: float, once_in: int) -> int:
    """The least number that a binomial exceeds with probability 1 / once_in or less."""
    tail, number = 1.0, -1
    while tail > 1 / once_in:
        number += 1
        tail -= math.comb(window, number) * probability**number * (1 - probability) ** (window - number)
    return number


LIMIT: Final = limit(WINDOW, NOVEL, FALSE_ALARM)
"""Novel samples in a window that are still like the source: 13 of 64."""
BACK: Final = limit(WINDOW, NOVEL, 20)
"""As many or fewer novel samples, and the source is back: 6 of 64, far from LIMIT."""


def drift(deviations: Sequence[float] | npt.NDArray[np.float64], once_in: int = FALSE_ALARM) -> float:
    """The limit h of the CUSUM for similarities z, in deviations, of source samples.

    Bisects for the theta above 0 with E[exp(theta x)] = 1, x = min(-z, MOST) - SLACK, whose mean is below 0. Then
    exp(theta S) is a martingale at most, and S is above h after exp(theta h) samples or more on average (Lorden 1971).
    """
    x = np.minimum(-np.asarray(deviations, np.float64), MOST) - SLACK
    if not len(x) or x.mean() >= 0 or x.max() <= 0:
        return MOST * WINDOW
    low, high = 0.0, _STEEPEST
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if np.exp(middle * x).mean() < 1 else (low, middle)
    return math.log(once_in) / high
