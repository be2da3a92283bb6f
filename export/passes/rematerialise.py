"""Compute cheap tensors again on the way back instead of keeping them from the way forward.

What an adaptor puts out, for example, is a sum of two scaled tensors that are kept anyway. A tensor is computed again when all that it takes is still there by
then, through cheap operators alone.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

CHEAP = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.relu.default,
    aten.hardtanh.default,
    aten.reshape.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.cat.default,
    aten.constant_pad_nd.default,
}
"""One pass over memory or none."""

MIN_BYTES = 1 << 16
"""Smaller tensors are not worth an operator."""

MIN_GAP = 40
"""Operators between two uses that make the wait long."""

MAX_AGAIN = 12
"""Operators to run again for one tensor."""


def rematerialise(graph: fx.GraphModule) -> fx.GraphModule:
    """The same function, to the bit, with shorter lives."""
    done: set[fx.Node] = set()
    while (plan := _next(graph, done)) is not None:
        node, late, again = plan
        done.add(node)
        copies: dict[fx.Node, fx.Node] = {}
        with graph.graph.inserting_before(late[0]):
            for old in again:
                copies[old] = graph.graph.node_copy(old, lambda n: copies.get(n, n))
        done.update(copies.values())
        for user in late:
            user.replace_input_with(node, copies[node])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _next(graph: fx.GraphModule, done: set[fx.Node]) -> tuple[fx.Node, list[fx.Node], list[fx.Node]] | None:
    """The largest tensor to compute again: itself, its late users, and what to run, in order."""
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    last: dict[fx.Node, int] = {}
    for node in place:
        for source in node.all_input_nodes:
            last[_root(source)] = max(last.get(_root(source), 0), place[node])
    candidates = [n for n in place if n not in done and _bytes(n) >= MIN_BYTES and _cheap(graph, n) and not _moves(n)]
    for node in sorted(candidates, key=lambda n: -_bytes(n)):
        late = _late(node, place)
        again = _plan(graph, node, place[late[0]], last) if late else None
        if again is not None:
            return node, late, sorted(again, key=place.__getitem__)
        done.add(node)
    return None


def _root(node: fx.Node) -> fx.Node:
    """The node that a reshape or permute reads: they move nothing, and what it computed lives as long as they are used."""
    while _moves(node):
        node = node.args[0]  # type: ignore[assignment]
    return node


def _late(node: fx.Node, place: dict[fx.Node, int]) -> list[fx.Node]:
    """The direct users from which the longest wait on begins; none when there is no early use, or no long wait."""
    uses = sorted((min((place[end] for end in _ends(user)), default=place[user]), user) for user in node.users)
    gaps = [(uses[i][0] - uses[i - 1][0], i) for i in range(1, len(uses))]
    widest, cut = max(gaps, default=(0, 0))
    return sorted((user for _, user in uses[cut:]), key=place.__getitem__) if widest >= MIN_GAP else []


def _ends(user: fx.Node) -> Iterator[fx.Node]:
    """Who really reads: the user, or those behind it when it moves nothing."""
    if _moves(user):
        for after in user.users:
            yield from _ends(after)
    else:
        yield user


def _moves(node: Any) -> bool:
    return node.target in (aten.reshape.default, aten.permute.default)


def _plan(graph: fx.GraphModule, node: fx.Node, when: int, last: dict[fx.Node, int]) -> set[fx.Node] | None:
    """Nodes to run again so that `node` is there at `when`; None when something costly is gone by then."""
    again: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current in again:
            continue
        again.add(current)
        if len(again) > MAX_AGAIN:
            return None
        for source in current.all_input_nodes:
            if source.op in ("placeholder", "get_attr") or _bytes(source) < MIN_BYTES or last[_root(source)] >= when:
                continue
            if not _cheap(graph, source):
                return None
            waiting.append(source)
    return again


def _cheap(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target is aten.convolution.default:
        return _gathers(graph, node.args[1])
    return node.target in CHEAP


def _gathers(graph: fx.GraphModule, weight: Any) -> bool:
    """Whether a convolution only moves pixels: each of its outputs reads one input, times one."""
    if weight.op != "get_attr":
        return False
    value = getattr(graph, str(weight.target))
    return bool((value != 0).sum() == len(value)) and value.numel() > len(value)


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
