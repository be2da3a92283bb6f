"""Sums and means as XNNPACK has them: averages over the last two of four dimensions, and products with ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from export.passes.rewrite import Rules, Site

aten = torch.ops.aten


def mean_hw(x: Tensor) -> Tensor:
    """[A, B, H, W] -> [A, B, 1, 1]."""
    mean: Tensor = aten.mean.dim(x, [2, 3], True)
    return mean


def mean_over(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """Mean over any dimensions of a tensor of at most four."""
    over = sorted({d % x.dim() for d in dims}) if dims else list(range(x.dim()))
    kept = [n for d, n in enumerate(x.shape) if d not in over]
    shape = [1 if d in over else n for d, n in enumerate(x.shape)] if keepdim else kept
    if x.dim() == 4 and over[-2:] == [2, 3]:
        x, rest = mean_hw(x), over[:-2]
        if rest == [0] and x.shape[0] > 1:
            x = mean_hw(x.permute(2, 1, 0, 3))
        elif rest == [0, 1]:
            x = mean_hw(x.reshape(1, 1, x.shape[0], x.shape[1]))
        return x.reshape(shape)
    order = [d for d in range(x.dim()) if d not in over] + over
    many = 1
    for d in over:
        many *= x.shape[d]
    rows = x.permute(order) if order != sorted(order) else x
    return mean_hw(rows.reshape(1, -1, many, 1)).reshape(shape)


def linear(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [B, C] times w [O, C] transposed, plus bias [O], as a 1x1 convolution with constant weight."""
    image, kernel = x[:, :, None, None], w[:, :, None, None]
    out: Tensor = aten.convolution(image, kernel, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    return out.reshape(x.shape[0], w.shape[0])


def _count(x: Tensor, dims: Sequence[int]) -> int:
    count = 1
    for d in dims or range(x.dim()):
        count *= x.shape[d]
    return count


def sum_over(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """Sum over any dimensions; over the columns of a matrix, exactly, as a product with ones."""
    if x.dim() == 2 and [d % 2 for d in dims] == [1]:
        out = linear(x, x.new_ones(1, x.shape[1]))
        return out if keepdim else out.reshape(-1)
    return mean_over(x, dims, keepdim) * float(_count(x, dims))


def _mean_dim(site: Site, x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> Any:
    if x.dim() == 4 and keepdim and sorted(d % 4 for d in dims or []) == [2, 3]:
        return NotImplemented
    return mean_over(x, dims or [], keepdim)


def _mean(site: Site, x: Tensor, **kwargs: Any) -> Tensor:
    return mean_over(x, [])


def _sum_dim(site: Site, x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> Tensor:
    return sum_over(x, dims or [], keepdim)


def _sum(site: Site, x: Tensor, **kwargs: Any) -> Tensor:
    return sum_over(x, [])


RULES: Rules = {
    aten.mean.dim: _mean_dim,
    aten.mean.default: _mean,
    aten.sum.dim_IntList: _sum_dim,
    aten.sum.default: _sum,
}
