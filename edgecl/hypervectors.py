"""Hypervectors: features spread over D dimensions, where likeness is an angle and a set is the sum of its members.

The projection is bipolar and never stored. It is made of Hadamard matrices H_n, n the power of two that the features
fit in: D/n blocks H_n diag(s_j), each with signs s_j of its own from a hash of the seed. So its entries are +1 and -1,
its columns are exactly orthogonal, and cosines between hypervectors are those between features (a projection with
independent signs would add noise of 1/sqrt(D): Wilson et al. 2023, HDFF, use an orthogonal one for the same reason).

One bit a dimension keeps the angle: P(signs differ) = angle / pi, so a hypervector of D bits measures it to about
0.5/sqrt(D) by exclusive or and counting.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]

WORD: Final = 64
"""Bits that are compared at once: dimensions come in multiples of it."""

_GOLDEN: Final = 0x9E3779B97F4A7C15


class Projection:
    """Features [B, F] to hypervectors [B, D], the same on every machine."""

    def __init__(self, features: int, dimensions: int, seed: int) -> None:
        """Raises ValueError: `dimensions` is no multiple of 64 and of the power of two that the features fit in."""
        size = block(features)
        if features < 1 or dimensions < 1 or dimensions % size or dimensions % WORD:
            raise ValueError(f"{dimensions} dimensions for {features} features: give a multiple of {max(size, WORD)}")
        self.features, self.dimensions = features, dimensions
        half = 1 << (size.bit_length() - 1) // 2  # H_n is the Kronecker product of these two, and cheaper applied so
        self._left, self._right = hadamard(size // half), hadamard(half)
        self._direct = np.kron(self._left, self._right) if size <= _DIRECT else None
        self._signs = signs(seed, dimensions).reshape(dimensions // size, size)[:, :features].copy()

    def __call__(self, x: Floats) -> Floats:
        """Project x [B, F]; [B, D]."""
        blocks, left, right = len(self._signs), len(self._left), len(self._right)
        padded = np.zeros((len(x), blocks, left * right), np.float32)
        np.multiply(x[:, None], self._signs, out=padded[:, :, : self.features])
        if self._direct is not None:
            return (padded @ self._direct).reshape(len(x), self.dimensions)
        cells = padded.reshape(len(x), blocks, left, right)
        projected: Floats = self._left @ (cells @ self._right)
        return projected.reshape(len(x), self.dimensions)


_DIRECT: Final = 256
"""Up to this size one product with H_n is faster than two with its factors."""


def block(features: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << max(0, features - 1).bit_length()


def hadamard(size: int) -> Floats:
    """H_n for a power of two (Sylvester 1867)."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def signs(seed: int, count: int) -> Floats:
    """+1 or -1, by the highest bits of SplitMix64 (Steele et al. 2014), which starts at what it makes of the seed."""
    return np.where(_random(seed, count) >> np.uint64(63), np.float32(-1), np.float32(1))


def uniform(seed: int, count: int) -> Floats:
    """Numbers in [0, 1), by the 24 highest bits of the same."""
    return (_random(seed, count) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _random(seed: int, count: int) -> npt.NDArray[np.uint64]:
    start = _mixed(np.array([seed], np.uint64) + np.uint64(_GOLDEN))
    return _mixed(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))


def _mixed(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def bits(hypervectors: Floats) -> Bits:
    """One bit a dimension, 1 above zero: [..., D] to uint8 [..., D / 8]."""
    return np.packbits(hypervectors > 0, axis=-1)


def bit_similarity(one: Bits, other: Bits) -> Floats:
    """1 - 2 hamming / D for each pair of rows: [B, D / 8] and [C, D / 8] to [B, C]."""
    words = one.view(np.uint64)[:, None] ^ other.view(np.uint64)[None]
    different = np.bitwise_count(words).sum(-1, dtype=np.int32)
    dimensions = np.int32(8 * one.shape[1])
    similarity: Floats = (dimensions - 2 * different).astype(np.float32) / np.float32(dimensions)
    return similarity


def unit(rows: Floats) -> Floats:
    """Rows of length 1 in the same directions, whose products are cosines; a zero stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    directions: Floats = rows / np.maximum(length, np.finfo(np.float32).tiny)
    return directions
