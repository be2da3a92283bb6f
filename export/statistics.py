"""Batch normalisation whose statistics follow the input as far as it differs from the source by more than chance.

With x [B, C, H, W], its batch mean m and variance v, and the running mean and var of the stream:

    d = m - mean    mean' = mean + a d    var' = var + a (v - var) + a (1 - a) d^2    a = 1 - exp(-B / memory)

so the running pair is that of a mixture over the last `memory` samples, whatever the batch size. A fixed small rate
is the robust form of RoTTA (Yuan et al. 2023, Eq. 3); a = 1 is batch normalisation in training mode. What normalises
is the running pair drawn towards the source pair (mean_0, var_0):

    mean* = mean_0 + w (mean' - mean_0)    w = max(0, 1 - noise / mean_c (mean' - mean_0)^2 / var_0)    (and var*)

the positive-part estimator of James and Stein (1961), one w a layer. `noise` is what the same distance would be on
source data by chance alone: the spread between single source images, measured at build time, over the number of
images that the average holds, B (2 - a) / a. On source data w is near 0 and the network answers as trained, at any
batch size; under a shift it is near 1. (Schneider et al. 2020 mix with a fixed w.)
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

TINY = 1e-12
"""Keeps the quotient finite where the running pair is that of the source, to the bit."""


def channels(vector: Tensor) -> Tensor:
    """A vector [C] as [1, C, 1, 1], to meet images [B, C, H, W]."""
    return vector.reshape(1, -1, 1, 1)


@dataclass(frozen=True)
class Anchor:
    """What a normalisation sees on source data."""

    mean: Tensor
    """[C]"""
    var: Tensor
    """[C], without eps."""
    eps: Tensor
    """[C]"""
    mean_spread: float = 0.0
    """Variance between images of their mean, over var, averaged over channels; 0 trusts the running mean wholly."""
    var_spread: float = 0.0
    """The same of their variance, over var^2."""

    def to(self, like: Tensor) -> "Anchor":
        """The same, in the dtype of another tensor."""
        return Anchor(self.mean.to(like), self.var.to(like), self.eps.to(like), self.mean_spread, self.var_spread)


class Pair(NamedTuple):
    """A mean and a variance, [C] each."""

    mean: Tensor
    var: Tensor


class Pace(NamedTuple):
    """How fast statistics follow, for one batch."""

    rate: Tensor
    """a, the weight of the batch in the running average."""
    share: Tensor
    """1 over the number of images that the average holds."""


def pace(memory: Tensor, batch: int) -> Pace:
    """The pace for batches of this size; `memory` is in samples."""
    rate = 1 - torch.exp(-batch / memory)
    return Pace(rate, rate / ((2 - rate) * batch))


def normalise(x: Tensor, used: Pair, gamma: Tensor, beta: Tensor, eps: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + eps) * gamma + beta.

    Gradients reach x, gamma and beta; the statistics count as constants.
    """
    scale = gamma * torch.rsqrt(used.var + eps)
    return x * channels(scale) + channels(beta - used.mean * scale)


def follow(x: Tensor, running: Pair, pace: Pace) -> Pair:
    """The running pair after a batch x [B, C, H, W]; no gradient."""
    still = x.detach()
    mean = still.mean((0, 2, 3))
    var = torch.clamp((still * still).mean((0, 2, 3)) - mean * mean, min=0.0)
    d = mean - running.mean
    step = pace.rate * d
    return Pair(running.mean + step, running.var + pace.rate * (var - running.var) + (d - step) * step)


def draw(running: Pair, anchor: Anchor, pace: Pace) -> Pair:
    """The pair to normalise with: the running one, drawn towards the source's."""
    scale = anchor.var + anchor.eps
    mean, var = running.mean - anchor.mean, running.var - anchor.var
    if not anchor.mean_spread and not anchor.var_spread:
        return running
    mean_trust = _trust((mean * mean / scale).mean(), anchor.mean_spread, pace)
    var_trust = _trust((var * var / (scale * scale)).mean(), anchor.var_spread, pace)
    return Pair(anchor.mean + mean_trust * mean, anchor.var + var_trust * var)


def _trust(distance: Tensor, spread: float, pace: Pace) -> Tensor:
    return torch.clamp(1 - spread * pace.share / (distance + TINY), min=0.0)


def measure(images: Tensor, eps: Tensor) -> Anchor:
    """The anchor of a normalisation from what enters it, [N, C, H, W], for N source images."""
    m, square = images.mean((2, 3)), (images * images).mean((2, 3))
    return from_moments(m, square, eps)


def from_moments(m: Tensor, square: Tensor, eps: Tensor) -> Anchor:
    """The same from each image's mean and mean square, [N, C] each."""
    mean = m.mean(0)
    var = square.mean(0) - mean * mean
    scale = var + eps
    around = square - 2 * m * mean + mean * mean
    mean_spread = float((m.var(0) / scale).mean())
    var_spread = float((around.var(0) / (scale * scale)).mean())
    return Anchor(mean, var, eps, mean_spread, var_spread)
