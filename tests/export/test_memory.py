"""Estimates of memory against what a process without PyTorch measures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export import memory
from export.learners.source import Source
from export.learners.tent import Tent
from export.lower import lower
from export.trace import methods
from tests.export import nets, pipeline
from tests.export.operators import aten


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, memory.Estimate], dict[str, int]]:
    """An answering and a learning method of networks wide enough that tensors outweigh bookkeeping."""
    graphs = {}
    for kind, learner, size, net in (("infer", Source, 4, nets.ResNet), ("adapt", Tent, 16, nets.Depthwise)):
        torch.manual_seed(0)
        encoder = pipeline.captured(net, width=32, open_norms=learner.open_norms)
        graphs[kind] = pipeline.compiled(methods(learner(encoder), kind, size, nets.batch(net, size), 5))
    lowered = lower(graphs)
    path = tmp_path_factory.mktemp("memory") / "program.pte"
    path.write_bytes(lowered.pte)
    return path, dict(lowered.estimates), dict(lowered.planned_bytes)


@pytest.mark.parametrize("method", ["infer", "adapt"])
def test_the_estimate_is_within_a_tenth_of_what_is_measured(
    method: str, program: tuple[Path, dict[str, memory.Estimate], dict[str, int]]
) -> None:
    path, estimates, planned = program
    done = subprocess.run([sys.executable, "-m", "edgecl.measure", path, method], capture_output=True, check=True)
    (cost,) = json.loads(done.stdout)["costs"]
    assert estimates[method].workspace_bytes == pytest.approx(cost["workspace_bytes"], rel=0.1)
    assert estimates[method].weights_bytes + planned[method] == pytest.approx(cost["weights_bytes"], rel=0.1)


def test_the_largest_tensors_at_the_peak_are_named_with_their_sizes() -> None:
    w = torch.zeros(32, 3, 1, 1)

    def wide(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        return (aten.mean.dim(y, [2, 3], True),)

    estimate = lower({"wide": pipeline.graph_of(wide, torch.ones(2, 3, 8, 8))}).estimates["wide"]
    assert estimate.largest[0].what == "Conv2d [2, 8, 8, 32]"
    assert estimate.largest[0].bytes == 4 * 2 * 8 * 8 * 32 + memory.OVER_READ
    assert estimate.largest[0].bytes < estimate.workspace_bytes < 1.5 * estimate.largest[0].bytes


def test_an_operator_that_can_write_over_its_input_takes_no_room() -> None:
    def chain(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = aten.exp.default(x)
        for _ in range(3):
            y = aten.sin.default(y)
        return (aten.cos.default(y),)

    estimate = lower({"chain": pipeline.graph_of(chain, torch.ones(1000))}).estimates["chain"]
    assert estimate.workspace_bytes == 4000 + memory.OVER_READ
