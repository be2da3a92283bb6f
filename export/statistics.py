"""Batch normalisation whose statistics follow the input: running values moved towards the batch, by a rate.

With x [B, C, H, W], batch mean m and variance v, running mean and var, and a rate a in [0, 1]:

    mean' = mean + a (m - mean)      var' = var + a (v - var)      y = (x - mean') / sqrt(var' + eps) * gamma + beta

a = 1 is batch normalisation in training mode; a fixed small a is the robust form of RoTTA (Yuan et al. 2023, Eq. 3).
"""

from typing import Any, NamedTuple

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


def adapt(
    x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: Tensor, rate: Tensor
) -> Normalised:
    """Move the statistics towards the batch and normalise with them. Gradients reach x, gamma and beta."""
    return Normalised(*_Adapt.apply(x, mean, var, gamma, beta, eps, rate))


class _Adapt(torch.autograd.Function):
    """The batch part of mean' and var' depends on x, so the gradient carries both terms, each times the rate.

    Written as products and means of x and g, which is what XNNPACK runs. Checked against autograd in the tests.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, var: Tensor, gamma: Tensor, beta: Tensor, eps: Tensor, rate: Tensor) -> Any:
        m = x.mean((0, 2, 3))
        v = torch.clamp((x * x).mean((0, 2, 3)) - m * m, min=0.0)
        mean, var = mean + rate * (m - mean), var + rate * (v - var)
        r = torch.rsqrt(var + eps)
        scale = gamma * r
        ctx.save_for_backward(x, m, mean, r, scale, rate)
        ctx.mark_non_differentiable(mean, var)
        return x * channels(scale) + channels(beta - mean * scale), mean, var

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        x, m, mean, r, scale, rate = ctx.saved_tensors
        g = upstream[0]
        n = x.numel() // x.shape[1]
        g_mean, gx_mean = g.mean((0, 2, 3)), (g * x).mean((0, 2, 3))
        along = gx_mean - mean * g_mean  # mean of g (x - mean')
        slope = -rate * r * r * scale * along
        offset = -rate * scale * g_mean - slope * m
        g_x = g * channels(scale) + (x * channels(slope) + channels(offset))
        return g_x, None, None, along * r * n, g_mean * n, None, None
