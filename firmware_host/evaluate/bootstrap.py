"""Confidence intervals of figures of a stream, whose answers are not independent: the stationary bootstrap.

Blocks of random length, around the end if need be, are drawn from the stream until it is as long again (Politis and
Romano 1994); the mean length follows the correlation that the stream has (Politis and White 2004, as corrected by
Patton, Politis and White 2009). Figures are functions of sums over the stream, so a resample is a weight a place.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from firmware_host.evaluate import metrics
from firmware_host.evaluate.evaluation import Interval

Floats = npt.NDArray[np.float64]
Figure = Callable[[Floats], Floats]
"""From sums [resamples, features] to a number each."""

RESAMPLES: Final = 600
COVERED: Final = 0.95
LEAST: Final = 50
"""Answers below which there is no interval."""
_CELLS: Final = 1024
"""Places of a longer stream are put together, neighbours with neighbours, until there are no more than these."""
_AT_ONCE: Final = 1 << 22
"""Blocks that are drawn at once."""


def cells(n: int) -> npt.NDArray[np.intp]:
    """The cell that each of n places belongs to."""
    return np.arange(n) // max(1, -(-n // _CELLS))


def interval(features: Floats, figure: Figure, along: Floats, n: int, *, seed: int = 0) -> Interval:
    """The interval of `figure(sums over the stream)`, of features [cells, F] that are sums over each of its cells.

    `along` [cells] is the series that the length of blocks is taken from, and `n` how many answers it is of. The same
    numbers give the same interval.
    """
    value = float(figure(features.sum(0, keepdims=True))[0])
    if n < LEAST or not np.isfinite(value):
        return Interval(value)
    length = block_length(along)
    found = np.concatenate([figure(part @ features) for part in _weights(len(features), length, seed)])
    found = found[np.isfinite(found)]
    if not len(found):
        return Interval(value)
    rest = (1 - COVERED) / 2
    low, high = np.quantile(found, (rest, 1 - rest))
    return Interval(value, min(float(low), value), max(float(high), value))


def mean(values: npt.NDArray[Any], *, seed: int = 0) -> Interval:
    """The interval of a mean over the stream."""
    place = cells(len(values))
    size = int(place[-1]) + 1
    counts, found = metrics.sums(place, size), metrics.sums(place, size, np.asarray(values, np.float64))
    return interval(np.stack([found, counts], 1), ratio, found / counts, len(values), seed=seed)


def ratio(sums: Floats) -> Floats:
    """The first sum over the second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = sums[:, 0] / sums[:, 1]
    return found


def block_length(values: npt.NDArray[Any]) -> float:
    """The mean length of blocks that suits a series: 1 where its values are uncorrelated."""
    x = np.asarray(values, np.float64)
    n = len(x)
    x = x - x.mean()
    most = int(min(np.ceil(np.sqrt(n)) + max(5, np.log10(n)), n - 1))
    transformed = np.fft.rfft(x, 2 << (n - 1).bit_length())
    covariance = np.fft.irfft(np.abs(transformed) ** 2)[: min(n, 2 * most + 1)] / n
    if covariance[0] <= 1e-12 * max(1.0, float(np.abs(values).max()) ** 2):
        return 1.0
    band = 2 * np.sqrt(np.log10(n) / n)
    run = max(5, int(np.log10(n)))
    quiet = np.abs(covariance[1 : most + run + 1] / covariance[0]) < band
    silent = np.convolve(quiet, np.ones(run), "valid") == run
    lag = max(1, int(silent.argmax()) if silent.any() else most)
    """Behind it, correlations are none that could not be chance."""
    window = np.arange(1, min(2 * lag, len(covariance) - 1) + 1)
    weights = np.minimum(1, 2 * (1 - window / (2 * lag)))
    slope = 2 * float((weights * window * covariance[window]).sum())
    spectrum = float(covariance[0] + 2 * (weights * covariance[window]).sum())
    if spectrum <= 0:
        return 1.0
    best = (2 * slope**2 / (2 * spectrum**2) * n) ** (1 / 3)
    found = float(np.clip(best, 1.0, np.ceil(min(3 * np.sqrt(n), n / 3))))
    return found if found > 1.2 else 1.0  # no blocks are quicker drawn


def _weights(n: int, length: float, seed: int) -> Iterator[Floats]:
    """How often each place is drawn, [resamples, n], some resamples at a time."""
    random = np.random.default_rng(seed)
    blocks = int(np.ceil(n / length + 6 * np.sqrt(n / length))) + 1  # enough but once in 10^9
    rows = max(1, _AT_ONCE // max(blocks, n))
    for done in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - done)
        starts = random.integers(0, n, (count, blocks))
        lengths = random.geometric(1 / length, (count, blocks)) if length > 1 else np.ones((count, blocks), np.int64)
        ends = np.minimum(np.cumsum(lengths, 1), n)
        lengths = np.diff(ends, axis=1, prepend=0)
        lines = np.arange(count)[:, None] * (2 * n + 1)
        size = count * (2 * n + 1)
        edges = np.bincount((lines + starts).ravel(), minlength=size)
        edges -= np.bincount((lines + starts + lengths).ravel(), minlength=size)
        covered = np.cumsum(edges.reshape(count, -1), 1, dtype=np.float64)
        yield covered[:, :n] + covered[:, n : 2 * n]
