"""Batch normalisation whose statistics follow the input: running values moved towards the batch, by a rate.

With x [B, C, H, W], batch mean m and variance v, running mean and var, and a rate a in [0, 1]:

    mean' = mean + a (m - mean)      var' = var + a (v - var)      y = (x - mean') / sqrt(var' + eps) * gamma + beta

a = 1 is batch normalisation in training mode; a fixed small a is the robust form of RoTTA (Yuan et al. 2023, Eq. 3).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from export.encoder import channels


class Normalised(NamedTuple):
    """The normalised batch, and the statistics to go on with ([C] each)."""

    y: Tensor
    mean: Tensor
    var: Tensor


def normalise(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: Tensor) -> Tensor:
    """Normalise with the statistics given, changing none: how a batch of any size is answered."""
    scale = gamma * torch.rsqrt(var + eps)
    return x * channels(scale) + channels(beta - mean * scale)


def adapt(x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: Tensor, rate: Tensor) -> Normalised:
    """Move the statistics towards the batch and normalise with them.

    Gradients reach x, gamma and beta; the statistics count as constants, which spares the way back three passes over x.
    """
    still = x.detach()
    m = still.mean((0, 2, 3))
    v = torch.clamp((still * still).mean((0, 2, 3)) - m * m, min=0.0)
    mean, var = mean + rate * (m - mean), var + rate * (v - var)
    return Normalised(normalise(x, mean, var, gamma, beta, eps), mean, var)
