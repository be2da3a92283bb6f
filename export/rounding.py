"""int8 arithmetic as eager torch computes it: numbers rounded to what int8 can hold, and gradients past the rounding.

A compiled program computes the same up to one step of the grid: export/xnnpack/int8.py turns the operators between two
roundings into int8 ones. Three kinds of rounding:
- a weight has 255 steps for each output channel, its zero at 0;
- an activation has 256 steps, set once (`rounded`), its zero anywhere;
- an activation or gradient has 256 steps for each image or pixel, set when it is there (`rounded_per_image`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor

from export.passes.shapes import spread
from export.round_per_image import round_per_image

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

INT8 = (-128, 127, torch.int8)
LEVELS = 127
"""Largest weight; -128 is left out, so that weights are symmetric."""

Activation = Literal["none", "relu", "clamp"]
"""What a rounding does besides: the grid's least number is the zero of a ReLU, or both ends are those of a clamp."""


@dataclass(frozen=True)
class Grid:
    """The numbers that an int8 tensor holds: (stored - zero_point) * scale."""

    scale: float
    zero_point: int


def rounded_weight(w: Tensor) -> Tensor:
    """A weight [O, ...], each output channel in whole steps, 127 of which are its largest number."""
    scales = weight_scales(w).reshape(-1, *[1] * (w.dim() - 1))
    return torch.round(w / scales) * scales


def weight_scales(w: Tensor) -> Tensor:
    """The scale [O] of each output channel; a channel of zeros gets the largest of the others, for its bias."""
    scales = w.detach().reshape(len(w), -1).abs().amax(1) / LEVELS
    largest = scales.amax()
    return torch.where(scales > 0, scales, torch.where(largest > 0, largest, torch.ones_like(largest)))


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


MIN_CHANNELS = 64
"""Pixels with fewer are convolved sooner in float than quantised one by one: 64 images of 16 channels took 2.3 times
as long in int8, of 64 channels 1.1 times, and 16 images of 96 channels 0.6 times (x86-64 with AMX, one thread)."""

When = Literal["never", "image", "pixel"]


def when_read(w: Tensor, stride: Sequence[int], padding: Sequence[int]) -> When:
    """What a convolution in one group gets a grid for when the program runs.

    XNNPACK computes a 1x1 convolution as a product of pixels and weight, and quantises each pixel on its own.
    """
    if w.shape[2:].numel() > 1 or max(stride) > 1 or any(padding):
        return "image"
    return "pixel" if w.shape[1] >= MIN_CHANNELS else "never"


def rounded_per_image(x: Tensor, pixels: bool = False) -> Tensor:
    """x on a grid for each image, or for each pixel; gradients pass as they are."""
    return _RoundedPerImage.apply(x, pixels)  # type: ignore[no-any-return, no-untyped-call]


class _RoundedPerImage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pixels: bool) -> Tensor:
        y: Tensor = round_per_image(x, pixels)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def convolution(
    x: Tensor, w: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """A convolution in one group with constant weight, whose input gradient is computed in int8, if that is quicker."""
    return _Convolution.apply(x, w, bias, stride, padding, dilation)  # type: ignore[no-any-return, no-untyped-call]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.save_for_backward(w)
        ctx.how, ctx.size = (stride, padding, dilation), x.shape[2:]
        return torch.conv2d(x, w, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (w,), (stride, padding, dilation) = ctx.saved_tensors, ctx.how
        return _input_gradient(gradients[0], w, stride, padding, dilation, ctx.size), None, None, None, None, None


def _input_gradient(
    g: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], size: Sequence[int]
) -> Tensor:
    """A convolution gives the rows of the gradient that are equal modulo the stride, their columns side by side.

    XNNPACK has no transposed convolution for int8 on grids set at run time.
    """
    if w.shape[2:].numel() == 1 and not any(padding):
        g = _convolve(g, w.transpose(0, 1), [0, 0])
        for dim in (2, 3):
            g = spread(g, dim, stride[dim - 2], size[dim - 2]) if stride[dim - 2] > 1 else g
        return g
    rows = _reaching(w.shape[2], stride[0], padding[0], dilation[0])
    columns = _reaching(w.shape[3], stride[1], padding[1], dilation[1])
    tall, wide = (-(-n // s) for n, s in zip(size, stride, strict=True))
    top, left = -rows.least, -columns.least
    bottom, right = tall + rows.span - 1 - top - g.shape[2], wide + columns.span - 1 - left - g.shape[3]
    around = [top, left]
    if (top, left) != (bottom, right) or min(around) < 0:
        g, around = aten.constant_pad_nd(g, [left, right, top, bottom]), [0, 0]
    bands = []
    for a in range(stride[0]):
        parts = [_kernel(w, rows.taps[a], columns.taps[b]) for b in range(stride[1])]
        bands.append(_convolve(g, torch.cat(parts), around))
    if len(bands) == len(parts) == 1:
        return bands[0]
    above = torch.cat([band.permute(0, 2, 3, 1).reshape(len(g), tall, 1, -1) for band in bands], 2)
    y = above.reshape(len(g), tall * stride[0], wide * stride[1], w.shape[1]).permute(0, 3, 1, 2)
    return y[:, :, : size[0], : size[1]]


def _convolve(g: Tensor, w: Tensor, padding: list[int]) -> Tensor:
    """The convolution of a gradient, in int8 if that is quicker."""
    when = when_read(w, [1, 1], padding)
    if when != "never":
        g, w = round_per_image(g, when == "pixel"), rounded_weight(w)
    return torch.conv2d(g, w, None, 1, padding)


@dataclass(frozen=True)
class _Reach:
    """Along one dimension: how far output pixels lie that an input pixel reached, and by which index of the kernel."""

    least: int
    span: int
    taps: Sequence[Sequence[int]]
    """For each residue of the input pixel modulo the stride, `span` indices into the kernel; behind its end is zero."""


def _reaching(k: int, stride: int, padding: int, dilation: int) -> _Reach:
    found = [
        {(a + padding - d * dilation) // stride: d for d in range(k) if (a + padding - d * dilation) % stride == 0}
        for a in range(stride)
    ]
    offsets = [offset for taps in found for offset in taps]
    least, span = min(offsets), max(offsets) - min(offsets) + 1
    return _Reach(least, span, [[taps.get(least + i, k) for i in range(span)] for taps in found])


def _kernel(w: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """The kernel [C, O, ...] made of these rows and columns of w [O, C, kh, kw]; zeros lie behind its last."""
    w = aten.constant_pad_nd(w.transpose(0, 1), [0, 1, 0, 1])
    w = torch.stack([w[:, :, d] for d in rows], 2)
    return torch.stack([w[:, :, :, d] for d in columns], 3)


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
