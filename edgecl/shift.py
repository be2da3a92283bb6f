"""Tells when the stream, and not just a sample of it, has become unlike the source, and when it is like it again.

Two tests look at the similarities that the detector finds:

- the share of novel samples among the last WINDOW. A sample of the source is novel with probability 0.05, so their
  number is binomial, and the limit is the least that is exceeded once in FALSE_ALARM samples or more rarely;
- a CUSUM (Page 1954) for what is small and lasts: S <- max(0, S + min(-z, MOST) - SLACK), z the similarity in
  deviations from its mean over the source. On source samples S exceeds h after exp(theta h) samples or more on average,
  where theta solves E[exp(theta (min(-z, MOST) - SLACK))] = 1. The build finds theta on held-out samples, and stores
  h = ln(FALSE_ALARM) / theta as `drift`. (S is kept in units of h, as h may differ from sample to sample.)

The source is back when few of the window are novel, and they are no less similar than SLACK on average. A shift and its
end last WINDOW samples at least, so that a stream on the border does not flap.

Both rates are for samples that are independent of each other. Pictures of one scene are not: what is like itself
and a little unlike the source for long is told as a shift, and rightly.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from edgecl.manifest import Calibration

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
class Look:
    """One sample, as a watch sees it."""

    similarity: float
    """To what it is most like."""
    novel: bool
    deficit: float
    """Deviations that it is less similar than what belongs there; below zero, it is more."""
    drift: float
    """Limit of the CUSUM there."""


def look(calibration: Calibration, similarity: float) -> Look:
    """A sample of this similarity to what was calibrated so."""
    deficit = (calibration.mean - similarity) / calibration.deviation
    return Look(similarity, similarity < calibration.threshold, deficit, calibration.drift)


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

    def __init__(self) -> None:
        self._recent: deque[Look] = deque(maxlen=WINDOW)
        self._novel = 0  # of the recent ones
        self._sum = 0.0  # of the CUSUM, in its limit
        self._since = WINDOW
        self.rising = 0
        """Samples since the CUSUM was last at zero: when a shift is told, about as many have passed since it began."""
        self.shifted = False

    def note(self, sample: Look) -> Shift | None:
        """Look at the next sample; what it changed, if anything."""
        self._novel += sample.novel - (len(self._recent) == WINDOW and self._recent[0].novel)
        self._recent.append(sample)
        self._since += 1
        self._sum = max(0.0, self._sum + (_counted(sample) - SLACK) / sample.drift)
        self.rising = self.rising + 1 if self._sum else 0
        if self._since < WINDOW:
            return None
        if self.shifted:
            back = self._novel <= BACK and sum(map(_counted, self._recent)) <= SLACK * WINDOW
            return self._turn(False, "window") if back else None
        if self._novel > LIMIT:
            return self._turn(True, "window")
        return self._turn(True, "cusum") if self._sum > 1 else None

    def _turn(self, began: bool, test: Test) -> Shift:
        self.shifted, self._since, self._sum = began, 0, 0.0
        count = len(self._recent)
        similarity = sum(one.similarity for one in self._recent) / count
        return Shift(began, test, self._novel / count, similarity)


def _counted(sample: Look) -> float:
    return min(sample.deficit, MOST)


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


def calibrate(similarities: Sequence[float] | npt.NDArray[np.floating[Any]], digits: int = 6) -> Calibration:
    """The calibration for similarities of samples that belong, [N]; rounded, as it is stored as text."""
    found = np.asarray(similarities, np.float64)
    mean, deviation = float(found.mean()), max(round(float(found.std()), digits), 10.0**-digits)
    return Calibration(
        threshold=round(float(np.quantile(found, NOVEL)), digits),
        mean=round(mean, digits),
        deviation=deviation,
        drift=max(round(drift((found - mean) / deviation), digits), 10.0**-digits),
    )
