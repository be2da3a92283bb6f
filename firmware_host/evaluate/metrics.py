"""Formulas, on arrays. docs/science.md has their sources, and tests hold them to scikit-learn and to hand-made cases.

Nothing here knows of boards. What cannot be told of so few numbers is not a number (nan).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Given = npt.NDArray[Any] | Sequence[float]

BINS: Final = 15
"""Of confidence, of equal width (Guo et al. 2017)."""
FADING: Final = 0.995
"""Of prequential accuracy: an answer of 139 answers ago counts half."""
_BLOCK: Final = 256
"""Answers that one product fades."""


@dataclass(frozen=True)
class Reliability:
    """Answers by their confidence."""

    edges: Floats
    counts: npt.NDArray[np.int64]
    confidence: Floats
    """Sum in each bin."""
    correct: Floats
    """Sum in each bin."""

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy, weighted by answers."""
        total = self.counts.sum()
        return float(np.abs(self.confidence - self.correct).sum() / total) if total else float("nan")


def faded(correct: Given, fading: float = FADING) -> Floats:
    """Prequential accuracy with a fading factor, behind each answer (Gama, Sebastião and Rodrigues 2013).

    S_i = c_i + a S_(i-1), N_i = 1 + a N_(i-1), and S_i / N_i is given.
    """
    values = np.asarray(correct, np.float64)
    if not len(values):
        return np.zeros(0)
    rows = -(-len(values) // _BLOCK)
    blocks = np.zeros((2, rows, _BLOCK))
    blocks[0].flat[: len(values)] = values
    blocks[1].flat[: len(values)] = 1
    behind = np.arange(_BLOCK)
    powers = np.where(behind[:, None] >= behind, float(fading) ** (behind[:, None] - behind).clip(0), 0)
    sums = blocks @ powers.T
    carried = np.zeros((2, rows))
    for row in range(1, rows):
        carried[:, row] = sums[:, row - 1, -1] + fading**_BLOCK * carried[:, row - 1]
    sums += carried[..., None] * fading ** (behind + 1.0)
    found: Floats = (sums[0] / sums[1]).reshape(-1)[: len(values)]
    return found


def sliding(correct: Given, window: int) -> Floats:
    """Mean over the last `window` answers, or as many as there are, behind each answer."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(correct, np.float64))])
    ends = np.arange(1, len(sums))
    starts = np.maximum(0, ends - window)
    found: Floats = (sums[ends] - sums[starts]) / (ends - starts)
    return found


def reliability(confidence: Given, correct: Given, bins: int = BINS) -> Reliability:
    """Answers in bins of equal width over 0 to 1, (low, high]; a confidence that is no number counts nowhere."""
    edges = np.linspace(0, 1, bins + 1)
    values = np.asarray(confidence, np.float64)
    sure = np.isfinite(values)
    values, right = values[sure], np.asarray(correct, np.float64)[sure]
    places = bin_of(values, bins)
    return Reliability(
        edges,
        np.bincount(places, minlength=bins),
        sums(places, bins, values),
        sums(places, bins, right),
    )


def sums(places: Given, size: int, values: Given | None = None) -> Floats:
    """The sum of the values at each place, or how many there are."""
    found: Floats = np.bincount(places, values, size).astype(np.float64)
    return found


def bin_of(confidence: Given, bins: int = BINS) -> npt.NDArray[np.intp]:
    """The bin of each confidence."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(inner, np.asarray(confidence, np.float64), side="left")


def auroc(inside: Given, outside: Given) -> float:
    """Probability that one of `inside` scores above one of `outside`, ties counted half (Mann and Whitney)."""
    if not len(inside) or not len(outside):
        return float("nan")
    ordered = np.sort(np.asarray(outside, np.float64))
    values = np.asarray(inside, np.float64)
    below = np.searchsorted(ordered, values, side="left").sum(dtype=np.float64)
    equal = np.searchsorted(ordered, values, side="right").sum(dtype=np.float64) - below
    return float((below + equal / 2) / (len(values) * len(ordered)))


def fpr95(inside: Given, outside: Given) -> float:
    """Share of `outside` that scores as high as the threshold which 95 % of `inside`, or just more, reach."""
    if not len(inside) or not len(outside):
        return float("nan")
    ordered = np.sort(np.asarray(inside, np.float64))[::-1]
    threshold = ordered[int(np.ceil(0.95 * len(ordered))) - 1]
    return float((np.asarray(outside, np.float64) >= threshold).mean())


def jensen_shannon(one: Given, other: Given) -> float:
    """Distance of two distributions given as counts, 0 to 1: root of the divergence in bits (Endres, Schindelin)."""
    p, q = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if not p.sum() or not q.sum():
        return float("nan")
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)
    return float(np.sqrt(max(0.0, terms.sum() / 2)))


# Of a matrix R [phases, domains]: accuracy on domain j in phase i, nan where it was not measured. Where every phase
# measures every domain, and phase i is that of domain i, these are the formulas of the papers.


def average_accuracy(matrix: Given) -> float:
    """Mean over domains of the latest figure (Lopez-Paz and Ranzato 2017: mean of the last row)."""
    found = [column[-1] for column in _columns(matrix) if len(column)]
    return float(np.mean(found)) if found else float("nan")


def forgetting(matrix: Given, learned: Given) -> float:
    """Mean of the best figure before the last one, minus the last (Chaudhry et al. 2018).

    `learned` [domains] is the phase in which a domain was first learned: figures before it are none that can be
    forgotten. Domains without two figures from there on count nowhere.
    """
    found = [column[:-1].max() - column[-1] for column in _columns(matrix, learned) if len(column) > 1]
    return float(np.mean(found)) if found else float("nan")


def backward_transfer(matrix: Given, learned: Given) -> float:
    """Mean of the last figure minus that of the phase in which the domain was learned (Lopez-Paz and Ranzato 2017)."""
    found = [column[-1] - column[0] for column in _columns(matrix, learned) if len(column) > 1]
    return float(np.mean(found)) if found else float("nan")


def forward_transfer(entered: Given, baseline: Given) -> float:
    """Mean of the accuracy on a domain before it is learned, minus a baseline's (Lopez-Paz and Ranzato 2017).

    `entered` [domains] is R_(i-1, i), and both are nan for domains that count nowhere, the first one among them.
    """
    gains = np.asarray(entered, np.float64) - np.asarray(baseline, np.float64)
    gains = gains[np.isfinite(gains)]
    return float(gains.mean()) if len(gains) else float("nan")


def robust_deviations(values: Given) -> Floats:
    """Distance of each from the median, in robust deviations: 1.4826 times the median distance. nan stays nan."""
    given = np.asarray(values, np.float64)
    known = given[np.isfinite(given)]
    if not len(known):
        return np.full(len(given), np.nan)
    middle = np.median(known)
    spread = 1.4826 * np.median(np.abs(known - middle))
    if not spread:
        spread = 1.2533 * np.abs(known - middle).mean()  # more than half are equal (Iglewicz and Hoaglin 1993)
    if not spread:
        return np.where(np.isfinite(given), 0.0, np.nan)
    found: Floats = np.abs(given - middle) / spread
    return found


def _columns(matrix: Given, learned: Given | None = None) -> list[Floats]:
    """The figures of each domain, from the phase on in which it was learned, in their order."""
    found = np.asarray(matrix, np.float64)
    starts = [0] * found.shape[1] if learned is None else [int(start) for start in learned]
    columns = [found[start:, place] for place, start in enumerate(starts)]
    return [column[np.isfinite(column)] for column in columns]
