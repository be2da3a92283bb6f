"""What zero-cost scores (edgecl/proxies.py) take of an adaptor: gradients, codes and tangents on a few batches.

Each is computed for the adaptor's own pieces, on an encoder that stays as it is: nothing is drawn anew in it, and no
normalisation sees a batch. export/search.py puts them together.
"""

from collections.abc import Callable, Sequence
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


def gradients_of(model: Model, pieces: Pieces, batches: Sequence[tuple[Tensor, Tensor]]) -> Pieces:
    """Gradients of the mean cross-entropy by piece, those of all batches (x, y [B, C]) stacked: what `zico` takes."""
    found: list[tuple[Tensor, ...]] = []
    for x, y in batches:
        params = leaves(pieces, list(pieces))
        found.append(torch.autograd.grad(cross_entropy(model(params, x), y).mean(), list(params.values())))
    return {name: torch.stack(list(gs)) for name, gs in zip(pieces, zip(*found, strict=True), strict=True)}


def codes_of(model: Model, pieces: Pieces, x: Tensor) -> list[Tensor]:
    """What `naswot` takes: of every ReLU and clamp that the model runs, its own and the adaptor's."""
    gates = Gates()
    with torch.no_grad(), gates:
        model(pieces, x)
    return [(value > 0).flatten(1) for value in gates.inputs]


def jacobian_of(model: Model, pieces: Pieces, x: Tensor) -> Tensor:
    """What `condition` takes, [B, P]."""
    rows = []
    for sample in x.split(1):  # type: ignore[no-untyped-call]
        params = leaves(pieces, list(pieces))
        gs = torch.autograd.grad(model(params, sample).sum(), list(params.values()))
        rows.append(torch.cat([g.reshape(-1) for g in gs]))
    return torch.stack(rows)


class Gates(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the inputs of activations, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inputs: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (aten.relu.default, aten.hardtanh.default):
            self.inputs.append(args[0])
        return func(*args, **(kwargs or {}))
