"""Zero-cost scores: what a few batches say of how well an adaptor would learn, before it learns anything.

Each is computed for the adaptor's own pieces, on an encoder that stays as it is: nothing is drawn anew in it, and no
normalisation sees a batch. export/search.py puts them together; docs/science.md says what they are worth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from export.learners import Pieces
from export.objectives import cross_entropy
from export.optimizers import leaves

aten = torch.ops.aten

Model = Callable[[Pieces, Tensor], Tensor]
"""model(pieces, x [B, ...]): logits [B, C], differentiable in the pieces."""

WORST = -math.inf
"""The score of what cannot be scored: no number would put it in its place among others."""


def zico(gradients: Mapping[str, Tensor], *, signed: bool = False) -> float:
    """sum over layers l of ln sum over weights w in l of E|g_w| / sd(|g_w|) (Li et al. 2023, ZiCo, Eq. 15).

    `gradients`: by layer, those of N >= 2 batches, [N, ...]; sd over N, not corrected. Weights without deviation are
    left out, and so is a layer that has no others. `signed` takes sd(g_w), which the authors' code computes. Higher is
    better; -inf when nothing is left.
    """
    layers = []
    for g in gradients.values():
        size, deviation = g.abs().mean(0), (g if signed else g.abs()).std(0, correction=0)
        moves = deviation != 0
        if moves.any():
            layers.append(float(torch.log((size[moves] / deviation[moves]).sum())))
    return sum(layers) if layers else WORST


def naswot(codes: Sequence[Tensor]) -> float:
    """ln det K, K_ij = units that are on in both or off in both (Mellor et al. 2021, Eq. 2: N_A less Hamming distance).

    `codes`: of every ReLU, 1 where its input is above zero, [B, units]. Higher is better; -inf without a ReLU, or where
    two samples have the same code.
    """
    if not codes:
        return WORST
    k = torch.stack([c @ c.t() + (1 - c) @ (1 - c).t() for c in codes]).sum(0)
    sign, logarithm = torch.linalg.slogdet(k.double())
    return float(logarithm) if sign > 0 else WORST


def condition(jacobian: Tensor) -> float:
    """lambda_max / lambda_min of the neural tangent kernel G G^T (Chen et al. 2021, TE-NAS, section 3.1.1).

    `jacobian` G [B, P]: of each sample's summed logits. Lower is better; inf where the kernel is singular, as it is
    when there are fewer parameters than samples.
    """
    g = jacobian.double()
    values = torch.linalg.eigvalsh(g @ g.t())
    singular = values[0] <= values[-1] * len(g) * torch.finfo(jacobian.dtype).eps
    return math.inf if singular else float(values[-1] / values[0])


def gradients_of(model: Model, pieces: Pieces, batches: Sequence[tuple[Tensor, Tensor]]) -> Pieces:
    """Gradients of the mean cross-entropy by piece, those of all batches (x, y [B, C]) stacked: what `zico` takes."""
    found: list[tuple[Tensor, ...]] = []
    for x, y in batches:
        params = leaves(pieces, list(pieces))
        found.append(torch.autograd.grad(cross_entropy(model(params, x), y).mean(), list(params.values())))
    return {name: torch.stack(list(gs)) for name, gs in zip(pieces, zip(*found, strict=True), strict=True)}


def codes_of(model: Model, pieces: Pieces, x: Tensor) -> list[Tensor]:
    """What `naswot` takes: of every ReLU and clamp that the model runs, its own and the adaptor's."""
    gates = _Gates()
    with torch.no_grad(), gates:
        model(pieces, x)
    return gates.codes


def jacobian_of(model: Model, pieces: Pieces, x: Tensor) -> Tensor:
    """What `condition` takes, [B, P]."""
    rows = []
    for sample in x.split(1):  # type: ignore[no-untyped-call]
        params = leaves(pieces, list(pieces))
        gs = torch.autograd.grad(model(params, sample).sum(), list(params.values()))
        rows.append(torch.cat([g.reshape(-1) for g in gs]))
    return torch.stack(rows)


class _Gates(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the inputs of activations, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.codes: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (aten.relu.default, aten.hardtanh.default):
            self.codes.append((args[0] > 0).flatten(1).to(torch.float32))
        return func(*args, **(kwargs or {}))
