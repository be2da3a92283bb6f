"""Pools, and the way back through them.

The gradient of a largest value goes to every element of its window that equals it. PyTorch gives it to the first, which
is the same but for ties; after a ReLU those are zeros, whose gradient the ReLU drops.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from export.passes.gates import gate
from export.passes.reductions import mean_hw
from export.passes.rewrite import Rules, Site
from export.passes.shapes import every, spread

aten: Any = torch.ops.aten

LOWEST = -1e30
"""Around an image when its largest values are looked for."""


def _avg_pool(site: Site, x: Tensor, kernel: Sequence[int], stride: Any = None, padding: Any = 0, *rest: Any) -> Any:
    return mean_hw(x) if list(kernel) == list(x.shape[2:]) else NotImplemented


def _avg_pool_backward(
    site: Site, g: Tensor, x: Tensor, kernel: list[int], stride: list[int], padding: list[int], *rest: Any
) -> Any:
    stride = list(stride) or list(kernel)
    ceil, _, divisor = rest
    if any(padding) or ceil or divisor is not None:
        return NotImplemented
    g = g * (1.0 / (kernel[0] * kernel[1]))
    if list(kernel) == list(x.shape[2:]):
        return g * x.new_ones(1, 1, *kernel)
    taps = [(a, b, g) for a in range(kernel[0]) for b in range(kernel[1])]
    return _gather(taps, x.shape, stride)


def _adaptive_pool(site: Site, x: Tensor, size: Sequence[int]) -> Any:
    return mean_hw(x) if list(size) == [1, 1] else NotImplemented


def _max_pool_backward(
    site: Site, g: Tensor, x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil: bool, indices: Tensor,
) -> Any:  # fmt: skip
    if list(dilation) != [1, 1] or ceil:
        return NotImplemented
    y: Tensor = site.producer(7)[0]
    stride, (down, right) = list(stride) or list(kernel), padding
    around = pad(x, [right, right, down, down], value=LOWEST) if down or right else x
    taps = []
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            part = around[:, :, a : a + _reach(y, 2, stride), b : b + _reach(y, 3, stride)]
            part = every(part, 2, stride[0]) if stride[0] > 1 else part
            part = every(part, 3, stride[1]) if stride[1] > 1 else part
            taps.append((a, b, g * (1.0 - gate(y - part))))
    whole = _gather(taps, around.shape, stride)
    return whole[:, :, down : down + x.shape[2], right : right + x.shape[3]]


def _reach(y: Tensor, dim: int, stride: list[int]) -> int:
    """Pixels from the first to the last that one place of the window sees."""
    return (y.shape[dim] - 1) * stride[dim - 2] + 1


def _gather(taps: list[tuple[int, int, Tensor]], shape: Sequence[int], stride: list[int]) -> Tensor:
    """The sum of what every place (row, column) of the window gives to the pixels that it saw."""
    total: Tensor | None = None
    for a, b, part in taps:
        rows, columns = _reach(part, 2, stride), _reach(part, 3, stride)
        part = spread(part, 2, stride[0], rows) if stride[0] > 1 else part
        part = spread(part, 3, stride[1], columns) if stride[1] > 1 else part
        part = pad(part, [b, shape[3] - columns - b, a, shape[2] - rows - a])
        total = part if total is None else total + part
    assert total is not None
    return total


RULES: Rules = {
    aten.avg_pool2d.default: _avg_pool,
    aten.avg_pool2d_backward.default: _avg_pool_backward,
    aten._adaptive_avg_pool2d.default: _adaptive_pool,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
}
