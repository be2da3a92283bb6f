"""Fits what tells domains apart: the whitening of the taps over source data, and the prototype of the source."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from edgecl import hypervectors, shift, whitening
from edgecl.hypervectors import Bits
from edgecl.manifest import Router as Record
from edgecl.signature import Signatures, together
from edgecl.whitening import Whitening

Floats = npt.NDArray[np.float32]

RIDGE: Final = 0.05
"""Added to every variance, of channels scaled to variance 1: directions in which the source hardly varies are noise."""
LEAST: Final = 1e-6
"""A channel that varies less counts as constant."""


@dataclass(frozen=True)
class Made:
    """A router as the manifest and its file have it."""

    record: Record
    whitening: Whitening
    prototype: Bits


def fit(
    source: Sequence[Floats],
    held_out: Sequence[Floats],
    widths: Sequence[int],
    *,
    dimensions: int,
    seed: int,
    domains: int,
    full: Literal["merge", "refuse"],
) -> Made:
    """Fit to taps [B, F] of source data; calibrate on taps of held-out data.

    `widths` are the channels of each tap. Raises ValueError: `dimensions` does not fit the features.
    """
    white = whiten(np.concatenate(source), widths)
    signatures = Signatures(white, dimensions, seed)
    prototype = together(np.concatenate([signatures(taps) for taps in source]))
    found = [hypervectors.bit_similarity(signatures(taps), prototype[None])[:, 0] for taps in held_out]
    record = Record(
        dimensions=dimensions,
        seed=seed,
        domains=domains,
        full=full,
        calibration=shift.calibrate(np.concatenate(found)),
    )
    return Made(record, white, prototype)


def whiten(taps: Floats, widths: Sequence[int]) -> Whitening:
    """The whitening of taps [N, F]: of each tap C^(-1/2), or one over the deviations where it is wide."""
    exact = taps.astype(np.float64)
    mean = exact.mean(0)
    blocks, first = [], 0
    for shape in whitening.sizes(widths):
        centred = exact[:, first : first + shape[0]] - mean[first : first + shape[0]]
        deviation = np.maximum(centred.std(0), LEAST)
        if len(shape) == 1:
            blocks.append((1 / deviation).astype(np.float32))
        else:
            scaled = centred / deviation
            values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled) + RIDGE * np.eye(shape[0]))
            root = (vectors / np.sqrt(values)) @ vectors.T
            blocks.append((root / deviation[:, None]).astype(np.float32))
        first += shape[0]
    return Whitening(mean.astype(np.float32), tuple(blocks))


def dump(made: Made) -> bytes:
    """The bytes of `router.safetensors`."""
    return safetensors.numpy.save(
        {"blocks": made.whitening.flat, "mean": made.whitening.mean, "prototype": made.prototype}
    )
