"""int8 arithmetic as eager torch computes it: numbers rounded to what int8 can hold, and gradients past the rounding.

A compiled program computes the same up to one step of the grid: export/xnnpack/int8.py turns the operators between two
roundings into int8 ones. Three kinds of rounding:
- a weight has 255 steps for each output channel, its zero at 0;
- an activation has 256 steps, set once (`rounded`), its zero anywhere;
- an activation or gradient has 256 steps for each image, set when it is there (`rounded_per_image`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor

from export.passes.shapes import spread

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

INT8 = (-128, 127, torch.int8)
LEVELS = 127
"""Largest weight; -128 is left out, so that weights are symmetric."""

Activation = Literal["none", "relu", "clamp"]
"""What a rounding does besides: the lowest number it can hold is a ReLU's zero, or the two ends are those of a clamp."""


@dataclass(frozen=True)
class Grid:
    """The numbers that an int8 tensor holds: (stored - zero_point) * scale."""

    scale: float
    zero_point: int


def rounded_weight(w: Tensor) -> Tensor:
    """A weight [O, ...] with each output channel on a grid of its own, whose largest step is the channel's largest number."""
    return round_to(w, weight_scales(w))


def weight_scales(w: Tensor) -> Tensor:
    """The scale [O] of each output channel; 1 for a channel of zeros."""
    largest = w.detach().reshape(len(w), -1).abs().amax(1)
    return torch.where(largest > 0, largest / LEVELS, torch.ones_like(largest))


def round_to(w: Tensor, scales: Tensor) -> Tensor:
    """Each output channel in whole multiples of its scale."""
    scales = scales.reshape(-1, *[1] * (w.dim() - 1))
    return torch.round(w / scales) * scales


def rounded(x: Tensor, scale: float, zero_point: int, activation: Activation) -> Tensor:
    """x on a grid. Gradients pass where the activation lets them, which is read from the int8 numbers."""
    return _Rounded.apply(x, scale, zero_point, activation)  # type: ignore[no-any-return, no-untyped-call]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, zero_point: int, activation: Activation) -> Tensor:
        packed = quantized.quantize_per_tensor.default(x, scale, zero_point, *INT8)
        ctx.save_for_backward(packed)
        ctx.grid, ctx.activation = (scale, zero_point), activation
        y = quantized.dequantize_per_tensor.default(packed, scale, zero_point, *INT8)
        assert isinstance(y, Tensor)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = gradients
        if ctx.activation == "none":
            return g, None, None, None
        scale, zero_point = ctx.grid
        y = quantized.dequantize_per_tensor.default(*ctx.saved_tensors, scale, zero_point, *INT8)
        mask = _gate(y, scale)
        if ctx.activation == "clamp":
            below = _on((127 - zero_point) * scale - y, scale, -128)
            mask = _on(mask * _gate(below, scale), 1.0, 126)
        return g * mask, None, None, None


def _gate(y: Tensor, scale: float) -> Tensor:
    """1 where y >= scale, 0 where y = 0, in int8 operators only: one step becomes 1, and what is more does not fit."""
    return _on(y * (1 / scale), 1.0, 126)


def _on(x: Tensor, scale: float, zero_point: int) -> Tensor:
    packed = quantized.quantize_per_tensor.default(x, scale, zero_point, *INT8)
    y = quantized.dequantize_per_tensor.default(packed, scale, zero_point, *INT8)
    assert isinstance(y, Tensor)
    return y


@torch.library.custom_op("edgecl::round_per_image", mutates_args=())
def round_per_image(x: Tensor) -> Tensor:
    """x [B, ...] on a grid for each image, whose ends are its extremes: as XNNPACK quantises at run time ("qd8")."""
    flat = x.flatten(1)
    low, high = torch.clamp(flat.amin(1, True), max=0.0), torch.clamp(flat.amax(1, True), min=0.0)
    steps = torch.where(high > low, 255 / (high - low), torch.ones_like(low))
    from_low, from_high = -128 - low * steps, 127 - high * steps
    off = (low * steps - 128) + (high * steps + 127)  # the end with the smaller error places zero
    zero = torch.round(torch.clamp(torch.where(off > 0, from_low, from_high), -128, 127))
    stored = torch.clamp(torch.round(flat * steps) + zero, -128, 127)
    return ((stored - zero) / steps).reshape(x.shape)


@round_per_image.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def rounded_per_image(x: Tensor) -> Tensor:
    """x [B, ...] on a grid for each image; gradients pass as they are."""
    return _RoundedPerImage.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _RoundedPerImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return round_per_image(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0]


def convolution(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """A convolution in one group with constant weight, whose input gradient is an int8 convolution."""
    return _Convolution.apply(x, w, bias, stride, padding, dilation)  # type: ignore[no-any-return, no-untyped-call]


def has_int8_gradient(w: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether `convolution` can do it: where the gradient is a convolution with the flipped weight, not a transposed one."""
    if list(w.shape[2:]) == [1, 1]:
        return not any(padding)
    return list(stride) == [1, 1] and min(_around(w, padding, dilation)) >= 0


def _around(w: Tensor, padding: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding of the convolution that computes the input gradient."""
    return [d * (k - 1) - p for d, k, p in zip(dilation, w.shape[2:], padding, strict=True)]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(w)
        ctx.how, ctx.size = (stride, padding, dilation), x.shape[2:]
        return torch.conv2d(x, w, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (w,), (stride, padding, dilation) = ctx.saved_tensors, ctx.how
        turned = rounded_weight(w.transpose(0, 1).flip((2, 3)))
        g = torch.conv2d(round_per_image(gradients[0]), turned, None, 1, _around(w, padding, dilation), dilation)
        for dim in (2, 3):
            g = spread(g, dim, stride[dim - 2], ctx.size[dim - 2]) if stride[dim - 2] > 1 else g
        return g, None, None, None, None, None


def linear(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """x [B, C] times w [O, C] transposed, plus bias, whose input gradient is an int8 product."""
    return _Linear.apply(x, w, bias)  # type: ignore[no-any-return, no-untyped-call]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Any) -> Tensor:
        ctx.save_for_backward(w)
        return torch.nn.functional.linear(x, w, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (w,) = ctx.saved_tensors
        return torch.nn.functional.linear(round_per_image(gradients[0]), rounded_weight(w.t())), None, None
