"""Masks as arithmetic: comparisons, selections and the backward of activations, in operators that XNNPACK has.

A gate is 1 where its argument is positive, else 0: hardtanh(x * 1e30, 0, 1). For the way back through an activation the
mask is kept in one byte an element: quantising with the step 2^-40 saturates at once, so that a positive value becomes
127 and zero 126, and dequantising gives 2^-40 or 0. The factor 2^40 that this leaves is exact, and passes/scalars.py
moves it into weights.
"""

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor
from torch.nn.functional import hardtanh

from export.passes.rewrite import Rules, Site

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

BIG = 1e30
"""Times the smallest activation that matters still over 1; times the largest still finite in float32."""


def gate(x: Tensor) -> Tensor:
    """1 where x > 0, else 0."""
    return hardtanh(x * BIG, 0.0, 1.0)


STEP = 2.0**-40
"""Activations below half of it count as zero; far under what float32 gradients notice."""

_QPARAMS = (126, -128, 127, torch.int8)


def masked(g: Tensor, y: Tensor) -> Tensor:
    """g where y > 0, else 0; y >= 0, and only one byte of it is kept."""
    if g.dim() != 4:
        return g * gate(y)
    packed = quantized.quantize_per_tensor.default(y.to(torch.float32), STEP, *_QPARAMS)
    mask: Tensor = quantized.dequantize_per_tensor.default(packed, STEP, *_QPARAMS)
    return g * mask.to(g.dtype) * (1 / STEP)


def _relu_backward(site: Site, g: Tensor, result: Tensor, threshold: float) -> Any:
    return masked(g, result) if threshold == 0 else NotImplemented


def _hardtanh_backward(site: Site, g: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    # The result serves as well as x, and keeping x would keep the clamp from fusing into the convolution before it.
    y = site.sibling(1, aten.hardtanh.default, low, high)
    y = hardtanh(x, low, high) if y is None else y
    return masked(g, (y - low) * (high - y) if low else y * (high - y))


def _sign(site: Site, x: Tensor) -> Tensor:
    return hardtanh(x * BIG, -1.0, 1.0)


def _less(site: Site, x: Tensor, y: Tensor | float) -> Tensor:
    return gate(y - x)


def _greater(site: Site, x: Tensor, y: Tensor | float) -> Tensor:
    return gate(x - y)


def _at_least(site: Site, x: Tensor, y: Tensor | float) -> Tensor:
    return 1.0 - gate(y - x)


def _at_most(site: Site, x: Tensor, y: Tensor | float) -> Tensor:
    return 1.0 - gate(x - y)


def _where(site: Site, condition: Tensor, yes: Tensor, no: Tensor) -> Any:
    return no + condition * (yes - no) if condition.dtype.is_floating_point else NotImplemented


def _to_float(site: Site, x: Tensor, **kwargs: Any) -> Any:
    return x if kwargs.get("dtype") == x.dtype else NotImplemented


RULES: Rules = {
    aten.threshold_backward.default: _relu_backward,
    aten.hardtanh_backward.default: _hardtanh_backward,
    aten.sgn.default: _sign,
    aten.sign.default: _sign,
    aten.lt.Tensor: _less,
    aten.lt.Scalar: _less,
    aten.gt.Tensor: _greater,
    aten.gt.Scalar: _greater,
    aten.ge.Tensor: _at_least,
    aten.ge.Scalar: _at_least,
    aten.le.Tensor: _at_most,
    aten.le.Scalar: _at_most,
    aten.where.self: _where,
    aten._to_copy.default: _to_float,
}
