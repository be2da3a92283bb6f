"""Taps without what all of them share: centred, and with the covariance they had over the source made the identity.

Whitening is per tap, v = (h - mean) W with W = C^(-1/2) of that tap's channels over source data: distances then are in
deviations of the source in every direction, and a change along a direction in which the source hardly varies
shows. A tap of more than WIDEST channels is only scaled, channel by channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

WIDEST: Final = 256
"""Channels of a tap that gets a whole matrix: 256 KiB of float32."""


@dataclass(frozen=True)
class Whitening:
    """Changes nothing, and may be shared by threads."""

    mean: Floats
    """[F]"""
    blocks: tuple[Floats, ...]
    """One a tap: [w, w], or [w] where it is only scaled."""

    def __call__(self, taps: Floats) -> Floats:
        """Taps [B, F]; [B, F]."""
        centred, out, first = taps - self.mean, np.empty(taps.shape, np.float32), 0
        for block in self.blocks:
            part = slice(first, first + len(block))
            out[:, part] = centred[:, part] @ block if block.ndim == 2 else centred[:, part] * block
            first += len(block)
        return out

    @property
    def flat(self) -> Floats:
        """The blocks one after another, as they are stored."""
        return np.concatenate([block.reshape(-1) for block in self.blocks])


def sizes(widths: Sequence[int]) -> list[tuple[int, ...]]:
    """The shape of the block of each tap of so many channels."""
    return [(width, width) if width <= WIDEST else (width,) for width in widths]


def unflat(mean: Floats, flat: Floats, widths: Sequence[int]) -> Whitening:
    """From what is stored. Raises ValueError: the numbers do not fit."""
    shapes = sizes(widths)
    counts = [int(np.prod(shape)) for shape in shapes]
    if flat.shape != (sum(counts),):
        raise ValueError(f"{flat.size} numbers where taps of {list(widths)} channels need {sum(counts)}")
    parts = np.split(flat, np.cumsum(counts)[:-1])
    return Whitening(mean, tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))
