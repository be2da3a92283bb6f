"""Matrix products with constants as 1x1 convolutions, others as batched products, and softmax in XNNPACK's form."""

from typing import Any

import torch
from torch import Tensor

from export.passes.reductions import linear, sum_over
from export.passes.rewrite import Rules, Site

aten = torch.ops.aten

TINY = 1e-30
"""Keeps log(softmax) finite where a probability underflows; far below what changes an entropy."""


def _addmm(site: Site, bias: Tensor, x: Tensor, w: Tensor, **kwargs: Any) -> Any:
    return linear(x, w.t(), bias) if site.frozen(2) and not kwargs else NotImplemented


def _mm(site: Site, x: Tensor, w: Tensor) -> Any:
    if site.frozen(1):
        return linear(x, w.t())
    return aten.bmm(x.unsqueeze(0), w.unsqueeze(0)).squeeze(0)


def _log_softmax(site: Site, x: Tensor, dim: int, half: bool) -> Any:
    return torch.log(torch.softmax(x, dim) + TINY) if dim % x.dim() == x.dim() - 1 else NotImplemented


def _log_softmax_backward(site: Site, g: Tensor, result: Tensor, dim: int, dtype: Any) -> Tensor:
    return g - torch.exp(result) * sum_over(g, [dim], keepdim=True)


def _softmax_backward(site: Site, g: Tensor, result: Tensor, dim: int, dtype: Any) -> Tensor:
    return (g - sum_over(g * result, [dim], keepdim=True)) * result


def _reciprocal(site: Site, x: Tensor) -> Tensor:
    return torch.div(torch.ones(x.shape, dtype=x.dtype), x)


RULES: Rules = {
    aten.reciprocal.default: _reciprocal,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten._softmax_backward_data.default: _softmax_backward,
}
