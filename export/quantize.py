"""An encoder in int8: weights with a scale for each output channel, activations on grids set here or at run time.

Where batch normalisations are folded away, activations are int8 from convolution to convolution, on grids fixed by
what source data reached. Where they are open, what leaves a convolution has to be float, because the statistics follow
the input; there each convolution takes its input in int8 on a grid for each image, set at run time. So does every
linear layer: its few outputs, often the logits, gain more from float than they cost.

These stay float: on grids set at run time, convolutions in groups (XNNPACK has none) and 1x1 convolutions of few
channels (slower in int8); 1-d convolutions; and what stands between layers, except sums of two int8 images, max-pooling
and what only moves numbers. The mean over positions at the end reads int8 and computes in float: it is cheap, and
another rounding would reach the logits undamped.

PyTorch's own path (torchao's pt2e with XNNPACK's quantizer) does not serve: it takes no folded weights of an encoder,
keeps no place for a learner at the taps, its roundings have no gradient, and the padded shortcut of a residual network
stays float.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from edgecl.errors import ProjectError
from export.encoder import Encoder
from export.rounding import (
    Activation,
    Grid,
    When,
    convolution,
    linear,
    rounded,
    rounded_per_image,
    rounded_weight,
    weight_scales,
    when_read,
)

aten = torch.ops.aten

Run = Callable[[Encoder, Tensor], object]
"""Runs a batch of source data through an encoder as the board will, adaptors included."""

MAX_RATIO = 2.0**6
"""How many output steps one step of int8 products may be worth; XNNPACK takes less than 2^8."""

MIN_SCALE = 1e-20
"""Its products with the scales of weights are normal numbers of float32, as XNNPACK demands."""

_MOVING = {
    aten.slice.Tensor,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.permute.default,
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.max_pool2d.default,
}
"""int8 goes in and comes out, on the same grid."""

_RANGE = "range_"


def quantize(
    encoder: Encoder,
    batches: Iterable[Tensor],
    *,
    backward: Literal["float", "int8"] = "float",
    run: Run = lambda encoder, x: encoder(x),
) -> Encoder:
    """The encoder in int8, computed in float32 on int8 grids: as the compiled program does, up to a step of a grid.

    `batches` are source data [B, *input_shape]; none is needed where norms are open. `run` takes one through the
    learner that will run on the board, as warmed up: what enters a partition is what the learner put at its tap.
    With `backward` "int8", gradients that go back through a layer are rounded too, on a grid for each image; those
    through convolutions in groups stay float. Raises ProjectError: grids have to be set, and there is no batch.
    """
    graph = copy.deepcopy(encoder.graph)
    _complete(graph)
    quantized = Encoder(graph, encoder.norms, encoder.taps, encoder.input_shape, encoder.classes)
    if not encoder.norms:
        _place_ranges(graph)
    _take_per_image(graph, convolutions=bool(encoder.norms))
    if not encoder.norms:
        graph.recompile()
        with torch.no_grad():
            for batch in batches:
                run(quantized, batch)
    for node in [node for node in graph.graph.nodes if _is_range(node)]:
        _settle(graph, node)
    if backward == "int8":
        _round_gradients(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return quantized


class Range(nn.Module):
    """Passes on what it gets, and keeps the least and the largest of it."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.seen = 0.0, 0.0, False

    def forward(self, x: Tensor) -> Tensor:
        low, high = torch.aminmax(x.detach())
        self.low, self.high, self.seen = min(self.low, float(low)), max(self.high, float(high)), True
        return x

    def grid(self, least: float) -> Grid:
        """256 steps from the least number to the largest, one of them 0; a step is `least` or more."""
        if not self.seen:
            raise ProjectError("quantize: no source data to set the int8 grids with; give data.train")
        scale = max((self.high - self.low or 1.0) / 255, least, MIN_SCALE)
        return Grid(scale, max(-128, min(127, round(-128 - self.low / scale))))


# static


def _place_ranges(graph: fx.GraphModule) -> None:
    """A Range behind every value that becomes int8, in place of the ReLU there, if any."""
    small: set[fx.Node] = set()  # what its users get in int8

    def place(node: fx.Node) -> fx.Node:
        name = f"{_RANGE}{sum(1 for _ in graph.children())}"
        graph.add_module(name, Range())
        with graph.graph.inserting_after(node):
            new = graph.graph.call_module(name, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        if "tap" in node.meta and not _is_range(node):  # a learner gets it rounded; what it returns is rounded again
            new.meta["tap"] = node.meta.pop("tap")
        else:
            mark(new)
        return new

    def mark(node: fx.Node) -> None:
        small.add(node)
        for user in node.users:
            if user.target in _MOVING and "tap" not in user.meta:
                mark(user)

    def ensure(node: fx.Node) -> None:
        if node not in small:
            while node.target in _MOVING and "tap" not in node.meta:
                node = node.args[0]  # type: ignore[assignment]
            first = place(node)
            if first not in small:
                place(first)

    for node in list(graph.graph.nodes):
        if _is_convolution(node):
            ensure(node.args[0])
            place(_end(node))
        elif _is_sum(node) and all(_comes_rounded(operand, small) for operand in node.args):
            for operand in node.args:
                ensure(operand)
            place(_end(node))


def _is_sum(node: fx.Node) -> bool:
    return node.target is aten.add.Tensor and not node.kwargs


def _comes_rounded(operand: Any, small: set[fx.Node]) -> bool:
    """Whether a value is in int8 already, or would be if there were no tap behind it."""
    while isinstance(operand, fx.Node) and operand not in small and operand.target in _MOVING:
        operand = operand.args[0]
    return isinstance(operand, fx.Node) and (operand in small or (_is_range(operand) and "tap" in operand.meta))


def _end(node: fx.Node) -> fx.Node:
    """The activation behind a layer, or the layer where there is none."""
    if len(node.users) == 1 and "tap" not in node.meta:
        (user,) = node.users
        if _activation(user) != "none":
            return user
    return node


def _activation(node: fx.Node) -> Activation:
    if node.target is aten.relu.default:
        return "relu"
    return "clamp" if node.target is aten.hardtanh.default and node.args[1:2] == (0,) else "none"


def _settle(graph: fx.GraphModule, node: fx.Node) -> None:
    """Put a rounding in place of a Range and the activation before it; those before this one are settled."""
    source: Any = node.args[0]
    activation = _activation(source)
    layer: Any = source if activation == "none" else source.args[0]
    seen = graph.get_submodule(str(node.target))
    assert isinstance(seen, Range)
    grid = seen.grid(0.0)
    if _is_convolution(layer):
        grid = _round_layer(graph, layer, _grid_before(layer), seen)
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(rounded, (layer, grid.scale, grid.zero_point, activation))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _round_layer(graph: fx.GraphModule, layer: fx.Node, entering: Grid, leaving: Range) -> Grid:
    """Round weight and bias of a convolution between grids; returns the grid of its output."""
    w, bias = _tensor(graph, layer.args[1]), _tensor(graph, layer.args[2])
    step = leaving.grid(0.0).scale
    reach = w.abs().flatten(1).sum(1) * 255 * entering.scale
    w = rounded_weight(torch.where((reach < step / 2).reshape(-1, 1, 1, 1), 0.0, w))  # what no output could show
    products = weight_scales(w) * entering.scale
    _set(graph, layer, 1, w)
    _set(graph, layer, 2, torch.round(bias / products) * products)
    return leaving.grid(float(products.max()) / MAX_RATIO)


def _grid_before(layer: fx.Node) -> Grid:
    node: Any = layer.args[0]
    while node.target in _MOVING:
        node = node.args[0]
    assert node.target is rounded
    return Grid(node.args[1], node.args[2])


# per image


def _take_per_image(graph: fx.GraphModule, *, convolutions: bool) -> None:
    """Round the inputs of layers at run time, and their weights now."""
    made: dict[Any, fx.Node] = {}
    for node in list(graph.graph.nodes):
        when: When = "never"
        if _is_linear(node):
            when = "image"
        elif convolutions and _is_convolution(node) and node.args[6] == 1:
            when = when_read(_tensor(graph, node.args[1]), node.args[3], node.args[4])
        if when != "never":
            key = node.args[0], when == "pixel"
            if key not in made:
                with graph.graph.inserting_before(node):
                    made[key] = graph.graph.call_function(rounded_per_image, key)
            node.update_arg(0, made[key])
            _set(graph, node, 1, rounded_weight(_tensor(graph, node.args[1])))


# gradients


def _round_gradients(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        if _is_linear(node):
            node.args, node.target = (*node.args, None)[:3], linear
        elif _is_convolution(node) and node.args[6] == 1:
            node.args, node.target = node.args[:6], convolution


# layers


def _complete(graph: fx.GraphModule) -> None:
    """Give every 2-d convolution with constant weight all of its arguments, bias included."""
    for node in graph.graph.nodes:
        if node.target is aten.conv2d.default and _is_constant(node.args[1]):
            given = [*node.args, *(None, 1, 0, 1, 1)[len(node.args) - 2 :]]
            node.args = (*given[:3], *(_pair(a) for a in given[3:6]), given[6])
            if node.args[2] is None:
                _set(graph, node, 2, torch.zeros(len(_tensor(graph, node.args[1]))))


def _is_convolution(node: fx.Node) -> bool:
    return node.target is aten.conv2d.default and _is_constant(node.args[1]) and _is_constant(node.args[2])


def _is_linear(node: fx.Node) -> bool:
    return node.target is aten.linear.default and _is_constant(node.args[1]) and node.meta["val"].dim() == 2


def _is_constant(arg: Any) -> bool:
    return isinstance(arg, fx.Node) and arg.op == "get_attr"


def _is_range(node: fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith(_RANGE)


def _pair(number: Any) -> list[int]:
    return [number] * 2 if isinstance(number, int) else [number[0], number[-1]]


def _tensor(graph: fx.GraphModule, arg: Any) -> Tensor:
    value: Any = graph
    for part in str(arg.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach()


def _set(graph: fx.GraphModule, layer: fx.Node, index: int, value: Tensor) -> None:
    """Make `value` an argument of a layer, as a constant of its own."""
    name = f"rounded_{layer.name}_{index}"
    graph.register_buffer(name, value.contiguous())
    with graph.graph.inserting_before(layer):
        layer.update_arg(index, graph.graph.get_attr(name))
