"""Optimizers as pure functions, so that they compile into the step.

Parameters, gradients and slots in, new ones out.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from export.learners import Pieces

LR_BATCH = 64
"""Samples that learning rates are given for, as in the papers."""


def paced(lr: Tensor, x: Tensor) -> Tensor:
    """The learning rate for a batch of this size: proportional to it (Goyal et al. 2017, the linear scaling rule)."""
    return lr * (len(x) / LR_BATCH)


def gradients(loss: Tensor, leaves: Pieces) -> Pieces:
    """Gradient of a scalar loss with respect to each leaf."""
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def leaves(theta: Pieces, names: Sequence[str]) -> Pieces:
    """The pieces named, as leaves that a gradient can be taken of."""
    return {name: theta[name].detach().requires_grad_(True) for name in names}


def _flat(pieces: Pieces) -> Tensor:
    return torch.cat([piece.detach().reshape(-1) for piece in pieces.values()])


def _like(flat: Tensor, pieces: Pieces) -> Pieces:
    sizes = [piece.numel() for piece in pieces.values()]
    parts = torch.split(flat, sizes)
    return {name: part.reshape(piece.shape) for (name, piece), part in zip(pieces.items(), parts, strict=True)}


def sgd(theta: Pieces, grads: Pieces, slots: Pieces, *, lr: Tensor, momentum: Tensor) -> tuple[Pieces, Pieces]:
    """SGD with momentum: v' = momentum v + g, theta' = theta - lr v' (as torch.optim.SGD). Slot: `momentum`."""
    velocity = momentum * slots["momentum"] + _flat(grads)
    return _like(_flat(theta) - lr * velocity, theta), {"momentum": velocity}


def sgd_slots(theta: Pieces) -> Pieces:
    """The slots of `sgd`, as built."""
    return {"momentum": torch.zeros_like(_flat(theta))}


def adam(
    theta: Pieces,
    grads: Pieces,
    slots: Pieces,
    *,
    lr: Tensor,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[Pieces, Pieces]:
    """Adam (Kingma and Ba 2015, Algorithm 1). Slots: `m`, `v`, and beta1^t, beta2^t in `decay`."""
    g = _flat(grads)
    m = beta1 * slots["m"] + (1 - beta1) * g
    v = beta2 * slots["v"] + (1 - beta2) * g * g
    decay = slots["decay"] * torch.tensor([beta1, beta2], dtype=g.dtype)
    correction = 1 - decay
    step = (m / correction[:1]) / (torch.sqrt(v / correction[1:]) + eps)
    return _like(_flat(theta) - lr * step, theta), {"m": m, "v": v, "decay": decay}


def adam_slots(theta: Pieces) -> Pieces:
    """The slots of `adam`, as built."""
    zeros = torch.zeros_like(_flat(theta))
    return {"m": zeros, "v": zeros.clone(), "decay": torch.ones(2, dtype=zeros.dtype)}
