"""Remove what computes nothing: copies, views of views, pieces cut and put together again, constants, repetitions."""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.dialect.common.cse_pass import CSEPass

from export.passes.rewrite import frozen_nodes

aten = torch.ops.aten

_COPIES = {
    aten.detach.default,
    aten.alias.default,
    aten.clone.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
}
_SHAPING = {aten.reshape.default, aten.expand.default, aten.slice.Tensor, aten.permute.default}
"""What these give has the value of their input where it has its shape; permuted, also its order."""


def tidy(graph: fx.GraphModule) -> fx.GraphModule:
    """The same function in fewer nodes, to the bit."""
    _fold_constants(graph)
    for node in list(graph.graph.nodes):
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # a view of a copy stays right when the copy goes
        elif node.target is aten.max_pool2d_with_indices.default and all(user.args[1] == 0 for user in node.users):
            _without_indices(graph.graph, node)
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and (same := _equal_node(node)) is not None:
            node.replace_all_uses_with(same)
    graph.graph.eliminate_dead_code()
    for node in list(graph.graph.nodes):
        if node.target is aten.cat.default:
            _join_slices(graph.graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    result = CSEPass()(graph)
    assert result is not None
    tidied: fx.GraphModule = result.graph_module
    tidied.graph.eliminate_dead_code()
    tidied.delete_all_unused_submodules()
    tidied.recompile()
    return tidied


def shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of the tensor that a node computes."""
    return tuple(node.meta["val"].shape)


def _equal_node(node: fx.Node) -> fx.Node | None:
    """An earlier node with exactly the value of this one."""
    order: Any
    source, order = (*node.args, None, None)[:2]
    if not isinstance(source, fx.Node):
        return None
    if node.target in _COPIES:
        return source
    if node.target is aten._to_copy.default and node.meta["val"].dtype == source.meta["val"].dtype:
        return source
    same_shape = node.target in _SHAPING and shape(node) == shape(source)
    if same_shape and (node.target is not aten.permute.default or list(order) == sorted(order)):
        return source
    if node.target is aten.reshape.default and source.target is aten.reshape.default:
        with node.graph.inserting_before(node):
            new = node.graph.call_function(aten.reshape.default, (source.args[0], order))
        new.meta = dict(node.meta)
        return _equal_node(new) or new
    return None


def _without_indices(graph: fx.Graph, node: fx.Node) -> None:
    """A pool of which only the largest values are read, not where they were."""
    for part in list(node.users):
        with graph.inserting_before(node):
            pooled = graph.call_function(aten.max_pool2d.default, node.args)
        pooled.meta = dict(part.meta)
        part.replace_all_uses_with(pooled)


def _join_slices(graph: fx.Graph, node: fx.Node) -> None:
    """cat(v[0:3], v[3:5], w) becomes cat(v[0:5], w): named pieces that a step did not touch."""
    parts: list[Any] = []
    assert isinstance(node.args[0], (list, tuple))
    for part in node.args[0]:
        here, before = _cut(part), _cut(parts[-1]) if parts else None
        if here is not None and before is not None and here[0] is before[0] and here[1] == before[2]:
            with graph.inserting_before(node):
                joined = graph.call_function(aten.slice.Tensor, (here[0], 0, before[1], here[2]))
            joined.meta["val"] = node.meta["val"].new_empty(here[2] - before[1])
            parts[-1] = joined
        else:
            parts.append(part)
    parts = [c[0] if (c := _cut(p)) and (c[1], c[2]) == (0, shape(c[0])[0]) else p for p in parts]
    if len(parts) == 1:
        node.replace_all_uses_with(parts[0])
    else:
        node.args = (parts, *node.args[1:])


def _cut(node: Any) -> tuple[fx.Node, int, int] | None:
    """(vector, start, end) where a node is a slice of a vector, also through views back to one dimension."""
    source = node
    while source.target is aten.reshape.default and len(shape(node)) == 1:
        source = source.args[0]
    if source.target is aten.slice.Tensor and len(shape(source)) == 1 and len(source.args) < 5:
        length, start = shape(source.args[0])[0], source.args[2]
        start = start + length if start < 0 else start
        return source.args[0], start, start + shape(source)[0]
    return None


def _fold_constants(graph: fx.GraphModule) -> None:
    """Compute what depends on constants only; what it gives becomes a constant."""
    frozen = frozen_nodes(graph.graph)
    wanted = [
        node
        for node in graph.graph.nodes
        if node in frozen and node.op != "get_attr" and any(user not in frozen for user in node.users)
    ]
    values = _Constants(graph, frozen).compute()
    for number, node in enumerate(wanted):
        value = values[node]
        if not isinstance(value, Tensor):
            continue
        name = f"constant_{number}"
        while hasattr(graph, name):
            name += "_"
        graph.register_buffer(name, value.detach().clone().contiguous())
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta["val"] = value
        node.replace_all_uses_with(constant)
    graph.graph.eliminate_dead_code()


class _Constants(fx.Interpreter):
    """Evaluates the frozen nodes only."""

    def __init__(self, graph: fx.GraphModule, frozen: set[fx.Node]) -> None:
        super().__init__(graph)
        self.frozen = frozen

    def compute(self) -> dict[fx.Node, Any]:
        for node in self.graph.nodes:
            if node in self.frozen:
                for source in node.all_input_nodes:
                    if source not in self.env:  # read for its shape only
                        like = source.meta["val"]
                        self.env[source] = torch.empty(like.shape, dtype=like.dtype)
                self.env[node] = self.run_node(node)
        return self.env
