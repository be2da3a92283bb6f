"""Measures on source data what every open normalisation of an encoder sees, so that a shift can be told from chance."""

from collections.abc import Iterable

import torch
from torch import Tensor

from export.encoder import Encoder, Norm
from export.statistics import Anchor, from_moments


def calibrate(encoder: Encoder, batches: Iterable[Tensor]) -> Encoder:
    """The same function of x, with each norm's anchor measured on float batches [B, ...] of source data.

    The statistics of training belong to augmented images; the board will see images as they are. gamma and beta take
    up the difference.
    """
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in encoder.norms]

    def norm(index: int, x: Tensor) -> Tensor:
        seen[index].append((x.mean((2, 3)), (x * x).mean((2, 3))))
        return encoder.source_norm(index, x)

    with torch.no_grad():
        for batch in batches:
            encoder(batch, norm=norm)
    norms = [
        _anchored(site, from_moments(*_joined(moments), site.anchor.eps))
        for site, moments in zip(encoder.norms, seen, strict=True)
    ]
    return Encoder(encoder.graph, norms, encoder.taps, encoder.input_shape, encoder.classes)


def _joined(moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    means, squares = zip(*moments, strict=True)
    return torch.cat(means), torch.cat(squares)


def _anchored(site: Norm, anchor: Anchor) -> Norm:
    old = site.anchor
    slope = site.gamma * torch.rsqrt(old.var + old.eps)
    gamma = slope * torch.sqrt(anchor.var + anchor.eps)
    return Norm(site.name, gamma, site.beta + slope * (anchor.mean - old.mean), anchor)
