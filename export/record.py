"""The manifest of what was built: methods and their memory, layouts of states, the guard, what a board must have."""

import importlib.metadata
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch

import edgecl
from edgecl.manifest import Canaries, Guard, Head, Hyper, Manifest, Memory, Method, Requires, Tap, Tensor
from edgecl.manifest import Learner as LearnerRecord
from edgecl.measure import Measured
from export import forms, trace
from export.compile import BASE_BYTES, Compiled
from export.detector import Made
from export.learners import Learner, adapts, trains
from export.project import HeadChoice, Project
from export.router import Made as Router

CANARY_EVERY: Final = 10
CANARY_SHARE: Final = 0.6
"""Of what a state knew as built beyond guessing: below, it is taken back. Statistics that were measured for other
parameters cost a sound state up to a quarter on the canaries; one that has collapsed keeps next to nothing."""
COLLAPSE_SHARE: Final = 0.1
"""Of ln C: under this entropy of class shares, nearly all answers are one class, and the canaries are asked at once."""
WINDOW: Final = 256

HEAD_FEATURES: Final = 512
"""Sums of LDA take 8 bytes for each pair of features: 2 MB."""

MEASURED_STEP_BYTES: Final = 1 << 16


def manifest(
    project: Project,
    made: Mapping[str, Learner],
    compiled: Compiled,
    measured: Measured,
    detector: Made | None,
    router: Router | None,
    canaries: int,
    accuracy: float,
    budget_bytes: int,
) -> Manifest:
    """What is written into the bundle; `accuracy` is that on the canaries, as built."""
    tables, classes, learner = project.tables, len(project.tables.model.classes), made[""]
    gates = {
        form: compiled.methods[name].run(*compiled.methods[name].example)[2].numel()
        for form in made
        if (name := f"{form}.score_b1" if form else "score_b1") in compiled.methods
    }
    costs = {cost.method: cost for cost in measured.costs}
    methods = []
    for name, flat in compiled.methods.items():
        outputs = flat.run(*flat.example)
        estimate = compiled.lowered.estimates[name]
        memory = Memory(
            estimated_bytes=estimate.total_bytes,
            weights_bytes=_settled(costs[name].weights_bytes, estimate.weights_bytes),
            workspace_bytes=_settled(costs[name].workspace_bytes, estimate.workspace_bytes),
            planned_bytes=compiled.lowered.planned_bytes[name],
        )
        form, _, plain = name.rpartition(".")
        kind, _, size = plain.partition("_b")
        methods.append(
            Method(
                name=name,
                kind=kind,  # type: ignore[arg-type]
                batch=int(size),
                inputs=_tensors(flat.inputs, flat.example),
                outputs=_tensors(flat.outputs, outputs),
                memory=memory,
                delegates=1,
                outside=(),
                form=form,
            )
        )
    answering, *others = (method.memory for method in methods)
    shared = max((memory.workspace_bytes for memory in others), default=0)
    weights = sum(memory.weights_bytes for memory in others)
    needed = BASE_BYTES + answering.weights_bytes + answering.workspace_bytes + weights + shared
    return Manifest(
        schema=1,
        name=tables.name,
        lineage=tables.lineage or tables.name,
        version=tables.version,
        min_version=tables.min_version,
        requires=Requires(
            edgecl=edgecl.__version__, engine=f"executorch {_version('executorch')}", arch=(), memory_bytes=needed
        ),
        learner=LearnerRecord(
            name=tables.learner.name.rpartition(":")[2],
            hyper=tuple(Hyper(name=name, value=value) for name, value in learner.hyper.items()),
            report=tuple(learner.report),
            noise=learner.noise,
            trains=trains(learner),
            adapts=adapts(learner),
            trained=tuple(learner.trained),
        ),
        classes=tables.model.classes,
        input=project.given,
        layout=trace.layout(learner),
        forms=forms.records(project, made, gates),
        methods=tuple(methods),
        features=learner.encoder.features,
        taps=tuple(Tap(name=tap.name, channels=tap.shape[0]) for tap in learner.encoder.taps),
        detector=detector.record if detector else None,
        router=router.record if router else None,
        head=_head_record(tables.head, router, learner.encoder.features),
        guard=Guard(
            canary_every=CANARY_EVERY,
            canary_floor=round(1 / classes + CANARY_SHARE * max(0.0, accuracy - 1 / classes), 4),
            # Without trained pieces, answers of one class tell of the scene, not of the learner.
            entropy_floor=round(COLLAPSE_SHARE * float(np.log(classes)), 4) if learner.trained else 0.0,
            window=WINDOW,
        ),
        canaries=Canaries(count=canaries, accuracy=accuracy),
        memory_budget_bytes=budget_bytes,
        learned=tables.learned,
        built_with=(("edgecl", edgecl.__version__), *((name, _version(name)) for name in ("torch", "executorch"))),
        files=(),
    )


def _settled(measured: int, estimated: int) -> int:
    """What was measured, in whole steps from the estimate: an allocator varies by pages, a bundle's bytes may not."""
    step = max(MEASURED_STEP_BYTES, estimated // 8)
    return max(0, estimated + round((measured - estimated) / step) * step)


def _tensors(names: tuple[str, ...], values: tuple[torch.Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name=name, dtype="float32", shape=tuple(value.shape)) for name, value in zip(names, values, strict=True)
    )


def _version(package: str) -> str:
    return importlib.metadata.version(package).partition("+")[0]


def _head_record(choice: HeadChoice, router: Router | None, features: int) -> Head | None:
    """None where the project wants none, or has no taps, or so many features that sums for `lda` are too large."""
    if choice.form == "none" or not router or (choice.form == "lda" and features > HEAD_FEATURES):
        return None
    return Head(form=choice.form, seed=choice.seed)
