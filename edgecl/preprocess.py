"""From samples as sources give them to what a program takes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl import _runtime
from edgecl.errors import ProgramError
from edgecl.manifest import Input

Array = npt.NDArray[Any]


class Preprocess:
    """One for an `Input`; it keeps the scales as arrays."""

    def __init__(self, given: Input) -> None:
        self._given = given
        self._dtype = np.dtype(np.uint8 if given.kind == "image" else np.float32)
        self._scale = np.array(given.scale, np.float32)
        self._shift = np.array(given.shift, np.float32)

    def check(self, x: Array) -> Array:
        """One sample, C-contiguous. Raises ProgramError: another shape or dtype, or numbers that are not finite."""
        if x.dtype != self._dtype or x.shape != self._given.shape:
            raise ProgramError(
                f"sample: {x.dtype}{list(x.shape)}, the bundle takes {self._dtype}{list(self._given.shape)}; convert it"
            )
        if self._given.kind == "vector" and not np.isfinite(x).all():
            raise ProgramError("sample: it holds numbers that are not finite; leave such samples out")
        return np.ascontiguousarray(x)

    def labelled(
        self, x: Array, y: int | Sequence[int] | npt.NDArray[np.integer[Any]], classes: int
    ) -> tuple[list[Array], npt.NDArray[np.int64]]:
        """Samples [n, ...] or one, and the index of the class of each; both as many. Raises ProgramError."""
        if x.shape == self._given.shape:
            x = x[None]
        labels = np.atleast_1d(np.asarray(y))
        if labels.shape != (len(x),) or (len(x) and labels.dtype.kind not in "iu"):
            raise ProgramError(f"labels: {labels.dtype}{list(labels.shape)}, not {len(x)} integers; give one a sample")
        if len(x) and (labels.min() < 0 or labels.max() >= classes):
            raise ProgramError(f"labels: {labels.min()} to {labels.max()}, the bundle has {classes} classes")
        return [self.check(sample) for sample in x], labels.astype(np.int64)

    def batches(self, x: Array, y: Any, classes: int, size: int) -> Iterator[tuple[int, list[Array], Array]]:
        """Labelled samples in batches: how many are new, the samples, and their class probabilities [size, classes].

        The last batch is filled up with its own samples, whose rows are zero: to be left out. Raises ProgramError.
        """
        samples, labels = self.labelled(x, y, classes)
        for start in range(0, len(samples), size):
            some, known = samples[start : start + size], labels[start : start + size]
            rows = np.zeros((size, classes), np.float32)
            rows[np.arange(len(some)), known] = 1
            yield len(some), [some[i % len(some)] for i in range(size)], rows

    def batch(self, samples: Sequence[Array]) -> npt.NDArray[np.float32]:
        """Checked samples as one float batch: scaled, shifted, and an image's channels first."""
        stacked = np.stack(samples)
        if self._given.kind == "image":
            return _runtime.to_planar(stacked, self._scale, self._shift)
        across = (1, -1, *[1] * (len(self._given.shape) - 1))
        return np.ascontiguousarray(stacked * self._scale.reshape(across) + self._shift.reshape(across))
