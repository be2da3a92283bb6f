"""Fits the detector of a bundle in one pass over source data, and sets its threshold on held-out data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import hypervectors, shift
from edgecl.detector import Detector, Fit
from edgecl.hypervectors import Projection
from edgecl.manifest import Calibration
from edgecl.manifest import Detector as Record

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

LEAST_SHARE: Final = 0.01
"""Of a tap's variance that counts as being between classes."""


@dataclass(frozen=True)
class Made:
    """A detector as the manifest and its file have it."""

    record: Record
    fit: Fit


def fit(
    source: Sequence[tuple[Floats, Labels]],
    held_out: Iterable[Floats],
    widths: Sequence[int],
    classes: int,
    *,
    dimensions: int,
    form: Literal["bits", "full"],
    seed: int,
) -> Made:
    """Fit to taps [B, F] and labels [B] of source data, and to taps of held-out data.

    `widths` are the channels of each tap. Raises ValueError: `dimensions` does not fit the features.
    """
    mean, scale = _centre(source, widths, classes)
    project = Projection(sum(widths), dimensions, seed)
    sums = np.zeros((classes, dimensions), np.float64)
    for taps, labels in source:
        y = project((taps - mean) / scale)
        members = np.where(y > 0, 1.0, -1.0) if form == "bits" else y
        np.add.at(sums, labels, members)
    prototypes = hypervectors.bits(sums.astype(np.float32)) if form == "bits" else sums.astype(np.float32)
    made = Fit(mean, scale, prototypes)
    unset = Calibration(threshold=-1.0, mean=0.0, deviation=1.0, drift=1.0)
    record = Record(dimensions=dimensions, seed=seed, form=form, calibration=unset)
    detector = Detector(record, made)
    found = np.concatenate([detector.similarities(detector.encode(taps)).max(1) for taps in held_out])
    record = msgspec.structs.replace(record, calibration=shift.calibrate(found))
    return Made(record, made)


def _centre(source: Iterable[tuple[Floats, Labels]], widths: Sequence[int], classes: int) -> tuple[Floats, Floats]:
    """Mean of each channel, and what its distance from that is divided by, the same for all channels of a tap; [F].

    The root mean square distance of the tap makes all taps alike, and then each counts by the share of its variance
    that lies between classes (Fisher 1936): what does not tell classes apart would drown what does.
    """
    count, square = np.zeros(classes), np.zeros(sum(widths))
    sums = np.zeros((classes, sum(widths)))
    for taps, labels in source:
        exact = taps.astype(np.float64)
        np.add.at(sums, labels, exact)
        count += np.bincount(labels, minlength=classes)
        square += (exact * exact).sum(0)
    mean = sums.sum(0) / count.sum()
    apart = sums / np.maximum(count, 1)[:, None] - mean
    first = np.cumsum([0, *widths[:-1]])
    total = np.add.reduceat(square / count.sum() - mean * mean, first)
    between = np.add.reduceat((count[:, None] * apart * apart).sum(0) / count.sum(), first)
    total = np.maximum(total, np.finfo(np.float32).tiny)
    share = np.maximum(between / total, LEAST_SHARE)
    return mean.astype(np.float32), np.repeat(np.sqrt(total) / share, widths).astype(np.float32)
