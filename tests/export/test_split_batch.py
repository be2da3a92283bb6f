"""A batch in parts: the same numbers, one part after the other, and only where it pays."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from export.learners.ecotta import EcoTTA
from export.lower import lower
from export.passes import lean
from export.passes.rematerialise import rematerialise
from export.passes.split_batch import COPIES_BYTES, PART_BYTES, parts_for, split_batch
from export.trace import methods, trace
from tests.export import nets, pipeline
from tests.export.operators import aten

SPLITTING = importlib.import_module("export.passes.split_batch")
Function = Callable[..., tuple[Tensor, ...]]

_generator = torch.Generator().manual_seed(11)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator)


_KERNEL = _random(3, 3, 3, 3)
_EXACT = _KERNEL.double()


def _convolve(x: Tensor, kernel: Tensor = _EXACT) -> Tensor:
    out: Tensor = aten.convolution.default(x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    return out


CASES: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "convolutions": (lambda x: (_convolve(aten.relu.default(_convolve(x))),), (_random(8, 3, 6, 6),)),
    "a factor for each channel": (lambda x, s: (aten.mul.Tensor(x, s),), (_random(8, 3, 6, 6), _random(3, 1, 1))),
    "a factor for each sample": (
        lambda x, s: (aten.mul.Tensor(aten.reshape.default(s, [8, 1, 1, 1]), _convolve(x)),),
        (_random(8, 3, 6, 6), _random(8)),
    ),
    "pixels as rows": (
        lambda x: (aten.neg.default(aten.reshape.default(aten.permute.default(x, [0, 2, 3, 1]), [1, 288, 3])),),
        (_random(8, 3, 6, 6),),
    ),
    "the batch last": (
        lambda x: (aten.neg.default(aten.permute.default(x, [1, 2, 3, 0])),), (_random(8, 3, 6, 6),)
    ),
    "a reshape across samples": (
        lambda x: (aten.neg.default(aten.reshape.default(x, [2, -1])),), (_random(8, 3, 6, 6),)
    ),
    "products summed over the batch": (
        lambda x: (
            aten.bmm.default(
                aten.permute.default(aten.reshape.default(x, [1, 48, 18]), [0, 2, 1]),
                aten.reshape.default(aten.neg.default(x), [1, 48, 18]),
            ),
        ),
        (_random(8, 3, 6, 6),),
    ),
    "a mean over the batch": (
        lambda x: (aten.mean.dim(aten.neg.default(x), [0, 2, 3], True),), (_random(8, 3, 6, 6),)
    ),
    "cut and padded images": (
        lambda x: (aten.constant_pad_nd.default(aten.slice.Tensor(x, 2, 1, 5), [1, 0, 0, 2], 0.5),),
        (_random(8, 3, 6, 6),),
    ),
    "cut and padded batches": (
        lambda x: (
            aten.constant_pad_nd.default(aten.slice.Tensor(aten.neg.default(x), 0, 1, 5), [0, 0] * 3 + [1, 2], 0.5),
        ),
        (_random(8, 3, 6, 6),),
    ),
    "channels side by side": (
        lambda x: (aten.cat.default([x, aten.neg.default(x)], 1),), (_random(8, 3, 6, 6),)
    ),
    "batches one after the other": (
        lambda x: (aten.cat.default([x, aten.neg.default(x)], 0),), (_random(8, 3, 6, 6),)
    ),
    "probabilities": (lambda x: (aten._softmax.default(x, 1, False),), (_random(8, 5),)),
    "probabilities over the batch": (lambda x: (aten._softmax.default(x, 0, False),), (_random(8, 5),)),
}  # fmt: skip
"""A function, and its input."""


@pytest.mark.parametrize("case", CASES)
def test_a_batch_in_four_parts_gives_what_it_gives_in_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SPLITTING, "LEAST_BYTES", 0)
    function, example = CASES[case]
    exact = tuple(t.double() for t in example)
    whole = pipeline.graph_of(function, *exact)
    split = split_batch(whole, exact, 4)
    for got, want in zip(split(*exact), function(*exact), strict=True):
        assert pipeline.apart(got, want) < 1e-12
    assert len({node.name for node in split.graph.nodes}) > len({node.name for node in whole.graph.nodes})


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_compiled_step_in_parts_is_the_step_in_one(
    kernel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SPLITTING, "LEAST_BYTES", 0)
    learner = EcoTTA(pipeline.captured(nets.ResNet, taps=("layer1", "layer3"), open_norms=True), kernel=kernel)
    method = methods(learner, "adapt", 8, nets.batch(nets.ResNet, 8), 5)
    results = []
    for parts in (1, 2):
        graph = rematerialise(lean(trace(method), method.example, parts=parts))
        (tmp_path / str(parts)).mkdir()
        program = pipeline.xnnpack(tmp_path / str(parts), {"adapt": graph})
        results.append(program.execute("adapt", pipeline.arrays(method.example)))
    for one, two in zip(*results, strict=True):
        assert pipeline.apart(one, two) < 2e-5


def test_one_part_goes_on_until_the_parts_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SPLITTING, "LEAST_BYTES", 0)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = _convolve(aten.relu.default(_convolve(x)))
        mean = aten.mean.dim(y, [0, 2, 3], True)
        return (_convolve(aten.relu.default(aten.sub.Tensor(y, mean))),)

    x = _random(4, 3, 6, 6).double()
    split = split_batch(pipeline.graph_of(function, x), (x,), 2)
    order = [_part(node) for node in split.graph.nodes if node.target is aten.convolution.default]
    assert order == [0, 0, 1, 1, 0, 1]


def _part(node: fx.Node) -> int:
    """Which half of the batch a node came from, by its images."""
    while node.target is not aten.slice.Tensor:
        node = node.all_input_nodes[0]
    assert isinstance(node.args[2], int)
    return node.args[2] // 2


def _parts(batch: int, side: int, within: int = 3) -> int:
    """Of a 3x3 convolution with four output channels."""
    w = torch.zeros(4, within, 3, 3, device="meta")
    x = torch.zeros(batch, within, side, side, device="meta")
    return parts_for(pipeline.graph_of(lambda x: (F.relu(aten.convolution.default(
        x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)),), x))  # fmt: skip


def test_a_batch_is_split_until_its_largest_tensor_fits_the_cache() -> None:
    side = 64
    fits = PART_BYTES // (4 * 4 * side * side)
    assert _parts(fits, side) == 1
    assert _parts(2 * fits, side) == 2
    assert _parts(8 * fits, side) == 8


def test_a_batch_of_one_and_an_odd_one_are_split_as_far_as_they_go() -> None:
    assert _parts(1, 512) == 1
    assert _parts(3, 512) == 3


def test_a_network_with_large_weights_is_split_less() -> None:
    within = COPIES_BYTES // (4 * 4 * 9) // 2  # a copy and no more than two may be had
    assert _parts(64, 64, within // 4) == 4
    assert _parts(64, 64, within) == 2
    assert _parts(64, 64, 2 * within + 1) == 1


def test_copies_of_packed_weights_are_in_the_estimate() -> None:
    def once(x: Tensor) -> tuple[Tensor, ...]:
        return (aten.add.Tensor(_convolve(x, _KERNEL), x),)

    def twice(x: Tensor) -> tuple[Tensor, ...]:
        return (aten.add.Tensor(_convolve(x, _KERNEL), _convolve(aten.neg.default(x), _KERNEL)),)

    x = torch.zeros(4, 3, 8, 8)
    made = lower({function.__name__: pipeline.graph_of(function, x) for function in (once, twice)})
    one, two = (made.estimates[name].weights_bytes for name in ("once", "twice"))
    assert two - one > _KERNEL.numel() * 4
