"""The pipeline from a project to a bundle: capture, calibrate, warm up, quantise, compile, measure, check, pack."""

import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

import export.router
from edgecl import bundle, contents, devices, head, state
from edgecl.detector import dump
from edgecl.errors import BudgetError, ProgramError, ProjectError
from edgecl.manifest import Head, Manifest
from edgecl.measure import Measured
from edgecl.state import State
from export import forms, parity, record, trace
from export.calibrate import calibrate
from export.compile import Compiled, compile_learner, over, within
from export.detector import Made, fit
from export.encoder import capture
from export.learners import Learner, warms
from export.learners.table import LEARNERS
from export.project import Project, parse_bytes
from export.quantize import quantize
from export.source_data import SourceData
from export.to_onnx import to_onnx
from export.warmup import warm_up

CALIBRATION_SAMPLES: Final = 2048
CALIBRATION_BATCH: Final = 64

DETECTOR_SAMPLES: Final = 4096

Say = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A bundle that was written, and what was found on the way."""

    bundle: bundle.Bundle
    accuracy: float
    """Of the state as built, on held-out samples where the project has some, on canaries otherwise."""
    parity: Mapping[str, float]
    """How far each method is from its eager function; see export/parity.py."""
    resident_bytes: int
    """Of a process with all methods loaded, measured; 0 where it was not."""


def build(project: Project, destination: Path, *, fit: bool = False, say: Say = lambda _: None) -> Built:
    """Build the bundle of a project.

    Raises ProjectError: something in the project does not fit. BudgetError: it needs more memory than the device has
    for it. StoreError: the destination cannot be written.
    """
    tables = project.tables
    torch.manual_seed(tables.warmup.seed)
    train = SourceData(*project.data(tables.data.train), project.given)
    held_out = SourceData(*project.data(tables.data.held_out), project.given) if tables.data.held_out else train
    say(f"model: {tables.model.factory}, {len(train)} source samples")
    learner = make_learner(project, train, say)
    made = forms.forms(project, learner)
    x = train.inputs(train.spread_out(max(2, tables.learner.batch)))
    budget = budget_bytes(project)
    say(f"compiling {tables.learner.name} for batches of {tables.learner.batch}")
    compiled = within(
        lambda size, recompute: compile_learner(made, x, size, len(tables.model.classes), recompute=recompute),
        tables.learner.batch,
        budget,
        fit=fit,
        say=say,
    )
    found = parity.check(compiled, learner.noise, train, int8=tables.build.quantize == "int8")
    say("measuring memory")
    measured = _measure(compiled)
    if budget and measured.resident_bytes > budget:
        raise BudgetError(
            f"{over(compiled, budget)}; measured {measured.resident_bytes / 1e6:.1f} MB; choose a smaller batch"
        )
    source = _taps(learner, train, train.spread_out(DETECTOR_SAMPLES)) if learner.encoder.taps else []
    apart = _taps(learner, held_out, held_out.spread_out(DETECTOR_SAMPLES)) if learner.encoder.taps else []
    detector = _detector(project, learner, source, apart, say)
    router = _router(project, learner, source, apart, say)
    canaries = _canaries(held_out, tables.build.canaries)
    accuracy = _accuracy(learner, held_out, held_out.spread_out(CALIBRATION_SAMPLES))
    canaries_right = _accuracy(learner, held_out, canaries)
    manifest = record.manifest(
        project, made, compiled, measured, detector, router, len(canaries), canaries_right, budget
    )
    if router and tables.head.form != "none" and not manifest.head:
        say(f"no head: {manifest.features} features, {record.HEAD_FEATURES} at most for lda; choose ridge")
    files = {
        contents.PROGRAM: compiled.lowered.pte,
        **{contents.state_file(form): state.dump(_state(one)) for form, one in made.items()},
        contents.VECTORS: safetensors.numpy.save(dict(sorted(found.vectors.items()))),
        contents.CANARIES: safetensors.numpy.save({"x": held_out.x[canaries], "y": held_out.y[canaries]}),
    }
    if detector:
        files[contents.DETECTOR] = dump(detector.fit)
    if router:
        files[contents.ROUTER] = export.router.dump(router)
    if router and manifest.head:
        files[contents.HEAD] = head.dump(_head(manifest, manifest.head, router, source))
    if tables.build.onnx:
        say("writing ONNX")
        for name, method in compiled.methods.items():
            files[f"{contents.ONNX}/{name}.onnx"] = to_onnx(compiled.graphs[name], method.inputs, method.outputs)
    written = bundle.write(manifest, files, destination)
    return Built(written, accuracy, found.distance, measured.resident_bytes)


def make_learner(project: Project, data: SourceData, say: Say = lambda _: None) -> Learner:
    """The project's learner on its model, warmed up and quantised: what `build` compiles, to be run eagerly too."""
    tables = project.tables
    entry = LEARNERS.get(tables.learner.name)
    make: Callable[..., Any] = entry.make if entry else _own(project)
    open_norms = entry.open_norms if entry else bool(getattr(make, "open_norms", False))
    model = load_model(project)
    places = data.spread_out(CALIBRATION_SAMPLES)
    batches = [data.inputs(part) for part in np.array_split(places, -(-len(places) // CALIBRATION_BATCH))]
    encoder = capture(model, data.inputs(slice(0, 2)), taps=tables.model.taps, open_norms=open_norms)
    if encoder.classes != len(tables.model.classes):
        raise ProjectError(f"model.classes names {len(tables.model.classes)}, the model has {encoder.classes} outputs")
    if encoder.norms:
        encoder = calibrate(encoder, batches)
    learner: Learner = _with_settings(make, encoder, tables.learner.settings, tables.learner.hyper)
    if warms(learner):
        warm_up(learner, data, tables.warmup, say)
    if tables.build.quantize == "int8":
        say("quantising")
        theta = learner.theta()
        plain = learner.encoder

        def run(encoder: Any, x: torch.Tensor) -> None:
            learner.encoder = encoder
            learner.infer(theta, x)

        learner.encoder = quantize(plain, batches[:8], backward=tables.build.backward, run=run)
    return learner


def load_model(project: Project) -> nn.Module:
    """The trained model, in eval mode. Raises ProjectError."""
    tables = project.tables
    model = project.function(tables.model.factory)()
    if not isinstance(model, nn.Module):
        raise ProjectError(
            f"model.factory {tables.model.factory}: it returned {type(model).__name__}, not an nn.Module"
        )
    if tables.model.weights:
        path = project.folder / tables.model.weights
        try:
            model.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise ProjectError(
                f"{path}: {' '.join(str(error).split())}; it must be the state dict of the model"
            ) from None
    return model.eval()


def budget_bytes(project: Project) -> int:
    """What the process may take."""
    choice = project.tables.build
    return parse_bytes(choice.memory) if choice.memory else devices.find(choice.device).budget_bytes


def _own(project: Project) -> Callable[..., Any]:
    name = project.tables.learner.name
    if ":" not in name:
        raise ProjectError(
            f'learner.name "{name}": unknown; choose {", ".join(LEARNERS)}, or "file:Class" for your own'
        )
    return project.function(name)


def _with_settings(
    make: Callable[..., Any], encoder: Any, settings: Mapping[str, Any], hyper: Mapping[str, float]
) -> Any:
    known = list(inspect.signature(make).parameters)[1:]
    for name in settings:
        if name not in known:
            raise ProjectError(f"learner.settings.{name}: this learner has {', '.join(known) or 'no settings'}")
    learner = make(encoder, **settings)
    for name in hyper:
        if name not in learner.hyper:
            raise ProjectError(f"learner.hyper.{name}: this learner has {', '.join(learner.hyper) or 'none'}")
    learner.hyper = {**learner.hyper, **hyper}
    return learner


def _measure(compiled: Compiled) -> Measured:
    """Measure in a process without torch, as on the board; in the same surroundings always."""
    names = ["infer_b1", *(name for name in compiled.methods if name != "infer_b1")]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / contents.PROGRAM
        program.write_bytes(compiled.lowered.pte)
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        for methods in (names[:1], names):  # the first time, Python may still have modules to compile
            child = subprocess.run(
                [sys.executable, "-m", "edgecl.measure", program.name, *methods],
                capture_output=True,
                cwd=folder,
                env=kept | {"PYTHONHASHSEED": "0"},
            )
    if child.returncode:
        raise ProgramError(
            f"measuring memory: {child.stderr.decode().strip().splitlines()[-1:]}; this is a bug in edgecl"
        )
    return msgspec.json.decode(child.stdout, type=Measured)


def _canaries(data: SourceData, count: int) -> Any:
    """Places of samples of all classes in turn."""
    by_class = [np.flatnonzero(data.y == label) for label in np.unique(data.y)]
    turns = max(len(places) for places in by_class)
    return np.array([places[i] for i in range(turns) for places in by_class if i < len(places)][:count], np.int64)


def _accuracy(learner: Learner, data: SourceData, places: Any) -> float:
    """Of the state as built."""
    theta, right = learner.theta(), 0
    if not len(places):
        return 1.0
    with torch.no_grad():
        for part in np.array_split(places, -(-len(places) // CALIBRATION_BATCH)):
            right += int((learner.infer(theta, data.inputs(part)).logits.argmax(1) == data.labels(part)).sum())
    return right / len(places)


Taps = Sequence[tuple[Any, Any]]
"""Pooled taps [B, F] and labels [B], in batches."""


def _detector(project: Project, learner: Learner, source: Taps, apart: Taps, say: Say) -> Made | None:
    """Fitted to the taps of the learner as built; None without taps, or where the project wants none."""
    choice, taps = project.tables.detector, learner.encoder.taps
    if choice.form == "none" or not taps:
        return None
    say("fitting the detector")
    try:
        return fit(
            source,
            [features for features, _ in apart],
            [tap.shape[0] for tap in taps],
            learner.encoder.classes,
            form=choice.form,
            dimensions=choice.dimensions,
            seed=choice.seed,
        )
    except ValueError as error:
        raise ProjectError(f"detector.dimensions: {error}") from None


def _router(project: Project, learner: Learner, source: Taps, apart: Taps, say: Say) -> export.router.Made | None:
    """Fitted to the same; None without taps."""
    choice, taps = project.tables.router, learner.encoder.taps
    if not taps:
        return None
    say("fitting the router")
    try:
        return export.router.fit(
            [features for features, _ in source],
            [features for features, _ in apart],
            [tap.shape[0] for tap in taps],
            dimensions=choice.dimensions,
            seed=choice.seed,
            domains=choice.domains,
            full=choice.full,
        )
    except ValueError as error:
        raise ProjectError(f"router.dimensions: {error}") from None


def _head(manifest: Manifest, choice: Head, router: export.router.Made, source: Taps) -> head.Sums:
    """The sums of source samples that heads start from."""
    sums = head.HEADS[choice.form].empty(manifest.features, len(manifest.classes), choice.seed)
    for taps, labels in source:
        sums = sums.add(router.whitening(taps), labels)
    return sums


def _taps(learner: Learner, data: SourceData, places: Any) -> Taps:
    """Pooled taps [B, F] and labels [B] of these samples."""
    theta = learner.theta()
    with torch.no_grad():
        return [
            (learner.infer(theta, data.inputs(part)).taps.numpy(), data.y[part])
            for part in np.array_split(places, -(-len(places) // CALIBRATION_BATCH))
        ]


def _state(learner: Learner) -> State:
    theta, slots = (trace.flat(pieces).to(torch.float32).numpy() for pieces in (learner.theta(), learner.slots()))
    return State(trace.layout(learner), theta, slots)
