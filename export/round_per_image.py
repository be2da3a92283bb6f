"""The operator that puts a tensor on an int8 grid for each image: one node of a graph until it becomes XNNPACK's."""

import torch
from torch import Tensor, library


@library.custom_op("edgecl::round_per_image", mutates_args=())
def round_per_image(x: Tensor, pixels: bool = False) -> Tensor:
    """x [B, ...] on a grid for each image, whose ends are its extremes, as XNNPACK quantises at run time ("qd8").

    With `pixels`, x [B, C, H, W] is on a grid for each pixel.
    """
    flat = x if pixels else x.flatten(1)
    low, high = torch.clamp(flat.amin(1, True), max=0.0), torch.clamp(flat.amax(1, True), min=0.0)
    steps = torch.where(high > low, 255 / (high - low), torch.ones_like(low))
    from_low, from_high = -128 - low * steps, 127 - high * steps
    off = (low * steps - 128) + (high * steps + 127)  # the end with the smaller error places zero
    zero = torch.round(torch.clamp(torch.where(off > 0, from_low, from_high), -128, 127))
    stored = torch.clamp(torch.round(flat * steps) + zero, -128, 127)
    return ((stored - zero) / steps).reshape(x.shape)


@round_per_image.register_fake
def _(x: Tensor, pixels: bool = False) -> Tensor:
    return torch.empty_like(x)
