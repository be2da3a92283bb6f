"""int8 operators: what stands between dequantising and quantising is done in int8, where XNNPACK can do just that.

A dequantised tensor stays int8 until an operator needs it as float. A convolution is int8 when its weight holds whole
multiples of a scale for each output channel (export/rounding.py): nothing is rounded here that is not rounded already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnn
from torch import Tensor, fx

from export.rounding import LEVELS, weight_scales
from export.xnnpack.graph import INVALID, NHWC, Builder, Constant, PerImage, PerTensor, Value

quantized = torch.ops.quantized_decomposed

OFF_GRID = 1e-2
"""How far, in steps, a weight may lie from its grid: more than float32 loses in products, much less than a rounding."""

MOST = 2.0**30
"""Largest bias in steps: half of what int32 holds, the other half is for the products."""

RATIOS = {
    xnn.XNNAdd: (2.0**-9, 2.0**7),
    xnn.XNNSubtract: (2.0**-9, 2.0**7),
    xnn.XNNMultiply: (2.0**-15, 2.0**7),
    xnn.XNNConv2d: (2.0**-31, 2.0**7),
}
"""What the scale of an operand, or the product of two, may be in units of the output's; XNNPACK goes twice as far."""


@dataclass(frozen=True)
class Parts:
    """What an int8 convolution reads and writes."""

    source: int
    filter: int
    bias: int
    out: Value


def convolution(
    builder: Builder, node: fx.Node, x: Value, w: Tensor, bias: Tensor | None, *, depthwise: bool, product: bool
) -> Parts | None:
    """The tensors of an int8 convolution; None where it has to be one of float numbers.

    A `product` is what XNNPACK makes of a 1x1 convolution with stride 1. It changes an input quantised at run time to
    one scale for each pixel, whatever was asked for; another convolution that reads this tensor is silently wrong.
    """
    grid, whole = _grid_of(node), _whole(w)
    if x.quantized is None or whole is None:
        return None
    stored, scales = whole
    laid = stored.permute(1, 2, 3, 0) if depthwise else stored.permute(0, 2, 3, 1)
    source, axis = builder.lay(x, NHWC), 3 if depthwise else 0
    shape = tuple(node.meta["val"].shape)
    if isinstance(x.quantized, PerImage):
        if depthwise or (x.quantized.pixels != product and x.shape[2:] != (1, 1)):
            return None
        filter = builder.quantized_constant(laid, scales, axis)
        added = INVALID if bias is None else builder.constant(bias).id
        return Parts(builder.per_image(source, pixels=x.quantized.pixels), filter, added, builder.value(shape, NHWC))
    products = scales * x.quantized.scale
    if grid is None or not all(_within(xnn.XNNConv2d, float(s), grid) for s in (products.min(), products.max())):
        return None
    steps = torch.zeros(len(w)) if bias is None else torch.round(bias.double() / products)
    if float(steps.abs().max()) > MOST:
        return None
    filter = builder.quantized_constant(laid, scales, axis)
    added = builder.quantized_constant(steps.to(torch.int32), products, 0)
    return Parts(source.id, filter, added, builder.value(shape, NHWC, grid))


def binary(kind: Any, builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value | None:
    """A sum, difference or product of int8 tensors of one shape, or one and a number; None where it is of floats."""
    grid, shape = _grid_of(node), tuple(node.meta["val"].shape)
    tensors = [a for a in args if isinstance(a, Value) and isinstance(a.quantized, PerTensor) and a.shape == shape]
    numbers = [n for a in args if (n := _number(a)) is not None]
    if kind not in RATIOS or grid is None or not tensors or len(tensors) + len(numbers) != 2:
        return None
    scales = [a.quantized.scale for a in tensors if isinstance(a.quantized, PerTensor)]
    scales += [abs(n) / LEVELS for n in numbers]
    if kind is xnn.XNNMultiply:
        scales = [scales[0] * scales[1]]
    if not all(_within(kind, s, grid) for s in scales):
        return None
    order = tensors[0].order
    ids = [builder.lay(a, order).id if a in tensors else builder.quantized_number(_number(a) or 0.0) for a in args]
    out = builder.value(shape, order, grid)
    builder.node(kind(ids[0], ids[1], out.id, 0))
    return out


def _number(operand: Any) -> float | None:
    if isinstance(operand, Constant) and operand.tensor.numel() == 1:
        return float(operand.tensor)
    return float(operand) if isinstance(operand, float | int) else None


def _grid_of(node: fx.Node) -> PerTensor | None:
    """The grid on which a node's value is put before anything else reads it."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    if user.target is not quantized.quantize_per_tensor.default or user.args[3:5] != (-128, 127):
        return None
    return PerTensor(float(user.args[1]), int(user.args[2]))  # type: ignore[arg-type]


def _within(kind: Any, scale: float, grid: PerTensor) -> bool:
    least, most = RATIOS[kind]
    return least <= scale / grid.scale <= most


def _whole(w: Tensor) -> tuple[Tensor, Tensor] | None:
    """(int8 weight [O, ...], scales [O]); None where the weight does not lie on a grid."""
    scales = weight_scales(w)
    steps = w / scales.reshape(-1, *[1] * (w.dim() - 1))
    stored = torch.round(steps)
    if float((steps - stored).abs().max()) > OFF_GRID or float(stored.abs().max()) > LEVELS:
        return None
    return stored.to(torch.int8), scales
