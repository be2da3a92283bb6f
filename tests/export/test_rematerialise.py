"""Computing again instead of keeping: the same bits from less memory."""

import copy

import pytest
import torch
from torch import Tensor, fx

from export.learners.ecotta import EcoTTA
from export.lower import lower
from export.passes import lean
from export.passes.rematerialise import MIN_GAP, rematerialise
from export.trace import Flat, methods, trace
from tests.export import nets, pipeline
from tests.export.operators import aten

TAPS = ("layer1", "layer2", "layer3")


@pytest.fixture(scope="module")
def step() -> tuple[Flat, fx.GraphModule]:
    """A step of ecotta with 3x3 kernels, which lay padded copies of their inputs side by side."""
    learner = EcoTTA(pipeline.captured(nets.ResNet, taps=TAPS, open_norms=True), kernel=3)
    method = methods(learner, "adapt", 16, nets.batch(nets.ResNet, 16), 5)
    return method, lean(trace(method), method.example)


@pytest.mark.parametrize("arithmetic", [False, True])
def test_a_step_gives_the_same_bits_in_a_smaller_workspace(step: tuple[Flat, fx.GraphModule], arithmetic: bool) -> None:
    method, kept = step
    again = rematerialise(copy.deepcopy(kept), arithmetic=arithmetic)
    for one, other in zip(kept(*method.example), again(*method.example), strict=True):
        assert torch.equal(one, other)
    assert _workspace(again) < 0.9 * _workspace(kept)


def test_arithmetic_is_done_again_only_when_allowed(step: tuple[Flat, fx.GraphModule]) -> None:
    _, kept = step
    assert _sums(rematerialise(copy.deepcopy(kept))) == _sums(kept)
    assert _sums(rematerialise(copy.deepcopy(kept), arithmetic=True)) > _sums(kept)


@pytest.mark.parametrize("arithmetic", [False, True])
def test_a_sum_of_two_inputs_is_made_again_where_arithmetic_is_allowed(arithmetic: bool) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        three = aten.cat.default([_long(total := aten.add.Tensor(x, y))] * 3)
        return (aten.mul.Tensor(aten.slice.Tensor(three, 0, 0, 200), total),)

    example = torch.ones(200, 200), torch.full((200, 200), 0.1)
    graph = pipeline.graph_of(function, *example)
    want, before = graph(*example), _workspace(graph)
    again = rematerialise(graph, arithmetic=arithmetic)
    assert _count(again, aten.add.Tensor) == 1 + arithmetic
    assert _workspace(again) == pytest.approx(before * (4 / 5 if arithmetic else 1), rel=0.01)
    assert torch.equal(again(*example)[0], want[0])


def test_what_costs_as_much_to_keep_is_kept() -> None:
    """The padded image could be made again from the image, but that ends early: it would have to be kept instead."""

    def function(x: Tensor) -> tuple[Tensor, ...]:
        image = aten.exp.default(x)
        padded = aten.constant_pad_nd.default(image, [1, 1])
        return (aten.add.Tensor(_long(padded), padded),)

    graph = pipeline.graph_of(function, torch.ones(200, 200))
    assert _count(rematerialise(graph), aten.constant_pad_nd.default) == 1


def test_a_copy_of_an_input_is_made_again() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        padded = aten.constant_pad_nd.default(x, [1, 1])
        return (aten.add.Tensor(_long(padded), padded),)

    graph = pipeline.graph_of(function, torch.ones(200, 200))
    want = graph(torch.ones(200, 200))
    again = rematerialise(graph)
    assert _count(again, aten.constant_pad_nd.default) == 2
    assert torch.equal(again(torch.ones(200, 200))[0], want[0])


def _long(x: Tensor) -> Tensor:
    """Enough operators for a long wait."""
    for _ in range(2 * MIN_GAP):
        x = aten.sin.default(x)
    return x


def _workspace(graph: fx.GraphModule) -> int:
    return lower({"step": graph}).estimates["step"].workspace_bytes


def _count(graph: fx.GraphModule, target: object) -> int:
    return sum(node.target is target for node in graph.graph.nodes)


def _sums(graph: fx.GraphModule) -> int:
    return sum(_count(graph, target) for target in (aten.add.Tensor, aten.mul.Tensor, aten.relu.default))
