"""Lean graphs against the functions that they were traced from, rule by rule, and what they must not have."""

import functools
from collections.abc import Callable, Hashable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from export.encoder import Encoder
from export.learners import Learner
from export.learners.ecotta import EcoTTA
from export.learners.norm import Norm
from export.learners.tent import Tent
from export.passes import lean
from export.passes.tidy import tidy
from export.trace import Flat, methods, trace
from export.xnnpack.operators import OPERATORS
from tests.export import nets, pipeline
from tests.export.operators import aten, quantized

Function = Callable[..., tuple[Tensor, ...]]

_generator = torch.Generator().manual_seed(5)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator, dtype=torch.float64)


def _frozen(w: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Function:
    """A frozen convolution between two that train nothing either; the gradient with respect to its input."""

    def function(x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_(True)
        call = F.conv2d if w.dim() == 4 else F.conv1d
        y = call(x, w, None, stride, padding, dilation, groups)
        return y.detach(), *torch.autograd.grad((y * y).mean(), [x])

    return function


def _trainable(stride: int, padding: int) -> Function:
    """A convolution whose weight and bias are inputs; gradients with respect to all."""

    def function(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        x, w, b = (t.detach().requires_grad_(True) for t in (x, w, b))
        y = F.conv2d(x, w, b, stride, padding)
        return y.detach(), *torch.autograd.grad((y * y).mean(), [x, w, b])

    return function


def _through(activation: Callable[[Tensor], Tensor]) -> Function:
    """An activation between frozen convolutions, and the way back through it."""
    w = _random(4, 4, 3, 3)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_(True)
        y = F.conv2d(activation(F.conv2d(x, w.to(x), padding=1)), w.to(x))
        return y.detach(), *torch.autograd.grad((y * y).mean(), [x])

    return function


def _gradient(of: Callable[..., Tensor]) -> Function:
    """A function and the gradient of its squares with respect to all that it takes."""

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_(True) for t in given]
        y = of(*leaves)
        return y.detach(), *torch.autograd.grad((y * y).sum(), leaves)

    return function


def _compare(how: str) -> Function:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        by = getattr(torch, how)
        return by(x, y).to(x.dtype), by(x, 0.25).to(x.dtype), torch.where(by(x, y), x, 2 * y)

    return function


slopes = _random(4).abs()
constant = _random(5, 7)
same = _random(4, 4, 3, 3)

CASES: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    **{
        f"frozen {name}": (_frozen(_random(*w), **how), (_random(*x),))
        for name, w, x, how in (
            ("3x3", (6, 4, 3, 3), (2, 4, 7, 6), {"padding": 1}),
            ("3x3 without padding", (6, 4, 3, 3), (2, 4, 7, 6), {}),
            ("3x3 stride 2", (6, 4, 3, 3), (2, 4, 7, 6), {"stride": 2, "padding": 1}),
            ("5x5 stride 3", (6, 4, 5, 5), (2, 4, 11, 9), {"stride": 3, "padding": 2}),
            ("3x3 dilated", (6, 4, 3, 3), (2, 4, 8, 9), {"padding": 2, "dilation": 2}),
            ("3x3 in groups", (6, 2, 3, 3), (2, 4, 6, 6), {"padding": 1, "groups": 2}),
            ("3x3 in groups, stride 2", (6, 2, 3, 3), (2, 4, 6, 6), {"padding": 1, "groups": 2, "stride": 2}),
            ("3x3 of each channel", (8, 1, 3, 3), (2, 4, 6, 6), {"padding": 1, "groups": 4}),
            ("1x1", (6, 4, 1, 1), (2, 4, 5, 5), {}),
            ("1x1 stride 2", (6, 4, 1, 1), (2, 4, 6, 5), {"stride": 2}),
            ("1x1 in a wide frame", (6, 4, 1, 1), (2, 4, 5, 5), {"padding": 1}),
            ("3x1", (6, 4, 3, 1), (2, 4, 5, 6), {}),
            ("5 in one dimension", (6, 4, 5), (2, 4, 9), {"stride": 2, "padding": 2}),
        )
    },
    **{
        f"trainable {name}": (_trainable(stride, padding), (_random(*x), _random(*w), _random(w[0])))
        for name, w, x, stride, padding in (
            ("1x1", (6, 4, 1, 1), (2, 4, 5, 6), 1, 0),
            ("1x1 stride 2", (6, 4, 1, 1), (2, 4, 5, 6), 2, 0),
            ("3x3", (6, 4, 3, 3), (2, 4, 5, 6), 1, 1),
            ("3x3 without padding", (6, 4, 3, 3), (2, 4, 5, 6), 1, 0),
            ("3x3 stride 2", (6, 4, 3, 3), (2, 4, 8, 6), 2, 1),
            ("5x5", (6, 4, 5, 5), (2, 4, 7, 6), 1, 2),
            ("3x3 over more images than the cache takes", (2, 64, 3, 3), (9, 64, 16, 16), 1, 1),
            ("3x3 stride 2 over more images than the cache takes", (2, 64, 3, 3), (9, 64, 16, 16), 2, 1),
        )
    },
    **{
        f"through {name}": (_through(activation), (_random(2, 4, 6, 6),))
        for name, activation in (
            ("relu", torch.relu),
            ("relu6", F.relu6),
            ("hardtanh", lambda x: F.hardtanh(x, -0.7, 1.3)),
            ("relu6 and another clamp of the same", lambda x: F.relu6(x) + F.hardtanh(x, 0.0, 1.0)),
            ("sigmoid", torch.sigmoid),
            ("tanh", torch.tanh),
            ("silu", F.silu),
            ("hardswish", F.hardswish),
            ("hardsigmoid", F.hardsigmoid),
            ("leaky relu", lambda x: F.leaky_relu(x, 0.2)),
            ("prelu", lambda x: F.prelu(x, slopes.to(x))),
            ("a product with a number", lambda x: x * 3.0 * 0.5),
            ("a square root", lambda x: torch.sqrt(x * x + 0.1)),
            ("max pool", lambda x: F.max_pool2d(x, 2)),
            ("max pool, overlapping", lambda x: F.max_pool2d(x, 3, 2, 1)),
            ("average pool", lambda x: F.avg_pool2d(x, 2)),
            ("average pool, overlapping", lambda x: F.avg_pool2d(x, 3, 1)),
            ("a transposed convolution", lambda x: F.conv_transpose2d(x, same.to(x), stride=2, padding=1)),
            ("squeeze and excitation", lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
        )
    },
    "pool of the whole image": (_gradient(lambda x: F.avg_pool2d(x, 4)), (_random(2, 3, 4, 4),)),
    "pool to one pixel": (_gradient(lambda x: F.adaptive_avg_pool2d(x, 1)), (_random(2, 3, 4, 5),)),
    **{
        f"{how} over {dims} of {len(shape)}{' kept' if keep else ''}": (
            _gradient(lambda x, how=how, dims=dims, keep=keep: getattr(x, how)(dims, keepdim=keep)),
            (_random(*shape),),
        )
        for how in ("mean", "sum")
        for shape, dims, keep in (
            ((2, 3, 4, 5), (0, 2, 3), False),
            ((2, 3, 4, 5), (2, 3), True),
            ((2, 3, 4, 5), (2, 3), False),
            ((2, 3, 4, 5), (1, 3), True),
            ((2, 3, 4, 5), (0, 1, 2, 3), False),
            ((3, 5), (1,), False),
            ((3, 5), (-1,), True),
            ((3, 5), (0,), False),
            ((2, 3, 5), (2,), False),
            ((7,), (0,), False),
        )
    },
    "mean of all": (_gradient(lambda x: x.mean()), (_random(2, 3, 4, 5),)),
    "sum of all": (_gradient(lambda x: x.sum()), (_random(2, 3),)),
    "linear": (_gradient(lambda x: F.linear(x, constant, slopes.new_ones(5))), (_random(3, 7),)),
    "product with a constant": (_gradient(lambda x: x @ constant), (_random(3, 5),)),
    "product of two": (_gradient(lambda x, y: x @ y), (_random(3, 5), _random(5, 4))),
    "log softmax": (_gradient(lambda x: torch.log_softmax(x, 1)), (_random(3, 5),)),
    "softmax": (_gradient(lambda x: torch.softmax(x, 1)), (_random(3, 5),)),
    "entropy": (_gradient(lambda x: -(torch.softmax(x, 1) * torch.log_softmax(x, 1)).sum(1)), (_random(3, 5),)),
    "reciprocal": (_gradient(lambda x: 1 / x), (_random(3, 5).abs() + 1,)),
    "every second pixel": (_gradient(lambda x: x[:, :, ::2, 1::2] * 2), (_random(2, 3, 7, 6),)),
    "every third row of some": (_gradient(lambda x: x[:, :, 1:6:3] * 2), (_random(2, 3, 7, 6),)),
    "parts of a vector": (_gradient(lambda x: torch.cat([x[2:5] * 2, x[-3:], x[0:2]])), (_random(8),)),
    "a padded image, cut": (_gradient(lambda x: F.pad(x, (1, -1, -2, 1)) * 2), (_random(2, 3, 7, 6),)),
    "expanded": (_gradient(lambda x: x.expand(2, 3, 4, 5) * 2), (_random(1, 3, 1, 1),)),
    "both expanded": (
        _gradient(lambda x, y: x.expand(2, 3, 4, 5) * y.expand(2, 3, 4, 5)), (_random(1, 3, 1, 1), _random(2, 1, 4, 5))
    ),
    "stacked": (_gradient(lambda x, y: torch.stack([x, y * 2], 1)), (_random(3, 4), _random(3, 4))),
    "split": (_gradient(lambda x: torch.cat([p * (i + 1) for i, p in enumerate(x.split([1, 3, 2], 1))], 1)),
              (_random(2, 6),)),
    "selected": (_gradient(lambda x: x[:, 1] * x[:, -1]), (_random(2, 6),)),
    "turned": (_gradient(lambda x: x.transpose(1, 2).unsqueeze(0).squeeze(0) * 2), (_random(2, 3, 4),)),
    "divided by a number": (_gradient(lambda x: x / 3.0), (_random(2, 3),)),
    **{f"where {how}": (_compare(how), (_random(3, 5), _random(3, 5))) for how in ("lt", "gt", "le", "ge")},
    "sign": (lambda x: (torch.sign(x), torch.sgn(x)), (torch.cat([_random(9), torch.zeros(1)]),)),
}  # fmt: skip


def _method(function: Function, example: tuple[Tensor, ...]) -> Flat:
    names = tuple(f"x{i}" for i in range(len(example)))
    return Flat("case", function, names, ("y",), example)


@pytest.mark.parametrize("case", CASES)
def test_a_lean_graph_is_the_same_function(case: str) -> None:
    function, exact = CASES[case]
    masks = case.startswith("through")  # bytes are made of float32 only
    example = tuple(t.float() for t in exact) if masks else exact
    graph = lean(trace(_method(function, example)), example)
    for got, want in zip(graph(*example), function(*exact), strict=True):
        assert pipeline.apart(got, want) < (2e-6 if masks else 1e-11)
    left = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert left <= OPERATORS.keys()


def test_zeros_pass_no_gradient_through_a_mask_and_the_smallest_numbers_pass_all() -> None:
    x = torch.tensor([-1e30, -1e-9, 0.0, 1e-9, 1.0, 1e30]).reshape(1, 1, 2, 3)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(torch.relu(x).sum(), [x])

    graph = lean(trace(_method(function, (x,))), (x,))
    assert any(node.target is quantized.quantize_per_tensor.default for node in graph.graph.nodes)
    assert torch.equal(graph(x)[0], function(x)[0])


def test_a_maximum_that_is_there_twice_gives_both_its_gradient() -> None:
    """The one difference from PyTorch, which gives it to the first: documented in export/passes/pools.py."""

    def function(x: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(F.max_pool2d(x, 2).sum(), [x])

    x = torch.tensor([[2.0, 2.0], [1.999999, 0.0]]).reshape(1, 1, 2, 2)
    assert lean(trace(_method(function, (x,))), (x,))(x)[0].flatten().tolist() == [1, 1, 0, 0]


# what is not there


Make = Callable[[Encoder], Learner]


@functools.cache
def _adapt(make: Make, net: Hashable, taps: tuple[str, ...] = ()) -> tuple[Flat, fx.GraphModule]:
    """A step of a learner on a network of nets.SHAPES, and its lean graph."""
    assert isinstance(net, type)
    encoder = pipeline.captured(net, taps=taps, open_norms=True)
    method = methods(make(encoder), "adapt", 4, nets.batch(net, 4), 5)
    return method, lean(trace(method), method.example)


def _targets(graph: fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("net", list(nets.SHAPES))
def test_every_network_comes_down_to_operators_of_the_delegate(net: type[torch.nn.Module]) -> None:
    method, graph = _adapt(Tent, net)  # type: ignore[arg-type]  # classes can be hashed, whatever mypy says
    assert set(_targets(graph)) <= OPERATORS.keys()
    for got, want in zip(graph(*method.example), method.run(*method.example), strict=True):
        assert pipeline.apart(got, want) < 1e-5


def test_nothing_that_a_frozen_convolution_read_waits_for_the_way_back() -> None:
    method, graph = _adapt(Tent, nets.ResNet)
    assert _kept(trace(method), aten.relu.default) >= 6  # autograd keeps the input of every convolution
    assert _kept(graph, aten.relu.default) == 0
    masks = [n for n in graph.graph.nodes if n.target is quantized.quantize_per_tensor.default]
    assert len(masks) == 7  # one byte an element for each ReLU
    for mask in masks:
        assert mask.prev is mask.args[0] or mask.prev in masks  # packed where it arises


def _kept(graph: fx.GraphModule, target: object) -> int:
    """How many results of an operator are read, as floats, after the loss."""
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    loss = min(place[n] for n in place if n.target in (aten._softmax.default, aten._log_softmax.default))
    packing = quantized.quantize_per_tensor.default

    def readers(node: fx.Node) -> list[fx.Node]:
        views = (aten.detach.default, aten.reshape.default, aten.view.default)
        return [end for u in node.users for end in (readers(u) if u.target in views else [u])]

    return sum(
        any(place[reader] > loss for reader in readers(node) if reader.target is not packing)
        for node in place
        if node.target is target
    )


def test_no_weight_gradient_of_a_frozen_layer_is_computed() -> None:
    """All gradients with respect to weights are products of pixel matrices; tent has no weight to train."""
    _, graph = _adapt(Tent, nets.ResNet)
    assert aten.bmm.default not in _targets(graph)


@pytest.mark.parametrize(
    ("taps", "masks", "frozen"), [(("layer2", "layer3"), 1, 0), (("layer1", "layer2", "layer3"), 4, 3)]
)
def test_below_the_first_trainable_tensor_there_is_no_way_back(taps: tuple[str, ...], masks: int, frozen: int) -> None:
    """One mask for each meta network, two for each block above the first; three convolutions in such a block."""
    _, graph = _adapt(EcoTTA, nets.ResNet, taps)
    assert _targets(graph).count(quantized.quantize_per_tensor.default) == masks
    forward, backward = _convolutions(graph)
    assert forward == 10
    assert backward == 1 + frozen  # that of the last layer, and of the partitions between


def _convolutions(graph: fx.GraphModule) -> tuple[int, int]:
    """Those before and after the loss, without sums over rows, which are products with ones."""
    nodes = list(graph.graph.nodes)
    loss = next(i for i, n in enumerate(nodes) if n.target is aten._softmax.default)

    def count(part: list[fx.Node]) -> int:
        found = [n for n in part if n.target is aten.convolution.default]
        return sum(not bool((getattr(graph, str(n.args[1].target)) == 1).all()) for n in found)  # type: ignore[union-attr]

    return count(nodes[:loss]), count(nodes[loss:])


def test_a_learner_without_gradients_has_no_way_back() -> None:
    _, graph = _adapt(Norm, nets.ResNet)
    assert quantized.quantize_per_tensor.default not in _targets(graph)
    assert _convolutions(graph) == (10, 0)


def test_numbers_are_multiplied_into_weights() -> None:
    w = torch.randn(4, 4, 3, 3)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (F.conv2d(F.conv2d(x * 2.0, w) * 3.0, w) * 0.5 * 4.0,)

    x = torch.randn(1, 4, 7, 7)
    graph = lean(trace(_method(function, (x,))), (x,))
    assert _targets(graph) == [aten.convolution.default] * 2


# tidy


def test_copies_views_and_repetitions_go() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x.clone().detach().reshape(6).reshape(2, 3).permute(0, 1)
        return torch.exp(y) + torch.exp(x), y

    x = torch.randn(2, 3)
    graph = tidy(trace(_method(function, (x,))))
    assert _targets(graph) == [aten.exp.default, aten.add.Tensor]
    assert torch.equal(graph(x)[0], function(x)[0])


def test_constants_are_computed_once_and_for_all() -> None:
    w = torch.randn(3)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return (x * torch.exp(w).sum() + torch.zeros_like(x).cos(),)

    x = torch.randn(3)
    graph = tidy(trace(_method(function, (x,))))
    assert _targets(graph) == [aten.mul.Tensor, aten.add.Tensor]
    assert torch.equal(graph(x)[0], function(x)[0])


def test_pieces_that_nothing_touched_stay_together() -> None:
    def function(v: Tensor) -> tuple[Tensor, ...]:
        a, b, c = v[0:3].reshape(1, 3), v[3:5], v[5:9]
        return torch.cat([a.reshape(-1), b, c]), torch.cat([a.reshape(-1), b, 2 * c]), torch.cat([v[-4:], v[0:3]])

    v = torch.randn(9)
    graph = tidy(trace(_method(function, (v,))))
    assert graph.graph.output_node().args[0][0].op == "placeholder"  # type: ignore[index, union-attr]
    parts = [len(n.args[0]) for n in graph.graph.nodes if n.target is aten.cat.default]
    assert parts == [2, 2]
    for got, want in zip(graph(v), function(v), strict=True):
        assert torch.equal(got, want)
