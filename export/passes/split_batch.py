"""Take a large batch a few samples at a time, so that what an operator writes is still in the cache for the next.

A tensor with the batch in it becomes several, one for each part of the batch. Operators that treat every sample alike
are repeated for each part; sums over the batch become sums of the parts' sums, so batch statistics and gradients stay
those of the whole batch. Where the parts meet, and nowhere else, one part waits for the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from export.round_per_image import round_per_image

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

PART_BYTES = 1 << 20
"""The largest tensor of a part: half the second-level cache of a server core, all of a Cortex-A72's."""

COPIES_BYTES = 8 << 20
"""XNNPACK packs the weights of an operator for itself, so every part costs a copy; all of them may take this."""

LEAST_BYTES = 1 << 16
"""Tensors of which a part is smaller go on in one piece: an operator costs more than its arithmetic there."""


def parts_for(graph: fx.GraphModule) -> int:
    """Into how many equal parts the batch of a graph is best split; 1 where it is small or its weights are large."""
    nodes: list[fx.Node] = list(graph.graph.nodes)
    batch = _batch(graph)
    widest = max((n.meta["val"].numel() * 4 for n in nodes if _is_batch(n, batch)), default=0)
    weights = sum(_weight_bytes(n) for n in nodes if n.target is aten.convolution.default)
    best = 1
    for count in range(1, batch + 1):
        if weights * (count - 1) > COPIES_BYTES or widest <= best * PART_BYTES:
            break
        if batch % count == 0:
            best = count
    return best


def _batch(graph: fx.GraphModule) -> int:
    """How many samples a graph takes: of its inputs, these are the one that is not a vector."""
    values = (node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder")
    return next((int(value.shape[0]) for value in values if value.dim() > 1), 1)


def _is_batch(node: fx.Node, batch: int) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == batch


def _weight_bytes(node: fx.Node) -> int:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return int(weight.meta["val"].numel() * 4)


def split_batch(graph: fx.GraphModule, example: Sequence[Tensor], count: int) -> fx.GraphModule:
    """The same function, with the batch in `count` equal parts; sums over the batch are rounded in another order."""
    if count == 1:
        return graph
    split = make_fx(_Splitting(graph, count).run, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    _part_by_part(split, count)
    return split


@dataclass(frozen=True, eq=False)
class Parts:
    """A tensor in equal parts along a dimension."""

    items: Sequence[Tensor]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape = list(self.items[0].shape)
        shape[self.dim] *= len(self.items)
        return tuple(shape)

    def each(self, function: Callable[[Tensor], Tensor], dim: int | None = None) -> "Parts":
        """The parts of another tensor, whose parts lie along `dim`."""
        return Parts([function(item) for item in self.items], self.dim if dim is None else dim)


class _Splitting(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, count: int) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.count = count
        self.batch = _batch(graph)
        self._wholes: dict[Parts, Tensor] = {}
        self._pieces: dict[tuple[fx.Node, int], Sequence[Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "output":
            return tuple(self.whole(self.env[source]) for source in n.args[0])  # type: ignore[union-attr, index]
        if n.op == "placeholder":
            value = super().run_node(n)
            return self.pieces(n, value, 0) if value.dim() > 1 and value.shape[0] == self.batch else value
        args = fx.map_arg(n.args, self.env.get)
        if n.op != "call_function" or not any(isinstance(a, Parts) for a in _flat(args)):
            return super().run_node(n)
        rule = RULES.get(n.target)
        done = rule(self, n, args) if rule else None
        if done is None:
            return n.target(*self._whole_args(args), **n.kwargs)  # type: ignore[operator]
        if isinstance(done, Parts) and done.items[0].numel() * 4 < LEAST_BYTES:
            return self.whole(done)
        return done

    def _whole_args(self, args: Any) -> list[Any]:
        return [self._whole_args(a) if isinstance(a, list | tuple) else self.whole(a) for a in args]

    def whole(self, value: Any) -> Any:
        """The parts in one tensor."""
        if not isinstance(value, Parts):
            return value
        if value not in self._wholes:
            self._wholes[value] = torch.cat(list(value.items), value.dim)
        return self._wholes[value]

    def pieces(self, node: fx.Node, value: Tensor, dim: int) -> Parts:
        """A whole tensor in parts."""
        if (node, dim) not in self._pieces:
            size = value.shape[dim] // self.count
            self._pieces[node, dim] = [
                aten.slice.Tensor(value, dim, i * size, (i + 1) * size) for i in range(self.count)
            ]
        return Parts(self._pieces[node, dim], dim)


def _flat(args: Any) -> list[Any]:
    return [item for a in args for item in (a if isinstance(a, list | tuple) else [a])]


Rule = Callable[[_Splitting, fx.Node, Sequence[Any]], Any]
"""rule(splitting, node, args): the result in parts, or whole where it sums over the batch; None to join the parts."""


def _pointwise(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    """Every number of the result depends on the same place of its inputs, repeated where they are smaller."""
    rank = node.meta["val"].dim()
    from_end = {a.dim - len(a.shape) for a in args if isinstance(a, Parts)}
    if len(from_end) > 1:
        return None
    dim = from_end.pop()
    columns = []
    for given, a in zip(node.args, args, strict=True):
        if isinstance(a, Tensor) and a.dim() >= -dim and a.shape[dim] != 1:
            assert isinstance(given, fx.Node)
            a = splitting.pieces(given, a, dim % a.dim())
        columns.append(a.items if isinstance(a, Parts) else [a] * splitting.count)
    target: Any = node.target
    return Parts([target(*row, **node.kwargs) for row in zip(*columns, strict=True)], dim % rank)


def _per_sample(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    """Every sample of the first argument on its own; the others are the same for all."""
    x, *others = args
    if not isinstance(x, Parts) or x.dim != 0 or any(isinstance(a, Parts) for a in others):
        return None
    target: Any = node.target
    return x.each(lambda item: target(item, *others, **node.kwargs))


def _mean(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    x, dims = args[0], args[1] or range(len(args[0].shape))
    if x.dim in {d % len(x.shape) for d in dims} or not (len(args) > 2 and args[2]):
        return None
    return x.each(lambda item: aten.mean.dim(item, *args[1:]))  # type: ignore[no-any-return]


def _softmax(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    x, dim, *rest = args
    return None if x.dim == dim % len(x.shape) else x.each(lambda item: aten._softmax.default(item, dim, *rest))


def _permute(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts:
    x, perm = args[0], [d % len(args[0].shape) for d in args[1]]
    return x.each(lambda item: item.permute(perm), perm.index(x.dim))  # type: ignore[no-any-return]


def _reshape(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    """Where a dimension of the result begins with the batch as the dimension of the parts does."""
    x, shape = args[0], list(node.meta["val"].shape)
    before = math.prod(x.shape[: x.dim])
    for dim, size in enumerate(shape):
        if math.prod(shape[:dim]) == before and size % splitting.count == 0 and size:
            shape[dim] = size // splitting.count
            return x.each(lambda item: aten.reshape.default(item, shape), dim)  # type: ignore[no-any-return]
    return None


def _slice(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    x, dim = args[0], (args[1] if len(args) > 1 else 0)
    if dim % len(x.shape) == x.dim:
        return None
    return x.each(lambda item: aten.slice.Tensor(item, dim, *args[2:]))  # type: ignore[no-any-return]


def _pad(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    x, padding = args[0], args[1]
    place = 2 * (len(x.shape) - 1 - x.dim)
    if any(padding[place : place + 2]):
        return None
    return x.each(lambda item: aten.constant_pad_nd.default(item, *args[1:]))  # type: ignore[no-any-return]


def _cat(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | None:
    tensors, dim = args[0], (args[1] if len(args) > 1 else 0) % node.meta["val"].dim()
    dims = {t.dim if isinstance(t, Parts) else None for t in tensors}
    if len(dims) > 1 or dim in dims:
        return None
    rows = zip(*(t.items for t in tensors), strict=True)
    return Parts([torch.cat(row, dim) for row in rows], tensors[0].dim)


def _bmm(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Parts | Tensor | None:
    one, other = args
    if isinstance(one, Parts) and one.dim == 1 and not isinstance(other, Parts):
        return one.each(lambda item: torch.bmm(item, other))
    if isinstance(one, Parts) and isinstance(other, Parts) and (one.dim, other.dim) == (2, 1):
        return _sum([torch.bmm(a, b) for a, b in zip(one.items, other.items, strict=True)])
    return None


def _convolution_backward(splitting: _Splitting, node: fx.Node, args: Sequence[Any]) -> Any:
    g, x, *rest = args
    if (
        not isinstance(g, Parts)
        or not isinstance(x, Parts)
        or g.dim
        or x.dim
        or any(isinstance(a, Parts) for a in rest)
    ):
        return None
    pairs = zip(g.items, x.items, strict=True)
    to_x, to_w, to_b = zip(*(aten.convolution_backward.default(a, b, *rest) for a, b in pairs), strict=True)
    mask = rest[-1]
    return Parts(to_x, 0) if mask[0] else None, _sum(to_w) if mask[1] else None, _sum(to_b) if mask[2] else None


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, parts)


_POINTWISE = (
    aten.abs.default, aten.add.Tensor, aten.ceil.default, aten.clamp.default, aten.cos.default, aten.div.Tensor,
    aten.exp.default, aten.floor.default, aten.gelu.default, aten.hardswish.default, aten.hardtanh.default,
    aten.log.default, aten.maximum.default, aten.minimum.default, aten.mul.Tensor, aten.neg.default, aten.relu.default,
    aten.rsqrt.default, aten.rsub.Scalar, aten.sigmoid.default, aten.sin.default, aten.sqrt.default, aten.sub.Tensor,
    aten.tanh.default, quantized.quantize_per_tensor.default, quantized.dequantize_per_tensor.default,
)  # fmt: skip
_PER_SAMPLE = (
    aten.convolution.default, aten.max_pool2d.default, aten.avg_pool2d.default, round_per_image._opoverload,
)  # fmt: skip

RULES: Mapping[Any, Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_PER_SAMPLE, _per_sample),
    aten.mean.dim: _mean,
    aten._softmax.default: _softmax,
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.slice.Tensor: _slice,
    aten.constant_pad_nd.default: _pad,
    aten.cat.default: _cat,
    aten.bmm.default: _bmm,
    aten.convolution_backward.default: _convolution_backward,
    getitem: lambda splitting, node, args: args[0][args[1]],
}


def _part_by_part(graph: fx.GraphModule, count: int) -> None:
    """From one meeting of the parts to the next, take one part as far as it gets, then the next part."""
    part: dict[fx.Node, int] = {}
    stage: dict[fx.Node, int] = {}
    now = 0
    for node in graph.graph.nodes:
        from_parts = {part[source] for source in node.all_input_nodes} - {_WHOLE}
        part[node] = _WHOLE if len(from_parts) != 1 else next(iter(from_parts))
        if not from_parts and _is_piece(node, count):
            part[node] = int(node.args[2]) // node.meta["val"].shape[node.args[1]]
        if part[node] == _WHOLE:
            now += any(part[source] != _WHOLE and stage[source] == now for source in node.all_input_nodes)
        stage[node] = now
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    for node in sorted(nodes, key=lambda node: (stage[node], part[node])):
        graph.graph.output_node().prepend(node)
    graph.recompile()


_WHOLE = -1


def _is_piece(node: fx.Node, count: int) -> bool:
    if node.target is not aten.slice.Tensor or not isinstance(source := node.args[0], fx.Node):
        return False
    whole, piece, dim = source.meta["val"], node.meta["val"], node.args[1]
    return bool(whole.dim() > 1 and piece.shape[dim] * count == whole.shape[dim])
