"""Labels that came after the answer: which sample has which, so that each counts once and can be corrected."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import tensors
from edgecl.errors import StoreError

FORMAT: Final = "edgecl-labels-1"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """A label as somebody gave it."""

    seq: int
    """Of the answer to the sample."""
    name: str
    """Of the class."""


@dataclass(frozen=True)
class Refused:
    """A label that was not learned."""

    row: int
    """Its place among those given, from 0."""
    seq: int
    reason: str
    """What, and the cure."""


@dataclass(frozen=True)
class Labelled:
    """What became of labels."""

    learned: int
    corrected: int
    """Of those learned, that had another label before."""
    unchanged: int
    """That the samples had already."""
    updates: int
    """By gradients, committed."""
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class Known:
    """The label of a sample, and the domain that learned it."""

    label: int
    domain: int


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of labels says of itself."""

    format: str


def dump(labels: Mapping[int, Known], members: Mapping[int, Floats]) -> bytes:
    """The bytes of a file; the same labels give the same bytes.

    `members`: by class that was added, the sum [D] that its prototype is made of.
    """
    rows = np.array([(seq, known.label, known.domain) for seq, known in sorted(labels.items())], np.int64)
    classes = sorted(members)
    sums = np.stack([members[label] for label in classes]) if classes else np.zeros((0, 0), np.float32)
    arrays: dict[str, npt.NDArray[Any]] = {
        "classes": np.array(classes, np.int64),
        "labels": rows.reshape(-1, 3),
        "sums": sums,
    }
    return tensors.dump(Header(FORMAT), arrays)


def load(path: Path) -> tuple[dict[int, Known], dict[int, Floats]]:
    """Read labels, and what prototypes are made of. Raises StoreError: missing, damaged, or no labels."""
    header, arrays = tensors.load(path, Header, "labels")
    rows, classes, sums = (arrays.get(name, np.zeros(0)) for name in ("labels", "classes", "sums"))
    forms = [(part.dtype.name, part.ndim) for part in (rows, classes, sums)]
    if header.format != FORMAT or forms != [("int64", 2), ("int64", 1), ("float32", 2)] or len(sums) != len(classes):
        raise StoreError(f"{path}: not labels that edgecl wrote; delete it")
    if rows.shape[1] != 3 or (rows < 0).any() or not np.isfinite(sums).all():
        raise StoreError(f"{path}: not labels that edgecl wrote; delete it")
    known = {seq: Known(label, domain) for seq, label, domain in rows.tolist()}
    return known, dict(zip(classes.tolist(), sums, strict=True))
