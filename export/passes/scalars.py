"""Move multiplications by a number into constants next to them: the weight of a convolution, or another number."""

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def fold_scalars(graph: fx.GraphModule) -> fx.GraphModule:
    """conv(x * s, w) becomes conv(x, w * s), conv(x, w) * s the same, and (x * s) * t becomes x * (s t)."""
    for node in list(graph.graph.nodes):
        if node.target is aten.mul.Tensor and isinstance(node.args[1], float | int):
            source: Any = node.args[0]
            _fold(graph, node, float(node.args[1]))
            for done in (node, source):  # or it would still count as one who reads
                if done.op == "call_function" and not done.users:
                    graph.graph.erase_node(done)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _fold(graph: fx.GraphModule, node: fx.Node, number: float) -> None:
    source: Any = node.args[0]
    users = list(node.users)
    if len(users) == 1 and _weighs(users[0], node):
        _scale_weight(graph, users[0], number, bias=False)
        node.replace_all_uses_with(source)
    elif _weighs(source, None) and len(source.users) == 1:
        _scale_weight(graph, source, number, bias=True)
        node.replace_all_uses_with(source)
    elif source.target is aten.mul.Tensor and len(source.users) == 1:
        other = source.args[1]
        if isinstance(other, float | int):
            node.args = (source.args[0], number * float(other))
        else:
            _into_factor(graph, node, source, number)


def _into_factor(graph: fx.GraphModule, node: fx.Node, product: fx.Node, number: float) -> None:
    """(x * v) * s becomes x * (v * s) where v is much the smaller."""
    for place, other in ((0, 1), (1, 0)):
        small, large = product.args[place], product.args[other]
        assert isinstance(small, fx.Node) and isinstance(large, fx.Node)
        if small.meta["val"].numel() * 16 <= large.meta["val"].numel():
            with graph.graph.inserting_before(product):
                scaled = graph.graph.call_function(aten.mul.Tensor, (small, number))
            scaled.meta["val"] = small.meta["val"]
            product.update_arg(place, scaled)
            node.replace_all_uses_with(product)
            return


def _weighs(node: Any, by: fx.Node | None) -> bool:
    """Whether a node is a convolution with a constant weight (and takes `by` as its input)."""
    return (
        isinstance(node, fx.Node)
        and node.target is aten.convolution.default
        and isinstance(node.args[1], fx.Node)
        and node.args[1].op == "get_attr"
        and (by is None or (node.args[0] is by and by not in node.args[1:]))
    )


def _scale_weight(graph: fx.GraphModule, node: fx.Node, number: float, *, bias: bool) -> None:
    for place in (1, 2) if bias else (1,):
        constant = node.args[place]
        if constant is None:
            continue
        assert isinstance(constant, fx.Node)
        value = getattr(graph, str(constant.target)) * number
        name = f"{constant.target}_times"
        while hasattr(graph, name):
            name += "_"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            new = graph.graph.get_attr(name)
        new.meta["val"] = value
        node.update_arg(place, new)
