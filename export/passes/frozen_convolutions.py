"""Gradients through frozen convolutions: with respect to the input only, as convolutions with constant weights.

The weight gradient of a frozen layer is never built, and nothing keeps the layer's input. With stride 1 the input
gradient is a forward convolution with the weight flipped and its channels exchanged; with a larger stride a transposed
convolution.
"""

from typing import Any

import torch
from torch import Tensor

from export.passes.rewrite import Rules, Site
from export.passes.shapes import spread

aten = torch.ops.aten


def _backward(
    site: Site,
    g: Tensor,
    x: Tensor,
    w: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> Any:
    if not site.frozen(2) or mask[1] or mask[2]:
        return NotImplemented
    if transposed:
        return torch.convolution(g, w, None, stride, padding, dilation, False, [0, 0], groups), None, None
    if w.dim() == 3:
        g, w = g.unsqueeze(2), w.unsqueeze(2)
        shape = (*x.shape[:2], 1, x.shape[2])
        return input_gradient(g, shape, w, [1, *stride], [0, *padding], [1, *dilation], groups).squeeze(2), None, None
    return input_gradient(g, x.shape, w, stride, padding, dilation, groups), None, None


def _forward(
    site: Site, x: Tensor, w: Tensor, bias: Any, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int,
) -> Any:  # fmt: skip
    """A convolution in one dimension as one in two, over images of one row."""
    if not site.frozen(1) or w.dim() != 3 or transposed:
        return NotImplemented
    places = [1, *stride], [0, *padding], [1, *dilation]
    return torch.convolution(x.unsqueeze(2), w.unsqueeze(2), bias, *places, False, [0, 0], groups).squeeze(2)


def input_gradient(
    g: Tensor, shape: Any, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    """Gradient of convolution(x, w) with respect to x of this shape."""
    reach = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
    if list(stride) == [1, 1] and all(r >= p for r, p in zip(reach, padding, strict=True)):
        out, within, kh, kw = w.shape
        flipped = w.reshape(groups, out // groups, within, kh, kw).transpose(1, 2).flip((3, 4))
        flipped = flipped.reshape(groups * within, out // groups, kh, kw)
        around = [r - p for r, p in zip(reach, padding, strict=True)]
        return torch.convolution(g, flipped, None, [1, 1], around, dilation, False, [0, 0], groups)
    if list(w.shape[2:]) == [1, 1] and list(padding) == [0, 0]:
        # Most of what a transposed convolution would write are zeros: multiply where there is something, then spread.
        g = input_gradient(g, None, w, [1, 1], padding, dilation, groups)
        for dim in (2, 3):
            g = spread(g, dim, stride[dim - 2], shape[dim]) if stride[dim - 2] > 1 else g
        return g
    left = [
        n - ((m - 1) * s - 2 * p + r + 1)
        for n, m, s, p, r in zip(shape[2:], g.shape[2:], stride, padding, reach, strict=True)
    ]
    return torch.convolution(g, w, None, stride, padding, dilation, True, left, groups)


RULES: Rules = {aten.convolution.default: _forward, aten.convolution_backward.default: _backward}
