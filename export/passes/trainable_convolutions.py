"""Convolutions whose weight changes at run time, which XNNPACK lacks, as products of pixel matrices.

With pixels as rows, a 1x1 convolution is one product [N*H*W, C] x [C, O]. For a kxk one, the k columns that a kernel
row sees are first laid side by side as k*C channels; one product with all kernel rows gives k*O channels, and y is the
sum of their k groups, each a row lower than the one before. That keeps k copies of the input where the usual k*k would
be, and the products large. A few images at a time, so that the copies stay in the cache. The gradients are alike.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from export.passes.rewrite import Rules, Site
from export.passes.shapes import every, spread

aten = torch.ops.aten


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [1, N*H*W, C]."""
    return x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    """Every pixel of x [N, C, H, W] times matrix [C, M]: [N, M, H, W]."""
    rows = torch.bmm(_pixels(x), matrix[None])
    return rows.reshape(x.shape[0], x.shape[2], x.shape[3], matrix.shape[1]).permute(0, 3, 1, 2)


def _beside(x: Tensor, k: int, dim: int, stride: int, padding: tuple[int, int], backwards: bool = False) -> Tensor:
    """The k neighbours along a dimension as k groups of channels, after padding (rows, columns) on both sides."""
    rows, columns = padding
    x = pad(x, [columns, columns, rows, rows]) if rows or columns else x
    reach = (x.shape[dim] - k) // stride * stride + 1
    parts = [aten.slice.Tensor(x, dim, d, d + reach, stride) for d in range(k)]
    return torch.cat(parts[::-1] if backwards else parts, 1)


def _group(x: Tensor, index: int, size: int) -> Tensor:
    return x[:, index * size : (index + 1) * size]


def convolve(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    """The convolution of x [N, C, H, W] with w [O, C, k, k]."""
    out, within, k, _ = w.shape
    if k == 1:
        for dim in (2, 3):
            x = every(x, dim, stride) if stride > 1 else x
        return _times(x, w.reshape(out, within).permute(1, 0))
    return _join([_convolve(part, w, stride, padding) for part in _some_images(x, k)], 0)


def _convolve(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
    out, within, k, _ = w.shape
    height = (x.shape[2] + 2 * padding - k) // stride + 1
    columns = _beside(x, k, 3, stride, (padding, padding))
    if stride == 1:
        product = _times(columns, w.permute(3, 1, 2, 0).reshape(k * within, k * out))
        bands = [_group(product, d, out)[:, :, d : d + height] for d in range(k)]
    else:
        rows = w.permute(2, 3, 1, 0).reshape(k, k * within, out)
        bands = [_times(_band(columns, d, stride, height), rows[d]) for d in range(k)]
    return _sum(bands)


CACHE_BYTES = 1 << 20
"""What the k copies of a few images may take: half the second-level cache of a server core, all of a Cortex-A76's."""


def _some_images(x: Tensor, copies: int) -> list[Tensor]:
    """The batch in parts of which `copies` copies fit in the cache."""
    each = copies * x[0].numel() * 4
    parts = min(len(x), -(-len(x) * each // CACHE_BYTES))
    many = -(-len(x) // parts)
    return [x[i : i + many] for i in range(0, len(x), many)] if parts > 1 else [x]


def _join(parts: list[Tensor], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _band(columns: Tensor, start: int, stride: int, height: int) -> Tensor:
    """Rows start, start + stride, ... of the image, `height` of them."""
    last = min(columns.shape[2], start + height * stride)
    return every(columns[:, :, start:last], 2, stride)


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def weight_gradient(g: Tensor, x: Tensor, k: int, stride: int, padding: int) -> Tensor:
    """Gradient of convolve(x, w) with respect to w."""
    out, within = g.shape[1], x.shape[1]
    if k == 1:
        for dim in (2, 3):
            x = every(x, dim, stride) if stride > 1 else x
        return torch.bmm(_pixels(g).permute(0, 2, 1), _pixels(x)).reshape(out, within, 1, 1)
    images = _some_images(x, k)
    size = len(images[0])
    pairs = _sum([_pairs(g[i * size : (i + 1) * size], part, k, stride, padding) for i, part in enumerate(images)])
    return pairs.reshape(k, out, k, within).permute(1, 3, 0, 2)


def _pairs(g: Tensor, x: Tensor, k: int, stride: int, padding: int) -> Tensor:
    """[1, k*O, k*C]: what every row of the kernel and its k columns gather over some images."""
    columns = _beside(x, k, 3, stride, (padding, padding))
    if stride == 1:
        rows = _beside(g, k, 2, 1, (k - 1, 0), backwards=True)
        return torch.bmm(_pixels(rows).permute(0, 2, 1), _pixels(columns))
    turned = _pixels(g).permute(0, 2, 1)
    bands = [_band(columns, d, stride, g.shape[2]) for d in range(k)]
    return torch.cat([torch.bmm(turned, _pixels(band)) for band in bands], 1)


def input_gradient(g: Tensor, shape: Any, w: Tensor, stride: int, padding: int) -> Tensor:
    """Gradient of convolve(x, w) with respect to x of this shape."""
    k = w.shape[2]
    if k == 1 or stride == 1:
        flipped = _flipped(w) if k > 1 else w.permute(1, 0, 2, 3)
        g = convolve(g, flipped, 1, k - 1 - padding)
        for dim in (2, 3):
            g = spread(g, dim, stride, shape[dim]) if stride > 1 else g
        return g
    return _join([_spread_taps(part, shape, w, stride, padding) for part in _some_images(g, k * k)], 0)


def _spread_taps(g: Tensor, shape: Any, w: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of a convolution with a stride: what every tap gives, brought to the pixels that it read."""
    out, within, k, _ = w.shape
    taps = _times(g, w.permute(0, 2, 3, 1).reshape(out, k * k * within))
    rows = []
    for a in range(stride):
        planes = [_plane(taps, a, b, k, within, stride, padding, shape) for b in range(stride)]
        beside = torch.cat(planes, 1).permute(0, 2, 3, 1)  # [N, h, w, s*C]
        rows.append(beside.reshape(g.shape[0], beside.shape[1], 1, -1))
    above = torch.cat(rows, 2)
    return above.reshape(g.shape[0], shape[2], shape[3], within).permute(0, 3, 1, 2)


def _plane(taps: Tensor, a: int, b: int, k: int, c: int, stride: int, padding: int, shape: Any) -> Tensor:
    """The pixels of the gradient with row = a and column = b modulo the stride: the taps that reach them, moved."""
    parts = []
    for d, down in _reaching(a, k, stride, padding):
        for e, right in _reaching(b, k, stride, padding):
            part = _group(taps, d * k + e, c)
            parts.append(_moved(_moved(part, 2, down, shape[2] // stride), 3, right, shape[3] // stride))
    return _sum(parts)


def _reaching(residue: int, k: int, stride: int, padding: int) -> list[tuple[int, int]]:
    """(kernel index, offset of the output pixel) for each kernel index that meets input pixels of this residue."""
    return [(d, (residue + padding - d) // stride) for d in range(k) if (residue + padding - d) % stride == 0]


def _moved(x: Tensor, dim: int, offset: int, size: int) -> Tensor:
    """x[offset : offset + size] along a dimension, zero where there is nothing."""
    first, last = max(0, offset), min(x.shape[dim], offset + size)
    part = x.narrow(dim, first, last - first) if (first, last) != (0, x.shape[dim]) else x
    before, after = first - offset, size - (last - offset)
    if not (before or after):
        return part
    return pad(part, [0, 0, before, after] if dim == 2 else [before, after])


def _flipped(w: Tensor) -> Tensor:
    """w with its kernel turned by half and its channels exchanged, put together from its single taps."""
    out, within, k, _ = w.shape
    taps = w.permute(2, 3, 1, 0).reshape(k * k, within * out)
    turned = torch.cat([taps[i : i + 1] for i in reversed(range(k * k))], 0)
    return turned.reshape(k, k, within, out).permute(2, 3, 0, 1)


def _supported(x: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, groups: int) -> bool:
    k, s, p = w.shape[2], stride[0], padding[0]
    return (
        x.dim() == 4
        and w.shape[3] == k
        and len(set(stride)) == len(set(padding)) == 1
        and list(dilation) == [1, 1]
        and not transposed
        and groups == 1
        and p < k
        and (s == 1 or (k == 1 and p == 0) or (x.shape[2] % s == x.shape[3] % s == 0))
    )


def _forward(
    site: Site, x: Tensor, w: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, out: Any,
    groups: int,
) -> Any:  # fmt: skip
    if site.frozen(1) or not _supported(x, w, stride, padding, dilation, transposed, groups):
        return NotImplemented
    y = convolve(x, w, stride[0], padding[0])
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _backward(
    site: Site, g: Tensor, x: Tensor, w: Tensor, sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    out: Any, groups: int, mask: Any,
) -> Any:  # fmt: skip
    if site.frozen(2) or not _supported(x, w, stride, padding, dilation, transposed, groups):
        return NotImplemented
    k, s, p = w.shape[2], stride[0], padding[0]
    return (
        input_gradient(g, x.shape, w, s, p) if mask[0] else None,
        weight_gradient(g, x, k, s, p) if mask[1] else None,
        g.sum((0, 2, 3)) if mask[2] else None,
    )


RULES: Rules = {aten.convolution.default: _forward, aten.convolution_backward.default: _backward}
