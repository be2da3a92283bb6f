"""Where a sample's taps lie, as one hypervector of bits that can be added up: near taps agree in most bits.

The whitened taps v [F] are projected and wrapped, bit = whether floor(2 u) is odd, u = TURN P v / sqrt(F) + phase, with
the phases from the seed. The cosine of a random projection is a random Fourier feature (Rahimi and Recht 2007, NIPS,
eq. 1; the sinusoid encoding of hyperdimensional computing): its products fall with the distance |v - v'|, where those
of a plain projection only see the angle. So the sum of a domain's signatures is an estimate of where its samples lie,
and two domains in the same direction from the source, at different distances, can be told apart. Of the wave,
its sign is kept: one bit a dimension.
"""

from typing import Final

import numpy as np

from edgecl import hypervectors
from edgecl.hypervectors import Bits, Projection
from edgecl.whitening import Floats, Whitening

TURN: Final = 1 / (2 * np.pi)
"""Turns a deviation: two samples of the source differ by 1.4 radians in a dimension, typically."""


class Signatures:
    """Taps to signatures, the same on every machine but for the rounding of the whitening."""

    def __init__(self, whitening: Whitening, dimensions: int, seed: int) -> None:
        """Raises ValueError: `dimensions` does not fit the features."""
        features = len(whitening.mean)
        self.whitening = whitening
        self._project = Projection(features, dimensions, seed)
        self._half_turns = np.float32(2 * TURN / np.sqrt(features))
        self._phases = 2 * hypervectors.uniform(seed + 1, dimensions)

    def __call__(self, taps: Floats) -> Bits:
        """Taps [B, F] as the network as built gives them; uint8 [B, D / 8]."""
        return self.of_white(self.whitening(taps))

    def of_white(self, white: Floats) -> Bits:
        """The same of taps that are whitened already."""
        half_turns = self._project(white)
        half_turns *= self._half_turns
        half_turns += self._phases
        return np.packbits(np.floor(half_turns, out=half_turns).astype(np.int32) & 1, axis=-1)


def together(signatures: Bits) -> Bits:
    """The bits that most of the signatures [N, D / 8] have; [D / 8]. Half and half is a 0."""
    ones = np.unpackbits(signatures, axis=-1).sum(0, dtype=np.int64)
    return np.packbits(2 * ones > len(signatures))
