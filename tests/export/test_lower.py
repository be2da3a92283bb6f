"""Programs made of one delegate a method: against ATen operator by operator, and as files."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgecl import _runtime
from edgecl.errors import ProjectError
from export.learners.norm import Norm
from export.learners.source import Source
from export.lower import lower
from export.trace import methods
from tests.export import nets, pipeline
from tests.export.operators import CASES, aten

LOOSE = {
    "int8 for each image": 5e-3,  # a delegate rounds where a convolution reads, not before
    "int8 for each pixel": 5e-3,
    "int8": 5e-3,  # a number halfway between two steps may go either way
}


@pytest.mark.parametrize("case", CASES)
def test_each_operator_gives_what_aten_gives(case: str, tmp_path: Path) -> None:
    function, example = CASES[case]
    graph = pipeline.graph_of(function, *example)
    program = pipeline.xnnpack(tmp_path, {"run": graph})
    for got, want in zip(program.execute("run", pipeline.arrays(example)), graph(*example), strict=True):
        assert pipeline.apart(got, want) < LOOSE.get(case, 2e-6)


def test_every_method_is_one_delegate_and_all_share_their_constants(tmp_path: Path) -> None:
    learner = Norm(pipeline.captured(nets.ResNet, width=32, open_norms=True))
    made = [methods(learner, kind, n, nets.batch(nets.ResNet, n), 5) for kind, n in
            (("infer", 1), ("infer", 16), ("adapt", 16))]  # fmt: skip
    graphs = {method.name: pipeline.compiled(method) for method in made}
    path = tmp_path / "program.pte"
    path.write_bytes(together := lower(graphs).pte)
    for name in graphs:
        spec = _runtime.Program(path).describe(name)
        assert (spec.delegates, spec.instructions) == (1, 1)
    alone = {name: len(lower({name: graph}).pte) for name, graph in graphs.items()}
    weights = sum(p.numel() for p in nets.ResNet(32).parameters()) * 4
    assert alone["infer_b1"] > weights
    assert len(together) < alone["adapt_b16"] + 0.25 * (alone["infer_b1"] + alone["infer_b16"])


def test_inputs_and_outputs_have_the_shapes_and_the_order_of_the_method(tmp_path: Path) -> None:
    learner = Norm(pipeline.captured(nets.ResNet, taps=("layer3",), open_norms=True))
    method = methods(learner, "adapt", 2, nets.batch(nets.ResNet, 2), 5)
    path = tmp_path / "program.pte"
    path.write_bytes(lower({"adapt": pipeline.compiled(method)}).pte)
    spec = _runtime.Program(path).describe("adapt")
    assert [t.shape for t in spec.inputs] == [tuple(t.shape) for t in method.example]
    assert [t.shape for t in spec.outputs] == [tuple(t.shape) for t in method.run(*method.example)]
    assert {t.dtype for t in (*spec.inputs, *spec.outputs)} == {"float32"}


def test_the_same_graph_gives_the_same_bytes_here_and_in_another_process(
    here: dict[str, str], elsewhere: dict[str, str]
) -> None:
    learner = Source(pipeline.captured(nets.Mlp))
    method = methods(learner, "infer", 4, nets.batch(nets.Mlp, 4), 5)
    first, second = (lower({"infer": pipeline.compiled(method)}).pte for _ in range(2))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert elsewhere["pte"] == here["pte"]


def test_all_operators_outside_the_delegate_are_named_in_one_line() -> None:
    def strange(x: Tensor) -> tuple[Tensor, ...]:
        y, _ = aten.max.dim(aten.cumsum.default(aten.cumsum.default(x, 0), 1), 3, True)
        z = aten.add.Tensor(aten.avg_pool2d.default(x, [2, 2], [2, 2], 0, True), 1.0, alpha=2)
        return y, z, aten.slice.Tensor(x, 3, 0, 5, 2), aten.gelu.default(x, approximate="tanh")

    with pytest.raises(ProjectError) as error:
        lower({"adapt_b4": pipeline.graph_of(strange, torch.rand(1, 1, 5, 5))})
    assert str(error.value) == (
        "adapt_b4: these operators would stay outside the delegate: aten.cumsum.default: no XNNPACK operator for it; "
        "aten.max.dim: no XNNPACK operator for it; aten.avg_pool2d.default: pooling with ceil_mode or a divisor, or an "
        "average over padding; aten.add.Tensor: add or sub with alpha; aten.slice.Tensor: slice with a step; "
        "aten.gelu.default: gelu by another formula than that with erf; write model and learner without them"
    )


def test_a_convolution_with_a_weight_computed_at_run_time_is_refused() -> None:
    def convolution(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return (aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),)

    graph = pipeline.graph_of(convolution, torch.rand(1, 2, 3, 3), torch.rand(4, 2, 1, 1))
    with pytest.raises(ProjectError, match="weight computed at run time"):
        lower({"run": graph})
