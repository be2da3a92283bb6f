"""The second part of the demo: images of a kind never seen come, are told of, are taught with a few labels, and stay.

The network was trained on upright digits. Now comes what they look like rotated by a quarter and mirrored: to it,
an alphabet that it does not know. The router founds a domain for them; ten labels a class arrive late, by the numbers
of the answers; and upright digits are answered at the end as at the start.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from demo.model import Images, Labels

LABELS: Final = 10
"""A class."""
UPRIGHT: Final = 320
"""Upright digits at the start, and the same at the end."""

MEMORY: Final = "80 MB"
"""Of the process: labels, heads and the samples that are kept take some, which the build does not count."""

Edgecl = Callable[..., list[bytes]]
"""Runs `edgecl` with these arguments, and gives the lines that it printed."""


@dataclass(frozen=True)
class Stretch:
    """Answers to one kind of image."""

    what: str
    wrong: npt.NDArray[np.bool_]
    domains: npt.NDArray[np.int64]
    """That answered."""

    @property
    def error(self) -> float:
        """In percent."""
        return 100 * float(self.wrong.mean())

    @property
    def settled(self) -> float:
        """In percent, from where the stream was known to have come to its domain."""
        last = self.domains[-1]
        behind = int(np.flatnonzero(self.domains != last).max(initial=-1)) + 1
        return 100 * float(self.wrong[behind:].mean())


@dataclass(frozen=True)
class Novel:
    """What the second part gave."""

    stretches: tuple[Stretch, ...]
    began: int
    """Strange images until a new domain began."""
    listed: str
    """`edgecl domains list` at the end."""


def turned(x: Images) -> Images:
    """Digits as an alphabet that the network does not know."""
    return np.ascontiguousarray(np.rot90(x, 1, (1, 2))[:, :, ::-1])


def novel(x: Images, y: Labels, bundle: Path, out: Path, edgecl: Edgecl) -> Novel:
    """Run both streams, and give the labels between them; everything is written into `out`."""
    order, strange = (
        np.random.default_rng(1).permutation(len(x))[:UPRIGHT],
        np.random.default_rng(2).permutation(len(x)),
    )
    first, second = np.array_split(strange, 2)
    out.mkdir()
    _save(out / "strange.npz", x[order], turned(x[first]), y[order], y[first])
    _save(out / "later.npz", turned(x[second]), x[order], y[second], y[order])
    state = out / "state"
    options = ("--state", state, "--sync", "--domains", 8, "--keep", "8 MB", "--memory", MEMORY, "--json")
    before = _answers(edgecl("run", bundle, "--source", f"npz:{out / 'strange.npz'}", *options))
    _labels(out / "labels.csv", y[first], UPRIGHT)
    edgecl("label", state, "--csv", out / "labels.csv", "--memory", MEMORY)
    after = _answers(edgecl("run", bundle, "--source", f"npz:{out / 'later.npz'}", *options))
    stretches = (
        *_stretches(("upright digits", "turned digits, no labels"), before, (UPRIGHT, len(first))),
        *_stretches((f"turned digits, after {LABELS} labels a class", "upright digits again"), after,
                    (len(second), UPRIGHT)),
    )  # fmt: skip
    began = int((stretches[1].domains != 0).argmax())
    return Novel(stretches, began, b"\n".join(edgecl("domains", "list", state)).decode())


def said(found: Novel) -> str:
    """What it gave, for people."""
    width = max(len(stretch.what) for stretch in found.stretches)
    lines = [f"{stretch.what:{width}}  {stretch.error:5.1f} % wrong" for stretch in found.stretches]
    first, last = found.stretches[0], found.stretches[-1]
    return "\n".join(
        [
            *lines,
            "",
            f"A new domain began with turned digit number {found.began + 1}. Of the upright digits at the end, those",
            f"after it was known that they were back: {last.settled:.1f} % wrong; at the start {first.error:.1f} %.",
            "",
            found.listed,
        ]
    )


def _save(path: Path, one: Images, other: Images, y: Labels, other_y: Labels) -> None:
    np.savez(path, x=np.concatenate([one, other]), y=np.concatenate([y, other_y]))


def _labels(path: Path, y: Labels, first_seq: int) -> None:
    """The labels of the first few of each class, by the numbers of their answers."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("seq", "class"))
        for label in np.unique(y):
            rows.writerows((first_seq + place, label) for place in np.flatnonzero(y == label)[:LABELS].tolist())


def _answers(lines: Sequence[bytes]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    events = [event for event in map(json.loads, lines) if event["event"] == "prediction"]
    return np.array([event["label"] != event["y"] for event in events]), np.array([event["domain"] for event in events])


def _stretches(
    names: Sequence[str], answers: tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]], lengths: Sequence[int]
) -> list[Stretch]:
    wrong, domains = answers
    ends = np.cumsum(lengths).tolist()
    return [
        Stretch(name, wrong[end - length : end], domains[end - length : end])
        for name, length, end in zip(names, lengths, ends, strict=True)
    ]
