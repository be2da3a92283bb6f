"""What a data set says of itself, in `dataset.json`."""

from typing import Final

import msgspec

FORMAT: Final = "edgecl-dataset-1"
ABOUT: Final = "dataset.json"


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """Samples that were chosen and are not in the data set, by reason; and labels without a sample."""

    unlabelled: int = 0
    """Their label is not known."""
    duplicates: int = 0
    """Equal to one that was taken, byte for byte."""
    contradicting: int = 0
    """Equal to another of a different label."""
    surplus: int = 0
    """Of classes that have more than balance allows."""
    unfit: int = 0
    """Of another form than the newest bundle takes."""
    missing: int = 0
    """In the tables, and no longer in the segments of the store, or damaged there."""
    dropped_labels: int = 0
    """Labels of samples that are not kept: dropped by the quota of the board, or never kept."""
    refused_labels: int = 0
    """Rows of the file that are no labels, or name an unknown class."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a data set says of itself: `dataset.json`."""

    format: str
    lineage: str
    bundle: str
    """Id of the newest one that its samples were answered by."""
    kind: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    """In the order of their indices."""
    added: tuple[str, ...]
    """The last of them, which are not the bundle's."""
    devices: tuple[str, ...]
    samples: dict[str, int]
    """By set."""
    of_class: dict[str, dict[str, int]]
    """By set and class."""
    left: Left
    files: dict[str, str]
    """SHA-256 of each; without the images."""
