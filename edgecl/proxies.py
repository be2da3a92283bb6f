"""Zero-cost scores: what gradients and activations of a few samples say of how well an adaptor would learn.

The formulas alone, on arrays: the host computes their inputs with PyTorch (export/proxies.py), the board with a `score`
method (`edgecl/forms.py`). docs/science.md says what they are worth.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

WORST: Final = -math.inf
"""The score of what cannot be scored: no number would put it in its place among others."""


def zico(gradients: Mapping[str, Floats], *, signed: bool = False) -> float:
    """sum over layers l of ln sum over weights w in l of E|g_w| / sd(|g_w|) (Li et al. 2023, ZiCo, Eq. 15).

    `gradients`: by layer, those of N >= 2 batches, [N, ...]; sd over N, not corrected. Weights without deviation are
    left out, and so is a layer that has no others. `signed` takes sd(g_w), which the authors' code computes. Higher is
    better; -inf when nothing is left.
    """
    layers = []
    for g in gradients.values():
        size, deviation = np.abs(g).mean(0), (g if signed else np.abs(g)).std(0)
        moves = deviation != 0
        if moves.any():
            layers.append(math.log(float((size[moves] / deviation[moves]).sum())))
    return sum(layers) if layers else WORST


def naswot(codes: Sequence[npt.NDArray[np.bool_]]) -> float:
    """ln det K, K_ij = units that are on in both or off in both (Mellor et al. 2021, Eq. 2: N_A less Hamming distance).

    `codes`: of groups of units, whether the input of each activation is above zero, [B, units]. Higher is better; -inf
    without units, or where two samples have the same code.
    """
    if not sum(code.shape[1] for code in codes):
        return WORST
    k = np.zeros((len(codes[0]), len(codes[0])))
    for code in codes:
        on = code.astype(np.float32)
        k += on @ on.T + (1 - on) @ (1 - on).T
    sign, logarithm = np.linalg.slogdet(k)
    return float(logarithm) if sign > 0 else WORST


def condition(jacobian: Floats) -> float:
    """lambda_max / lambda_min of the neural tangent kernel G G^T (Chen et al. 2021, TE-NAS, section 3.1.1).

    `jacobian` G [B, P]: of each sample's summed logits, float32 or as exact as float32. Lower is better; inf where the
    kernel is singular, as it is when there are fewer parameters than samples.
    """
    g = jacobian.astype(np.float64)
    values = np.linalg.eigvalsh(g @ g.T)
    singular = values[0] <= values[-1] * len(g) * np.finfo(np.float32).eps
    return math.inf if singular else float(values[-1] / values[0])


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each from 0, the highest first; those that are equal share the mean of their places."""
    return [sum(other > value for other in values) + (sum(o == value for o in values) - 1) / 2 for value in values]


def rank_sums(scores: Sequence[tuple[float, float, float]]) -> list[float]:
    """Place from 0 of each (ZiCo, NASWOT, kappa), by the sum of the ranks of ZiCo, NASWOT and -kappa; 0 is best."""
    columns = zip(*((one, other, -kappa) for one, other, kappa in scores), strict=True)
    sums = [sum(three) for three in zip(*(ranks(column) for column in columns), strict=True)]
    return ranks([-total for total in sums])
