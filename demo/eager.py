"""The same learner on the same stream in PyTorch, for comparison: `python -m demo.eager LEARNER STREAM`.

It answers image by image and adapts to every full batch, as `edgecl run --sync` does, and prints the same events.
LEARNER is a file that `save` wrote elsewhere, so that this process loads PyTorch and nothing that builds bundles.
"""

import pickle
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import safetensors.torch
import torch
from torch import fx

from edgecl.bundle import open_bundle, read_state
from edgecl.resident import resident_bytes
from export import project as projects
from export.calibrate import calibrate
from export.encoder import capture
from export.learners import Learner, Pieces, adapts, warms
from export.learners.table import LEARNERS
from export.project import Project
from export.source_data import SourceData
from export.trace import split
from export.warmup import SETTLE_SAMPLES

CALIBRATION_BATCH = 64


def save(folder: Path, bundle: Path, path: Path) -> None:
    """Write the learner of a project to a file, as its bundle has it."""
    project = projects.read(folder)
    learner = _as_built(project, SourceData(*project.data(project.tables.data.train), project.given), bundle)
    stock, graph = learner.encoder.graph, fx.Graph()
    (logits,) = graph.graph_copy(stock.graph, {})  # type: ignore[misc]
    graph.output(logits)  # torch.export's own graph does not pickle
    learner.encoder.graph = fx.GraphModule(stock, graph)
    with path.open("wb") as file:
        marks = [{key: node.meta[key] for key in ("tap", "norm") if key in node.meta} for node in _calls(learner)]
        pickle.dump((learner, marks, project.given, project.tables.learner.batch), file)


def main(path: Path, stream: Path) -> None:
    """Run a saved learner, and print what came of it."""
    torch.set_num_threads(1)  # as edgecl does
    with path.open("rb") as file:
        learner, marks, given, batch = pickle.load(file)
    for node, mark in zip(_calls(learner), marks, strict=True):  # a pickled graph forgets what edgecl noted in it
        node.meta.update(mark)
    with np.load(stream) as arrays:
        _run(learner, SourceData(arrays["x"], arrays["y"], given), batch)


def _as_built(project: Project, source: SourceData, path: Path) -> Learner:
    """What a build makes of the project, with what was trained taken from its bundle."""
    entry, network = LEARNERS[project.tables.learner.name], project.function(project.tables.model.factory)()
    network.load_state_dict(safetensors.torch.load_file(project.folder / str(project.tables.model.weights)))
    encoder = capture(network, source.inputs(slice(0, 2)), taps=project.tables.model.taps, open_norms=entry.open_norms)
    parts = np.array_split(np.arange(len(source)), -(-len(source) // CALIBRATION_BATCH))
    learner = entry.make(calibrate(encoder, (source.inputs(places) for places in parts)))
    if warms(learner):
        with open_bundle(path) as bundle:
            theta = split(torch.from_numpy(read_state(bundle).theta.copy()), bundle.manifest.layout.theta)
        trained = {name: theta[name] for name in learner.start}
        learner.settle(trained, source.inputs(source.spread_out(SETTLE_SAMPLES)))
    return learner


def _calls(learner: Learner) -> list[fx.Node]:
    return [node for node in learner.encoder.graph.graph.nodes if node.op == "call_function"]


def _run(learner: Learner, stream: SourceData, batch: int) -> None:
    """Answer, and learn, and print an event for every answer and one at the end."""
    theta, slots = learner.theta(), learner.slots()
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    answers_ms, updates_ms = [], []
    for position in range(len(stream)):
        began = time.perf_counter()
        x = stream.inputs(slice(position, position + 1))
        with torch.no_grad():
            label = int(learner.infer(theta, x).logits.argmax())
        answers_ms.append(1e3 * (time.perf_counter() - began))
        _print(event="prediction", position=position, label=label, y=int(stream.y[position]))
        if (position + 1) % batch == 0 and adapts(learner):
            began = time.perf_counter()
            x = stream.inputs(slice(position + 1 - batch, position + 1))
            step = learner.adapt(theta, slots, x, torch.zeros(learner.noise), hyper)
            if step.applied is None or step.applied > 0:
                theta, slots = _detached(theta | step.theta), _detached(slots | step.slots)
            updates_ms.append(1e3 * (time.perf_counter() - began))
    _print(
        event="summary",
        resident_bytes=resident_bytes(),
        answer_ms=median(answers_ms),
        update_ms=median(updates_ms) if updates_ms else None,
        rolled_back=0,
    )


def _detached(pieces: Pieces) -> Pieces:
    return {name: piece.detach() for name, piece in pieces.items()}


def _print(**event: Any) -> None:
    print(msgspec.json.encode(event).decode())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
