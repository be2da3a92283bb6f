"""How alike the domains of a device are: the share of bits in which their signatures agree, and a plane to look at.

Prototypes are hypervectors of bits (`edgecl/signature.py`), and likeness is 1 - 2 h, h the share of bits that differ;
unrelated ones have 0. Bits that differ are the squared Euclidean distance of the vectors that they are, so classical
scaling (Torgerson 1952) of h gives their places exactly, and its first two axes the plane that keeps most of it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgecl import hypervectors
from edgecl.checkpoints import Checkpoints
from edgecl.errors import StoreError

LEARNED: Final = "learned"
"""Folder of a device in a host store, with one for each lineage."""


@dataclass(frozen=True)
class Placed:
    """A domain, and where it lies."""

    number: int
    name: str
    x: float
    y: float


@dataclass(frozen=True)
class DomainMap:
    """Of one checkpoint."""

    domains: tuple[Placed, ...]
    likeness: tuple[tuple[float, ...], ...]
    """-1 to 1; 1 for the same, 0 for what has nothing in common."""
    kept: float
    """Share of the squared distances that the plane keeps."""


def domain_map(device: Path, lineage: str) -> DomainMap | str:
    """From the folder of a device; or why there is none."""
    folder = device / LEARNED / lineage
    if not lineage or folder.parent != device / LEARNED or not folder.is_dir():
        return "what was learned is not here: edgecl pull --learned fetches it"
    try:
        found = Checkpoints(folder).bank()
    except StoreError as error:
        return f"no checkpoint can be read: {error}"
    if found is None:
        return "what was learned is not here: edgecl pull --learned fetches it"
    domains = found[1]
    if len({len(domain.prototype) for domain in domains}) != 1 or not len(domains[0].prototype):
        return "the bundle has no signatures: it was built without taps"
    likeness = hypervectors.bit_similarity(*[np.stack([domain.prototype for domain in domains])] * 2)
    places, kept = plane((1 - likeness.astype(float)) / 2)
    return DomainMap(
        tuple(
            Placed(domain.number, domain.name, float(x), float(y))
            for domain, (x, y) in zip(domains, places, strict=True)
        ),
        tuple(tuple(float(value) for value in row) for row in likeness),
        kept,
    )


def plane(squared: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], float]:
    """Places [n, 2] whose squared distances are near to those given [n, n], and the share that they keep."""
    size = len(squared)
    centre = np.eye(size) - 1 / size
    values, vectors = np.linalg.eigh(-centre @ squared @ centre / 2)
    values = np.maximum(values, 0)
    first = np.argsort(-values, kind="stable")[:2]
    axes = vectors[:, first] * np.sqrt(values[first])
    axes *= np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1, 1)  # the same on every machine
    total = values.sum()
    places = np.zeros((size, 2))
    places[:, : axes.shape[1]] = axes
    return places, float(values[first].sum() / total) if total > 0 else 1.0
