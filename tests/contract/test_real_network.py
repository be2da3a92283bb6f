"""The same contract on a real network and real data: ResNet-20 on corrupted CIFAR-10, where they are at hand."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from export import trace
from export.calibrate import calibrate
from export.eager import EagerProgram
from export.encoder import capture
from export.learners.ecotta import EcoTTA
from tests.export import pipeline

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # whose files are scripts, not a package
data: Any = importlib.import_module("data")
models: Any = importlib.import_module("models")

BATCH = 16
STEPS = 50
TAPS = ("layer1:in", "layer1", "layer2", "layer3")

LOGITS_TOLERANCE = 5e-3
STATE_TOLERANCE = 2e-2


@pytest.fixture(scope="module", autouse=True)
def _data() -> None:
    try:
        data.root()
    except SystemExit as absent:
        pytest.skip(str(absent))


def _inputs(images: npt.NDArray[np.uint8], dtype: torch.dtype) -> torch.Tensor:
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype) / 255
    mean, std = (torch.tensor(v, dtype=dtype).reshape(1, 3, 1, 1) for v in (data.MEAN, data.STD))
    return ((x - mean) / std).contiguous()


def _learner(dtype: torch.dtype) -> EcoTTA:
    source = _inputs(data.train()[0][:256], dtype)
    encoder = capture(models.resnet20().to(dtype), source[:2], taps=TAPS, open_norms=True)
    encoder = calibrate(encoder, torch.split(source, 64))
    learner = EcoTTA(encoder)
    learner.begin(source)
    moved = torch.Generator().manual_seed(3)
    learner.settle(
        {k: v + 0.02 * torch.randn(v.shape, generator=moved).to(v) for k, v in learner.start.items()}, source
    )
    return learner


def test_fifty_steps_on_noise_compiled_are_fifty_steps_in_float64(tmp_path: Path) -> None:
    images, labels = data.corrupted("gaussian_noise")
    small, large = _learner(torch.float32), _learner(torch.float64)
    method = trace.methods(small, "adapt", BATCH, _inputs(images[:BATCH], torch.float32), 10)
    exact = trace.methods(large, "adapt", BATCH, _inputs(images[:BATCH], torch.float64), 10)
    program = pipeline.xnnpack(tmp_path, {method.name: pipeline.compiled(method)})
    reference = EagerProgram([exact], torch.float64)
    start = dict(zip(method.inputs, (value.numpy() for value in method.example), strict=True))
    ours, theirs = dict(start), dict(start)
    right = 0
    for step in range(STEPS):
        x = _inputs(images[step * BATCH : (step + 1) * BATCH], torch.float32).numpy()
        out = dict(
            zip(
                method.outputs, program.execute(method.name, [(ours | {"x": x})[t] for t in method.inputs]), strict=True
            )
        )
        want = dict(
            zip(
                exact.outputs,
                reference.execute(exact.name, [(theirs | {"x": x})[t] for t in exact.inputs]),
                strict=True,
            )
        )
        ours |= {key: out[key] for key in ("theta", "slots")}
        theirs |= {key: want[key] for key in ("theta", "slots")}
        assert pipeline.apart(out["logits"], want["logits"]) < LOGITS_TOLERANCE
        right += int((out["logits"].argmax(1) == labels[step * BATCH : (step + 1) * BATCH]).sum())
    for key in ("theta", "slots"):
        moved = np.linalg.norm(theirs[key] - start[key])
        assert np.linalg.norm(ours[key] - theirs[key]) < STATE_TOLERANCE * moved
    assert right / (STEPS * BATCH) > 0.5  # the network as trained is right on a quarter
