"""Slices with steps, pads, expansions and stacks, in what XNNPACK has: views, single slices, broadcasts."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from export.passes.rewrite import Rules, Site

aten = torch.ops.aten

_BROADCASTING = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}


def every(x: Tensor, dim: int, step: int) -> Tensor:
    """Every step-th row (dim 2) or column (dim 3) of an image: channels last, the first of each group of step."""
    n, c, h, w = x.shape
    more = -x.shape[dim] % step
    if more:
        x = pad(x, [0, 0, 0, more] if dim == 2 else [0, more])
    rows = x.permute(0, 2, 3, 1)
    if dim == 2:
        groups = rows.reshape(n, (h + more) // step, step, w * c)
        return groups[:, :, :1].reshape(n, -1, w, c).permute(0, 3, 1, 2)
    groups = rows.reshape(n * h, (w + more) // step, step, c)
    return groups[:, :, :1].reshape(n, h, -1, c).permute(0, 3, 1, 2)


def spread(g: Tensor, dim: int, step: int, size: int) -> Tensor:
    """The reverse: rows or columns `step` apart with zeros between and after, `size` of them."""
    n, c, h, w = g.shape
    rows = g.permute(0, 2, 3, 1)
    groups = rows.reshape(n, h, 1, w * c) if dim == 2 else rows.reshape(n * h, w, 1, c)
    apart = pad(groups, [0, 0, 0, step - 1])
    apart = apart.reshape(n, -1, w, c) if dim == 2 else apart.reshape(n, h, -1, c)
    out = apart.permute(0, 3, 1, 2)
    more = size - out.shape[dim]
    if more > 0:
        return pad(out, [0, 0, 0, more] if dim == 2 else [0, more])
    return out.narrow(dim, 0, size) if more else out


def _slice(site: Site, x: Tensor, dim: int = 0, start: int | None = 0, end: int | None = None, step: int = 1) -> Any:
    if step == 1 or x.dim() != 4 or dim not in (2, 3):
        return NotImplemented
    first, last, _ = slice(start, end).indices(x.shape[dim])
    last = min(x.shape[dim], first - (first - last) // step * step)  # whole groups of step, where there are as many
    return every(x if (first, last) == (0, x.shape[dim]) else x.narrow(dim, first, last - first), dim, step)


def _slice_backward(site: Site, g: Tensor, shape: Sequence[int], dim: int, start: int, end: int, step: int) -> Any:
    start, end, _ = slice(start, end).indices(shape[dim])
    if step > 1:
        if g.dim() != 4 or dim not in (2, 3):
            return NotImplemented
        g = spread(g, dim, step, end - start)
    after = [0] * (2 * len(shape))
    place = 2 * (len(shape) - 1 - dim)
    after[place], after[place + 1] = start, shape[dim] - end
    return pad(g, after) if any(after) else g


def _select_backward(site: Site, g: Tensor, shape: Sequence[int], dim: int, index: int) -> Any:
    at = index % shape[dim]
    return _slice_backward(site, g.unsqueeze(dim), shape, dim % len(shape), at, at + 1, 1)


def _pad(site: Site, x: Tensor, around: Sequence[int], value: float = 0.0) -> Any:
    if all(p >= 0 for p in around):
        return NotImplemented
    for place in range(0, len(around), 2):
        dim = x.dim() - 1 - place // 2
        first, last = max(0, -around[place]), x.shape[dim] - max(0, -around[place + 1])
        x = x.narrow(dim, first, last - first)
    positive = [max(0, p) for p in around]
    return pad(x, positive, value=value) if any(positive) else x


def _expand(site: Site, x: Tensor, shape: Sequence[int], **kwargs: Any) -> Tensor:
    if all(
        user.target in _BROADCASTING and tuple(user.meta["val"].shape) == tuple(shape) and not _all_expand(user)
        for user in site.node.users
    ):
        return x.reshape([1] * (len(shape) - x.dim()) + list(x.shape))  # the user broadcasts
    return x * x.new_ones(
        [1 if n == m else m for n, m in zip([1] * (len(shape) - x.dim()) + list(x.shape), shape, strict=True)]
    )


def _all_expand(user: torch.fx.Node) -> bool:
    return all(source.target is aten.expand.default for source in user.all_input_nodes)


def _view(site: Site, x: Tensor, *args: Any) -> Tensor:
    return x.reshape(site.node.meta["val"].shape)


def _stack(site: Site, parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return torch.cat([part.reshape([*part.shape[:dim], 1, *part.shape[dim:]]) for part in parts], dim)


def _split(site: Site, x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    out, start = [], 0
    for size in sizes:
        out.append(x.narrow(dim, start, size))
        start += size
    return out


def _select(site: Site, x: Tensor, dim: int, index: int) -> Tensor:
    at = index % x.shape[dim]
    return x.narrow(dim, at, 1).reshape(site.node.meta["val"].shape)


def _transpose(site: Site, x: Tensor, *dims: int) -> Any:
    if site.frozen(0):
        return NotImplemented
    order = list(range(x.dim()))
    first, second = dims or (0, 1)
    order[first], order[second] = order[second], order[first]
    return x.permute(order)


def _multiply_by(site: Site, x: Tensor, number: float) -> Tensor:
    return x * number


def _divide_by(site: Site, x: Tensor, number: float) -> Tensor:
    return x * (1.0 / number)


def _subtract_from(site: Site, x: Tensor, other: float, alpha: float = 1) -> Any:
    return other - x if alpha == 1 else NotImplemented


RULES: Rules = {
    aten.slice.Tensor: _slice,
    aten.slice_backward.default: _slice_backward,
    aten.select_backward.default: _select_backward,
    aten.constant_pad_nd.default: _pad,
    aten.expand.default: _expand,
    aten.unsqueeze.default: _view,
    aten.squeeze.dim: _view,
    aten.squeeze.default: _view,
    aten._unsafe_view.default: _view,
    aten.stack.default: _stack,
    aten.split_with_sizes.default: _split,
    aten.select.int: _select,
    aten.t.default: _transpose,
    aten.transpose.int: _transpose,
    aten.mul.Scalar: _multiply_by,
    aten.div.Scalar: _divide_by,
}
