"""Convolutions whose weight changes at run time, which XNNPACK lacks, as products of pixel matrices.

With pixels as rows, a 1x1 convolution is one product [N*H*W, C] x [C, O]. A kxk one is k products: the k columns of a kernel row are laid
side by side as k*C channels, once, and each kernel row takes its band of image rows. That keeps k copies of the input
where the usual k*k would be, and the products large.
"""

from typing import Any

import torch
from torch import Tensor

from export.passes.rewrite import Rules, Site
from export.passes.shapes import spread

aten = torch.ops.aten


def _pixels(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [1, N*H*W, C]."""
    return x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1])


def _image(rows: Tensor, n: int, h: int, w: int) -> Tensor:
    """[1, N*H*W, C] -> [N, C, H, W]."""
    return rows.reshape(n, h, w, rows.shape[2]).permute(0, 3, 1, 2)


def _beside(x: Tensor, k: int, padding: int, stride: int, width: int) -> Tensor:
    """Pad, and lay the k columns that a kernel row sees side by side: [N, k*C, H + 2 * padding, width]."""
    x = aten.constant_pad_nd(x, [padding] * 4) if padding else x
    if k == 1 and stride == 1:
        return x
    reach = (width - 1) * stride + 1
    columns = [x[:, :, :, d : d + reach : stride] for d in range(k)]
    return torch.cat(columns, 1) if k > 1 else columns[0]


def _bands(x: Tensor, k: int, padding: int, stride: int, h: int, w: int) -> list[Tensor]:
    """The pixel matrix [1, N*h*w, k*C] that each kernel row meets."""
    beside = _beside(x, k, padding, stride, w)
    reach = (h - 1) * stride + 1
    return [_pixels(beside[:, :, d : d + reach : stride, :]) for d in range(k)]


def _rows(w: Tensor) -> list[Tensor]:
    """The kernel rows of w [O, C, k, k], each as [1, k*C, O]."""
    out, within, k, _ = w.shape
    rows = w.permute(2, 3, 1, 0).reshape(k, k * within, out)
    return [rows[d : d + 1] for d in range(k)]


def _turned_rows(w: Tensor) -> list[Tensor]:
    """The same of w with its kernel turned by half and its channels exchanged, each [1, k*O, C]."""
    out, within, k, _ = w.shape
    spots = w.permute(2, 3, 0, 1).reshape(k * k, out, within)
    backwards = [spots[i : i + 1] for i in reversed(range(k * k))]
    return [torch.cat(backwards[d * k : (d + 1) * k], 1) if k > 1 else backwards[0] for d in range(k)]


def convolve(x: Tensor, rows: list[Tensor], stride: int, padding: int) -> Tensor:
    """The convolution of x [N, C, H, W] with a kernel given by its rows, each [1, k*C, O]."""
    n, _, height, width = x.shape
    k = len(rows)
    h, v = (height + 2 * padding - k) // stride + 1, (width + 2 * padding - k) // stride + 1
    products = [aten.bmm(b, r) for b, r in zip(_bands(x, k, padding, stride, h, v), rows, strict=True)]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return _image(total, n, h, v)


def _supported(x: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, groups: int) -> bool:
    return (
        x.dim() == 4
        and w.shape[2] == w.shape[3]
        and len(set(stride)) == len(set(padding)) == 1
        and list(dilation) == [1, 1]
        and not transposed
        and groups == 1
    )


def _forward(
    site: Site, x: Tensor, w: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, out: Any, groups: int
) -> Any:
    if site.frozen(1) or not _supported(x, w, stride, padding, dilation, transposed, groups):
        return NotImplemented
    y = convolve(x, _rows(w), stride[0], padding[0])
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _backward(
    site: Site, g: Tensor, x: Tensor, w: Tensor, sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    out: Any, groups: int, mask: Any,
) -> Any:  # fmt: skip
    if site.frozen(2) or not _supported(x, w, stride, padding, dilation, transposed, groups):
        return NotImplemented
    k, s, p = w.shape[2], stride[0], padding[0]
    g_x = input_gradient(g, x.shape, w, s, p) if mask[0] else None
    g_w = None
    if mask[1]:
        turned = _pixels(g).permute(0, 2, 1)
        rows = [aten.bmm(turned, band) for band in _bands(x, k, p, s, g.shape[2], g.shape[3])]
        stacked = torch.cat(rows, 0) if k > 1 else rows[0]  # [k, O, k*C]
        g_w = stacked.reshape(k, w.shape[0], k, w.shape[1]).permute(1, 3, 0, 2)
    g_b = g.sum((0, 2, 3)) if mask[2] else None
    return g_x, g_w, g_b


def input_gradient(g: Tensor, shape: Any, w: Tensor, stride: int, padding: int) -> Tensor:
    """Gradient of convolve(x, w) with respect to x of this shape: a convolution of g, spread out by the stride."""
    k = w.shape[2]
    if stride > 1:
        for dim in (2, 3):
            g = spread(g, dim, stride, shape[dim] + 2 * padding - k + 1)
    return convolve(g, _turned_rows(w), 1, k - 1 - padding)


RULES: Rules = {aten.convolution.default: _forward, aten.convolution_backward.default: _backward}
