"""Formulas of merging, on arrays in float64. docs/science.md has their sources.

* means of vectors, by weights;
* a mean and a variance of several: the law of total variance, mean = sum w_i m_i, var = sum w_i (v_i + (m_i - mean)^2);
* sequential merging by orthogonal projection (Tang et al. 2025), of differences D_i from where all began:

      M_1 = D_1        M_t = (l_(t-1) M_(t-1) + P_(t-1)(D_t)) / l_t        l_1 = 1
      l_t = |l_(t-1) M_(t-1) + P_(t-1)(D_t)| / mean_(i<=t) |D_i|           over all pieces together

  P_(t-1) takes from the matrix of a piece what M_(t-1) has already: with M_(t-1) = sum s_k u_k v_k', s falling, and r
  the first values that make up alpha of their sum, the parts along u_i v_j' for i, j <= r, and those along u_k v_k'. So
  what is added is orthogonal to what is there. A kernel [out, in, h, w] is a matrix [out, in h w]; pieces that are no
  matrix are added as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ALPHA: Final = 0.5
"""The paper's."""

_TINY: Final = 1e-10
"""Of the largest singular value: smaller ones are zero."""

Doubles = npt.NDArray[np.float64]
Pieces = Mapping[str, Doubles]


def mean(values: Sequence[npt.NDArray[Any]], weights: Sequence[float]) -> Doubles:
    """Weighted by `weights`, which add up to 1."""
    return np.tensordot(np.asarray(weights, np.float64), np.stack([np.asarray(one, np.float64) for one in values]), 1)


def pooled(
    means: Sequence[npt.NDArray[Any]], variances: Sequence[npt.NDArray[Any]], weights: Sequence[float]
) -> tuple[Doubles, Doubles]:
    """Mean and variance of a mixture of populations of these."""
    middle = mean(means, weights)
    return middle, mean(variances, weights) + mean(
        [(np.asarray(one, np.float64) - middle) ** 2 for one in means], weights
    )


def shares(counts: Sequence[float]) -> list[float]:
    """Counts as weights; equal ones where all counts are zero."""
    total = float(sum(counts))
    return [one / total for one in counts] if total > 0 else [1 / len(counts)] * len(counts)


def sequential(differences: Sequence[Pieces], alpha: float = ALPHA) -> dict[str, Doubles]:
    """M_t after the last of them; all have the same pieces."""
    merged = {name: np.asarray(one, np.float64) for name, one in differences[0].items()}
    scale, norms = 1.0, [_norm(merged)]
    for one in differences[1:]:
        norms.append(_norm(one))
        sums = {name: scale * merged[name] + projected(one[name], merged[name], alpha) for name in merged}
        size, usual = _norm(sums), float(np.mean(norms))
        if not size or not usual:
            return {name: np.zeros_like(value) for name, value in sums.items()}
        scale = size / usual
        merged = {name: value / scale for name, value in sums.items()}
    return merged


def projected(difference: npt.NDArray[Any], merged: npt.NDArray[Any], alpha: float = ALPHA) -> Doubles:
    """P of a difference, against what is merged so far."""
    given = np.asarray(difference, np.float64)
    if given.ndim < 2:
        return given
    matrix, there = given.reshape(len(given), -1), np.asarray(merged, np.float64).reshape(len(given), -1)
    u, s, vt = np.linalg.svd(there, full_matrices=False)
    rank = int((s > _TINY * s[0]).sum()) if s.size and s[0] > 0 else 0
    if not rank:
        return given
    u, s, vt = u[:, :rank], s[:rank], vt[:rank]
    first = int(np.argmax(np.cumsum(s) / s.sum() > alpha)) if alpha < 1 else rank
    along = u.T @ matrix @ vt.T
    taken = np.diag(np.diag(along))
    taken[:first, :first] = along[:first, :first]
    result: Doubles = (matrix - u @ taken @ vt).reshape(given.shape)
    return result


def _norm(pieces: Pieces) -> float:
    return float(np.sqrt(sum(float((np.asarray(one, np.float64) ** 2).sum()) for one in pieces.values())))
