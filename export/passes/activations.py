"""Activations that XNNPACK lacks, and the way back through all but ReLU and clamps (export/passes/gates.py)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import hardtanh

from export.passes.gates import masked
from export.passes.rewrite import Rules, Site

aten: Any = torch.ops.aten


def _sigmoid_backward(site: Site, g: Tensor, y: Tensor) -> Tensor:
    return g * (y * (1.0 - y))


def _tanh_backward(site: Site, g: Tensor, y: Tensor) -> Tensor:
    return g * (1.0 - y * y)


def _silu(site: Site, x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _silu_backward(site: Site, g: Tensor, x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return g * (s * (1.0 + x * (1.0 - s)))


def _hardsigmoid(site: Site, x: Tensor) -> Tensor:
    return _ramp(x)


def _ramp(x: Tensor) -> Tensor:
    """0 below -3, 1 above 3, straight between."""
    return hardtanh(x * (1 / 6) + 0.5, 0.0, 1.0)


def _hardsigmoid_backward(site: Site, g: Tensor, x: Tensor) -> Tensor:
    y = _ramp(x)
    return masked(g, y * (1.0 - y)) * (1 / 6)


def _hardswish_backward(site: Site, g: Tensor, x: Tensor) -> Tensor:
    y = _ramp(x)
    return g * y + masked(g * x, y * (1.0 - y)) * (1 / 6)


def _leaky_relu(site: Site, x: Tensor, slope: float = 0.01) -> Any:
    return torch.maximum(x, x * slope) if slope <= 1 else NotImplemented


def _leaky_relu_backward(site: Site, g: Tensor, x: Tensor, slope: float, is_result: bool) -> Tensor:
    return masked(g, torch.relu(x)) * (1 - slope) + g * slope


def _prelu(site: Site, x: Tensor, slope: Tensor) -> Tensor:
    return torch.relu(x) - torch.relu(-x) * slope


def _prelu_backward(site: Site, g: Tensor, x: Tensor, slope: Tensor) -> Any:
    if not site.frozen(2):
        return NotImplemented
    return masked(g, torch.relu(x)) * (1.0 - slope) + g * slope, None


RULES: Rules = {
    aten.sigmoid_backward.default: _sigmoid_backward,
    aten.tanh_backward.default: _tanh_backward,
    aten.silu.default: _silu,
    aten.silu_backward.default: _silu_backward,
    aten.hardsigmoid.default: _hardsigmoid,
    aten.hardsigmoid_backward.default: _hardsigmoid_backward,
    aten.hardswish_backward.default: _hardswish_backward,
    aten.leaky_relu.default: _leaky_relu,
    aten.leaky_relu_backward.default: _leaky_relu_backward,
    aten._prelu_kernel.default: _prelu,
    aten._prelu_kernel_backward.default: _prelu_backward,
}
