"""Every learner, made on a small network: what the contract tests go through."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from export import trace
from export.calibrate import calibrate
from export.learners import Learner, Pieces, warms
from export.learners.adaptor import Adaptor
from export.learners.ecotta import EcoTTA, FrozenEcoTTA
from export.learners.norm import Norm
from export.learners.source import Source
from export.learners.tent import Tent
from tests.export import nets, pipeline

CLASSES = 5
TAPS = ("layer1:in", "layer1", "layer2", "layer3")

Case = tuple[Callable[..., Learner], type[nn.Module], tuple[str, ...], dict[str, Any]]

CASES: dict[str, Case] = {
    "source": (Source, nets.ResNet, (), {}),
    "source on depthwise": (Source, nets.Depthwise, ("block1",), {}),
    "norm": (Norm, nets.ResNet, ("layer3",), {}),
    "norm on vectors": (Norm, nets.Mlp, (), {}),
    "norm on waves": (Norm, nets.Waves, (), {}),
    "tent": (Tent, nets.ResNet, ("layer3",), {}),
    "tent on depthwise": (Tent, nets.Depthwise, (), {}),
    "tent on vectors": (Tent, nets.Mlp, (), {}),
    "ecotta": (EcoTTA, nets.ResNet, TAPS, {}),
    "ecotta 3x3": (EcoTTA, nets.ResNet, TAPS, {"kernel": 3}),
    "ecotta-frozen": (FrozenEcoTTA, nets.ResNet, TAPS, {}),
    "ecotta-frozen 3x3": (FrozenEcoTTA, nets.ResNet, TAPS, {"kernel": 3}),
    "ecotta-frozen on depthwise": (FrozenEcoTTA, nets.Depthwise, ("block1:in", "block1", "pool:in"), {}),
    "adaptor film, head": (Adaptor, nets.ResNet, TAPS, {"at": ("layer2",), "head": True}),
    "adaptor film on vectors, pcr": (Adaptor, nets.Mlp, ("first",), {"loss": "pcr"}),
    "adaptor depthwise": (Adaptor, nets.ResNet, TAPS, {"form": "depthwise", "at": ("layer3",)}),
    "adaptor depthwise on waves": (Adaptor, nets.Waves, ("conv2",), {"form": "depthwise"}),
    "adaptor bottleneck, pcr, head": (
        Adaptor, nets.ResNet, TAPS[2:], {"form": "bottleneck4", "loss": "pcr", "head": True},
    ),
    "adaptor lowrank on depthwise": (Adaptor, nets.Depthwise, ("block1",), {"form": "lowrank4"}),
    "adaptor meta": (Adaptor, nets.ResNet, TAPS, {"form": "meta", "at": ("layer2", "layer3")}),
    "adaptor input": (Adaptor, nets.ResNet, (), {"form": "input3"}),
}  # fmt: skip
ADAPTING = [name for name in CASES if not name.startswith("source")]
TRAINING = [name for name in ADAPTING if not name.startswith("norm")]


def make(name: str, dtype: torch.dtype = torch.float32) -> Learner:
    """The learner of a case, calibrated as a build would; the same numbers every time."""
    factory, kind, taps, settings = CASES[name]
    source = nets.batch(kind, 128, seed=5).to(dtype)
    encoder = pipeline.captured(kind, dtype, taps=taps, open_norms=factory.open_norms)  # type: ignore[attr-defined]
    if encoder.norms:
        encoder = calibrate(encoder, torch.split(source, 32))
    learner = factory(encoder, **settings)
    if warms(learner):
        learner.begin(source)
        learner.settle(_moved(learner.start), source)
    elif isinstance(learner, Adaptor):
        learner.start = {key: piece.to(dtype) for key, piece in _moved(learner.start).items()}
    return learner


def _moved(start: Pieces) -> Pieces:
    """Away from the identity, as warm-up or learning would."""
    random = torch.Generator().manual_seed(3)
    return {key: piece + 0.1 * torch.randn(piece.shape, generator=random).to(piece) for key, piece in start.items()}


def shifted(name: str, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A batch under a shift: larger, offset, and noisy."""
    return (1.3 * nets.batch(CASES[name][1], size, seed) + 0.4).to(dtype)


def each(names: Iterable[str]) -> list[Any]:
    """The cases as parameters; those of one learner stay on one worker, which compiles it once."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]


@functools.cache
def graph(name: str, kind: str, batch: int) -> tuple[trace.Flat, fx.GraphModule]:
    """A method of a case, and its lean graph."""
    method = trace.methods(make(name), kind, batch, shifted(name, batch, 0), CLASSES)
    return method, pipeline.compiled(method)
