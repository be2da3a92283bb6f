"""Tells inputs like those of the source from others: similarity of the taps to the classes, as hypervectors.

A sample's taps h [F] are centred per channel and scaled per tap, v = (h - mean) / scale, so that a tap counts as much
as it tells classes apart; projected to a hypervector y; and compared with one prototype a class, the sum of what that
class had in the source (Wilson et al. 2023, HDFF, which has one mean a tap and no scale). The similarity is the largest
over the classes; below the threshold, which 95 % of held-out source samples pass, an input is novel.

`bits` keeps one bit a dimension: prototypes of D / 8 bytes, compared by counting. `full` keeps float32 and takes the
cosine. docs/science.md has both beside other detectors.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from edgecl import hypervectors
from edgecl.hypervectors import Projection
from edgecl.manifest import Detector as Record

Floats = npt.NDArray[np.float32]
Code = npt.NDArray[Any]
"""Hypervectors as they are compared: float32 [B, D], or bits uint8 [B, D / 8]."""


@dataclass(frozen=True)
class Fit:
    """What was found of the source, as `detector.safetensors` has it."""

    mean: Floats
    """[F], per channel."""
    scale: Floats
    """[F], the same for all channels of a tap."""
    prototypes: Code
    """One row a class, as hypervectors are compared."""


@dataclass(frozen=True)
class Likeness:
    """How like the source one sample is."""

    similarity: float
    """-1 to 1, to the nearest class."""
    nearest: int
    """That class."""
    novel: bool


class Detector:
    """The detector of a bundle. It changes nothing and may be shared by threads."""

    def __init__(self, record: Record, fit: Fit) -> None:
        """Raises ValueError: the record's dimensions do not fit the features."""
        self._project = Projection(len(fit.mean), record.dimensions, record.seed)
        self._bits = record.form == "bits"
        self._directions = None if self._bits else hypervectors.unit(fit.prototypes)
        self.record, self.fit = record, fit

    def encode(self, taps: Floats) -> Code:
        """Taps [B, F] as `infer` gives them, as hypervectors to compare."""
        projected = self._project((taps - self.fit.mean) / self.fit.scale)
        return hypervectors.bits(projected) if self._bits else projected

    def member(self, taps: Floats) -> Floats:
        """What one sample of taps [F] adds to the sum that a prototype is made of, [D]."""
        projected = self._project((taps[None] - self.fit.mean) / self.fit.scale)[0]
        return np.where(projected > 0, np.float32(1), np.float32(-1)) if self._bits else projected

    def prototypes(self, sums: Floats) -> Code:
        """The prototypes that sums of members [n, D] make, one row each."""
        return hypervectors.bits(sums) if self._bits else sums

    def similarities(self, code: Code, added: Code | None = None) -> Floats:
        """To the prototype of every class, those that were added behind the others: [B, C]."""
        if self._directions is None:
            rows = self.fit.prototypes if added is None else np.concatenate([self.fit.prototypes, added])
            return hypervectors.bit_similarity(code, rows)
        directions = self._directions
        if added is not None:
            directions = np.concatenate([directions, hypervectors.unit(added)])
        cosines: Floats = hypervectors.unit(code) @ directions.T
        return cosines

    def __call__(self, taps: Floats, added: Code | None = None) -> Likeness:
        """Look at the taps [F] of one sample; `added` are prototypes of further classes."""
        to_classes = self.similarities(self.encode(taps[None]), added)[0]
        nearest = int(to_classes.argmax())
        similarity = float(to_classes[nearest])
        return Likeness(similarity, nearest, similarity < self.record.calibration.threshold)


def dump(fit: Fit) -> bytes:
    """The bytes of `detector.safetensors`."""
    return safetensors.numpy.save({"mean": fit.mean, "prototypes": fit.prototypes, "scale": fit.scale})
