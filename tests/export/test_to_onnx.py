"""ONNX models against ATen, operator by operator, and whole steps against the compiled program and float64."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor

from edgecl.errors import ProjectError
from export.learners.adaptor import Adaptor
from export.learners.ecotta import EcoTTA
from export.learners.norm import Norm
from export.learners.source import Source
from export.learners.tent import Tent
from export.quantize import quantize
from export.to_onnx import TRANSLATIONS, to_onnx
from export.trace import Flat, methods
from export.xnnpack.operators import OPERATORS
from tests.export import nets, pipeline
from tests.export.operators import CASES, aten

BATCH, CLASSES, STEPS = 8, 5, 10


class Fast(Adaptor):
    """Moves as far in ten steps as the others do."""

    hyper: Mapping[str, float] = {**Adaptor.hyper, "lr": 0.01}


LEARNERS: dict[str, tuple[type[Source | Norm | Tent | EcoTTA | Adaptor], str, tuple[str, ...]]] = {
    "source": (Source, "infer", ("layer2",)),
    "norm": (Norm, "adapt", ()),
    "tent": (Tent, "adapt", ("layer3",)),
    "ecotta": (EcoTTA, "adapt", ("stem", "layer1", "layer2", "layer3")),
    "adaptor": (Fast, "adapt", ("layer1", "layer2", "layer3")),
}

FLIPS = 1e-2
"""In int8, relative to what changes: an activation halfway between two steps of the grid may go either way."""

TOLERANCE = 2e-5
"""Of numbers up to one, after ten steps in float32. One wrong operator shows as 1e-2 or more."""


@pytest.mark.parametrize("case", CASES)
def test_each_operator_gives_what_aten_gives(case: str, tmp_path: Path) -> None:
    function, example = CASES[case]
    graph = pipeline.graph_of(function, *example)
    program = pipeline.onnxruntime(tmp_path, {"run": graph})
    for got, want in zip(program.execute("run", pipeline.arrays(example)), graph(*example), strict=True):
        assert pipeline.apart(got, want) < 1e-6


def test_the_cases_use_every_operator_and_the_delegate_has_no_other() -> None:
    used = {n.target for f, example in CASES.values() for n in pipeline.graph_of(f, *example).graph.nodes}
    assert used >= TRANSLATIONS.keys()
    assert TRANSLATIONS.keys() == OPERATORS.keys()


@pytest.mark.parametrize("name", LEARNERS)
def test_ten_steps_agree_with_the_delegate_and_with_float64(name: str, tmp_path: Path) -> None:
    make, kind, taps = LEARNERS[name]

    def method(dtype: torch.dtype) -> Flat:
        learner = make(pipeline.captured(nets.ResNet, dtype, taps=taps, open_norms=make.open_norms))
        return methods(learner, kind, BATCH, nets.batch(nets.ResNet, BATCH).to(dtype), CLASSES)

    single, double = method(torch.float32), method(torch.float64)
    graphs = {single.name: pipeline.compiled(single)}
    engines = {
        "xnnpack": pipeline.xnnpack(tmp_path, graphs),
        "onnx": pipeline.onnxruntime(tmp_path, graphs),
    }
    given = {engine: dict(zip(single.inputs, pipeline.arrays(single.example), strict=True)) for engine in engines}
    exact = dict(zip(double.inputs, double.example, strict=True))
    for step in range(STEPS):
        x = nets.batch(nets.ResNet, BATCH, seed=step)
        exact["x"] = x.double()
        want = dict(zip(double.outputs, double.run(*exact.values()), strict=True))
        for engine, program in engines.items():
            given[engine]["x"] = x.numpy()
            got = dict(zip(single.outputs, program.execute(single.name, list(given[engine].values())), strict=True))
            for output in want:
                assert pipeline.apart(got[output], want[output]) < TOLERANCE, f"{engine}: {output} at step {step}"
            given[engine] |= {n: got[n] for n in ("theta", "slots") if n in got}
        exact |= {n: want[n].detach() for n in ("theta", "slots") if n in want}
    if kind == "adapt":  # all of this would be true of a step that does nothing
        assert pipeline.apart(exact["theta"], double.example[0]) > 100 * TOLERANCE


def test_a_step_with_an_encoder_in_int8_agrees_with_eager(tmp_path: Path) -> None:
    plain = pipeline.captured(nets.Depthwise, open_norms=True)
    small = quantize(plain, [nets.batch(nets.Depthwise, 16, seed=1)], backward="int8")
    method = methods(Tent(small), "adapt", BATCH, nets.batch(nets.Depthwise, BATCH), CLASSES)
    program = pipeline.onnxruntime(tmp_path, {method.name: pipeline.compiled(method)})
    got = dict(zip(method.outputs, program.execute(method.name, pipeline.arrays(method.example)), strict=True))
    want = dict(zip(method.outputs, method.run(*method.example), strict=True))
    before = dict(zip(method.inputs, method.example, strict=True))
    for output in want:
        start = before.get(output, torch.zeros(()))
        change = (want[output] - start).norm()
        assert (torch.from_numpy(got[output]) - want[output]).norm() < FLIPS * change, output


def test_the_same_graph_gives_the_same_bytes_in_another_process(
    here: dict[str, str], elsewhere: dict[str, str]
) -> None:
    assert elsewhere["onnx"] == here["onnx"]


def test_inputs_and_outputs_come_in_order_with_their_names_and_sizes() -> None:
    def swapped(theta: Tensor, unused: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return x, aten.neg.default(theta)

    graph = pipeline.graph_of(swapped, torch.ones(3), torch.ones(2), torch.ones(1, 4))
    model = onnx.load_from_string(to_onnx(graph, ["theta", "unused", "x"], ["logits", "theta"]))

    def sizes(tensors: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, list[int]]]:
        return [(t.name, [d.dim_value for d in t.type.tensor_type.shape.dim]) for t in tensors]

    assert sizes(model.graph.input) == [("theta", [3]), ("unused", [2]), ("x", [1, 4])]
    assert sizes(model.graph.output) == [("logits", [1, 4]), ("next_theta", [3])]
    assert model.opset_import[0].version >= 18


def test_a_constant_is_stored_once_however_often_it_is_used() -> None:
    w = torch.randn(64, 64)
    copy = w.clone()

    def product(x: Tensor) -> tuple[Tensor, ...]:
        for _ in range(4):
            x = aten.mul.Tensor(aten.mul.Tensor(x, w), copy)
        return (x,)

    data = to_onnx(pipeline.graph_of(product, torch.ones(64, 64)), ["x"], ["y"])
    assert 64 * 64 * 4 < len(data) < 1.2 * 64 * 64 * 4


def test_operators_without_a_translation_are_named_in_one_line() -> None:
    def strange(x: Tensor) -> tuple[Tensor, ...]:
        y = aten.erfinv.default(aten.cumsum.default(aten.erfinv.default(x), 0))
        return (aten.avg_pool2d.default(y, [2, 2], [2, 2], 0, True),)

    graph = pipeline.graph_of(strange, torch.rand(1, 1, 5, 5))
    with pytest.raises(ProjectError) as error:
        to_onnx(graph, ["x"], ["y"])
    assert str(error.value) == (
        "these operators have no translation to ONNX: aten.erfinv.default: not in the table; aten.cumsum.default: not "
        "in the table; aten.avg_pool2d.default: with ceil_mode; build without onnx"
    )
