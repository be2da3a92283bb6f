"""Labels that came after the answer: which sample has which, so that each counts once and can be corrected."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgecl import tensors
from edgecl.errors import StoreError

FORMAT: Final = "edgecl-labels-1"


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


def dump(labels: Mapping[int, Known]) -> bytes:
    """The bytes of a file; the same labels give the same bytes."""
    rows = np.array([(seq, known.label, known.domain) for seq, known in sorted(labels.items())], np.int64)
    return tensors.dump(Header(FORMAT), {"labels": rows.reshape(-1, 3)})


def load(path: Path) -> dict[int, Known]:
    """Read labels. Raises StoreError: missing, damaged, or no labels."""
    header, arrays = tensors.load(path, Header, "labels")
    rows = arrays.get("labels", np.zeros(0))
    if header.format != FORMAT or rows.ndim != 2 or rows.shape[1] != 3 or rows.dtype != np.int64 or (rows < 0).any():
        raise StoreError(f"{path}: not labels that edgecl wrote; delete it")
    return {seq: Known(label, domain) for seq, label, domain in rows.tolist()}
