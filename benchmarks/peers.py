"""The same algorithms in PyTorch eager, as one would write them: what the compiled steps are timed against.

Batch normalisations are folded into convolutions where their statistics stay as trained (`source`, `ecotta-frozen`),
and take those of the batch where they follow the stream. EcoTTA's step is the lean one: one forward pass, nothing
below the first partition.
"""

import copy
import math
from collections.abc import Callable
from typing import Final

import torch
from models import Split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

Step = Callable[[Tensor], Tensor]
"""From a batch [B, C, H, W] to its logits; where it adapts, the network has changed afterwards."""

MARGIN: Final = 0.4
"""Of ln C: above this entropy a sample is not learned from (Niu et al. 2022)."""
REGULARISER: Final = 0.5
"""EcoTTA's lambda."""


def infer_step(learner: str, model: Split, kernel: int = 1) -> Step:
    """Answer without learning, with the statistics that the stream left."""
    model = _prepared(learner, model)
    if not learner.startswith("ecotta"):
        return torch.inference_mode()(model.eval())
    metas = Metas(model, kernel).eval()

    @torch.inference_mode()
    def step(x: Tensor) -> Tensor:
        entered = model.stem(x)
        for partition, meta in zip(model.partitions(), metas.parts, strict=True):
            entered = meta(entered, partition(entered))
        return model.head(entered)

    return step


def adapt_step(learner: str, model: Split, kernel: int = 1) -> Step:
    """Answer, and learn from the batch."""
    model = _prepared(learner, model)
    if learner == "norm":
        return torch.no_grad()(model.train())
    return _tent(model) if learner == "tent" else _ecotta(model, learner, kernel)


def fold(model: Split) -> Split:
    """The model with each normalisation that follows a convolution folded into it."""
    model = copy.deepcopy(model).eval()
    for block in model.modules():
        for convolution, norm in getattr(block, "follows", ()):
            setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    return model


def entropy(logits: Tensor) -> Tensor:
    """Of the predicted distributions, nats, [B]."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


class Meta(nn.Module):
    """The meta network beside one partition."""

    def __init__(self, entered: Tensor, left: Tensor, kernel: int) -> None:
        super().__init__()
        stride = -(-entered.shape[2] // left.shape[2])
        self.bn = nn.BatchNorm2d(left.shape[1])
        self.conv = nn.Conv2d(entered.shape[1], left.shape[1], kernel, stride, kernel // 2, bias=False)
        self.meta = nn.BatchNorm2d(left.shape[1])

    def forward(self, entered: Tensor, left: Tensor) -> Tensor:
        adapted: Tensor = self.bn(left) + F.relu(self.meta(self.conv(entered)))
        return adapted


class Metas(nn.Module):
    """One meta network for each partition of a model."""

    def __init__(self, model: Split, kernel: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        with torch.no_grad():
            entered = model.stem(torch.zeros(1, 3, model.size, model.size))
            for partition in model.partitions():
                left = partition(entered)
                self.parts.append(Meta(entered, left, kernel))
                entered = left


def _prepared(learner: str, model: Split) -> Split:
    model = fold(model) if learner in ("source", "ecotta-frozen") else copy.deepcopy(model)
    return model.requires_grad_(False)


def _tent(model: Split) -> Step:
    """Wang et al. 2021: entropy minimisation of scales and shifts, by Adam."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    params = [param.requires_grad_(True) for norm in norms for param in (norm.weight, norm.bias)]
    optimizer = torch.optim.Adam(params, lr=1e-3, fused=True)

    def step(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        loss = entropy(logits).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return logits.detach()

    return step


def _ecotta(model: Split, learner: str, kernel: int) -> Step:
    """Song et al. 2023, both terms of the loss from one forward pass."""
    metas = Metas(model, kernel).train()
    model.train(learner == "ecotta")
    optimizer = torch.optim.SGD(metas.parameters(), lr=5e-3, momentum=0.9, fused=True)
    partitions = model.partitions()

    def step(x: Tensor) -> Tensor:
        entered, passes = model.stem(x), []
        for partition, meta in zip(partitions, metas.parts, strict=True):
            left = partition(entered)
            adapted = meta(entered, left)
            passes.append((meta, entered, left, adapted))
            entered = adapted.detach().requires_grad_()
        logits = model.head(entered)
        h = entropy(logits)
        chosen = h < MARGIN * math.log(logits.shape[1])
        loss = (h * chosen).sum() / chosen.sum().clamp(min=1)
        (down,) = torch.autograd.grad(loss, [entered])
        for k, (meta, entered, left, adapted) in reversed(list(enumerate(passes))):
            pull = (REGULARISER / adapted.numel()) * (adapted - left).detach().sign()
            params = list(meta.parameters())
            grads = torch.autograd.grad(adapted, params, down + pull, retain_graph=k > 0)
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            if k:
                (down,) = torch.autograd.grad(adapted, [entered], down)
        optimizer.step()
        return logits.detach()

    return step
