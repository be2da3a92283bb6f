"""What the benchmarks build: a project for each model, learner and precision, and programs of what is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import data
import models
import msgspec
import numpy as np
import numpy.typing as npt
from models import Split
from torch import Tensor

from edgecl.manifest import Kind
from export import (
    quiet,  # noqa: F401  before what imports torch
    trace,
)
from export.build import make_learner
from export.learners import Learner
from export.lower import lower
from export.memory import Estimate
from export.passes import lean
from export.passes.rematerialise import rematerialise
from export.project import Project, Tables
from export.source_data import SourceData
from export.trace import Flat

LEARNERS: Final = ("source", "norm", "tent", "ecotta", "ecotta-frozen")

PRECISIONS: Final = ("float", "int8")
"""Of the frozen network; with int8, its gradients too."""

_CIFAR: Final = {
    "input": {"shape": [32, 32, 3], "mean": data.MEAN, "std": data.STD},
    "data": {"train": "data:train", "held_out": "data:held_out"},
    "classes": data.CLASSES,
}
_LARGE: Final = {
    "input": {"shape": [224, 224, 3], "mean": [128 / 255] * 3, "std": [128 / 255] * 3},
    "data": {"train": "data:large"},
    "classes": [str(number) for number in range(models.CLASSES)],
}
_MODELS: Final[Mapping[str, tuple[type[Split], Mapping[str, Any]]]] = {
    "resnet20": (models.ResNet, _CIFAR),
    "wrn40_2": (models.WideResNet, _CIFAR),
    "mobilenet_v2": (models.MobileNetV2, _LARGE),
}


def project(
    model: str,
    learner: str,
    precision: str,
    *,
    batch: int = 16,
    kernel: int = 1,
    epochs: int = 3,
    tapped: bool = False,
) -> Project:
    """As an `edgecl.toml` in this folder would say it. Times and bytes need no warm-up: 0 epochs do for them.

    `tapped`: name taps for learners too that need none themselves, to route by.
    """
    split, given = _MODELS[model]
    taps = split.taps if tapped or learner.startswith("ecotta") else ()
    settings = {"kernel": kernel} if learner.startswith("ecotta") else {}
    tables = {
        "name": f"{model}-{learner}",
        "model": {"factory": f"models:{model}", "classes": given["classes"], "taps": taps},
        "input": given["input"],
        "data": given["data"],
        "learner": {"name": learner, "batch": batch, "settings": settings},
        "warmup": {"epochs": epochs},
        "build": {"memory": "0 MB", **({"quantize": "int8", "backward": "int8"} if precision == "int8" else {})},
    }
    return Project(Path(__file__).parent, msgspec.convert(tables, Tables))


@dataclass(frozen=True)
class Compiled:
    """Methods of one learner in one program, and the same as eager functions."""

    pte: bytes
    methods: Mapping[str, Flat]
    operators: Mapping[str, int]
    """XNNPACK operators of each."""
    estimates: Mapping[str, Estimate]


def learner_of(given: Project) -> tuple[Learner, SourceData]:
    """The learner of a project as `edgecl build` makes it, and its source data."""
    source = SourceData(*given.data(given.tables.data.train), given.given)
    return make_learner(given, source), source


def compiled(learner: Learner, x: Tensor, wanted: Sequence[tuple[Kind, int]], *, recompute: bool = False) -> Compiled:
    """These kinds of method at these batch sizes, as `edgecl build` compiles them; `x` is float samples [N, ...]."""
    methods, graphs = {}, {}
    for kind, size in wanted:
        method = trace.methods(learner, kind, size, x[[i % len(x) for i in range(size)]], learner.encoder.classes)
        methods[method.name] = method
        graph = lean(trace.trace(method), method.example, parts=1 if recompute else None)
        graphs[method.name] = rematerialise(graph, arithmetic=recompute)
    lowered = lower(graphs)
    counts = {name: len(used) for name, used in lowered.operators.items()}
    return Compiled(lowered.pte, methods, counts, lowered.estimates)


def arrays(method: Flat) -> list[npt.NDArray[np.float32]]:
    """Its example inputs: state as built, a batch of source data."""
    return [np.ascontiguousarray(tensor.detach().numpy()) for tensor in method.example]
