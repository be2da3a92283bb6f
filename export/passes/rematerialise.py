"""Compute cheap tensors again on the way back instead of keeping them from the way forward.

Copies of a tensor that is kept anyway (padded, cut, side by side) are always made again. What takes arithmetic, such as
the sum that an adaptor puts out of two tensors that are kept, is computed again only where memory is short: it costs up
to a tenth of the step.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

MOVING = {
    aten.reshape.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.cat.default,
    aten.constant_pad_nd.default,
}
ARITHMETIC = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.relu.default, aten.hardtanh.default}
"""One pass over memory each."""

MIN_BYTES = 1 << 16
"""Smaller tensors are not worth an operator."""

MIN_GAP = 40
"""Operators between two uses that make the wait long."""

MAX_DEPTH = 16
"""Operators in a row to run again for one tensor."""


def rematerialise(graph: fx.GraphModule, *, arithmetic: bool = False) -> fx.GraphModule:
    """The same function, to the bit, with shorter lives; `arithmetic` allows more than making copies again."""
    _again(graph, MOVING)
    if arithmetic:  # only now: while a tensor is still kept, copies can be made from it
        _again(graph, MOVING | ARITHMETIC)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _again(graph: fx.GraphModule, cheap: set[Any]) -> None:
    _unshare_views(graph)
    done: set[fx.Node] = set()
    while (plan := _next(graph, done, cheap)) is not None:
        node, late, again = plan
        done.add(node)
        copies = _copy(graph.graph, again, late[0])
        done.update(copies.values())
        for user in late:
            user.replace_input_with(node, copies[node])


def _copy(graph: fx.Graph, nodes: list[fx.Node], before: fx.Node) -> dict[fx.Node, fx.Node]:
    """Run the nodes once more before this one; returns the copy of each."""
    copies: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(before):
        for node in nodes:
            copies[node] = graph.node_copy(node, lambda n: copies.get(n, n))
    return copies


def _unshare_views(graph: fx.GraphModule) -> None:
    """Give every reader its own reshape or permute, so that those who read early and late can be told apart."""
    for node in reversed(list(graph.graph.nodes)):
        if _moves(node):
            for user in list(node.users)[1:]:
                with graph.graph.inserting_before(user):
                    user.replace_input_with(node, graph.graph.node_copy(node))


def _next(
    graph: fx.GraphModule, done: set[fx.Node], cheap: set[Any]
) -> tuple[fx.Node, list[fx.Node], list[fx.Node]] | None:
    """The largest tensor to compute again: itself, its late users, and what to run, in order."""
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    last: dict[fx.Node, int] = {}
    for node in place:
        for source in node.all_input_nodes:
            last[_root(source)] = max(last.get(_root(source), 0), place[node])
    candidates = [n for n in place if n not in done and _bytes(n) >= MIN_BYTES and n.target in cheap and not _moves(n)]
    for node in sorted(candidates, key=lambda n: -_bytes(n)):
        late = _late(node, place)
        again = _plan(node, place[late[0]], last, cheap) if late else None
        if again is not None:
            return node, late, sorted(again, key=place.__getitem__)
        done.add(node)
    return None


def _root(node: fx.Node) -> fx.Node:
    """What a reshape or permute reads: they move nothing, and what was computed lives as long as they are used."""
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


def _plan(node: fx.Node, when: int, last: dict[fx.Node, int], cheap: set[Any]) -> set[fx.Node] | None:
    """Nodes to run again so that `node` is there at `when`; None when that would keep half as much alive, or more."""
    price, again = _price(node, when, last, cheap, MAX_DEPTH)
    return again if 2 * price <= _bytes(node) else None


def _price(node: fx.Node, when: int, last: dict[fx.Node, int], cheap: set[Any], depth: int) -> tuple[int, set[fx.Node]]:
    """The least that must be kept longer to run a node again, in bytes, and what to run."""
    price, again = 0, {node}
    for source in node.all_input_nodes:
        if source.op in ("placeholder", "get_attr") or _bytes(source) < MIN_BYTES or last[_root(source)] >= when:
            continue
        kept, deeper = _bytes(source), set[fx.Node]()
        if source.target in cheap and depth:
            instead, run = _price(source, when, last, cheap, depth - 1)
            if instead < kept:
                kept, deeper = instead, run
        price += kept
        again |= deeper
    return price, again


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
