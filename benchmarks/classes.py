"""Classes that come one by one: a network that knows five of CIFAR-10's ten is taught the others on the board.

A ResNet-20 trained on airplane, automobile, bird, cat and deer (benchmarks/five.py) stays as it is. Labelled training
images follow in groups of 50: of the five known classes first, mixed, then of dog, frog, horse, ship and truck, one
class after another. Then all ten are asked for, on 2,000 test images.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import cases
import data
import five
import models
import msgspec
import numpy as np
import numpy.typing as npt
import results
import streams
import torch
from retained import percent
from streams import Network, Stretch
from torch import nn

from edgecl.head import HEADS, Form
from export.build import build
from export.project import Project, Tables

Floats = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]

GROUP: Final = 50
FASTER: Final = 0.1
"""A rate for gradients, per 64 samples, beside the learner's own, which is made for small changes."""
COUNTS: Final = (50, 500)
"""Labelled images of each new class, and as many of the known ones together."""
TEST: Final = slice(0, 2000)
KEPT_BYTES: Final = 1 << 23
EPOCHS: Final = 200
"""Of the linear probe, each a step of L-BFGS on all features."""
DECAY: Final = 1e-3


@dataclass(frozen=True)
class Way:
    """How new classes are learned."""

    name: str
    learner: str = "source"
    settings: Mapping[str, Any] = field(default_factory=dict)
    head: Literal["lda", "ridge", "none"] = "none"
    rehearsal_bytes: int = 0
    rehearse: int = 0


PCR: Final = {"form": "film", "head": True, "loss": "pcr"}
CROSS_ENTROPY: Final = {"form": "film", "head": True}
REHEARSAL: Final = 1 << 20
WAYS: Final = (
    Way("LDA", head="lda"),
    Way("ridge", head="ridge"),
    Way("PCR, rehearsal", "adaptor", PCR, rehearsal_bytes=REHEARSAL, rehearse=4),
    Way("cross-entropy, rehearsal", "adaptor", CROSS_ENTROPY, rehearsal_bytes=REHEARSAL, rehearse=4),
    Way("cross-entropy alone", "adaptor", CROSS_ENTROPY),
)


class Row(msgspec.Struct, frozen=True):
    """One way. Percent."""

    name: str
    labels: int
    """Of each new class; all of the training images for what is offline."""
    accuracy: float
    known: float
    """Of the test images of the five classes that the network knew."""
    new: float
    bytes: int
    """What is kept on the disk of what was learned: states, heads, rehearsal."""
    refused: int = 0


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    built: float
    """Accuracy of the network on test images of the classes that it knows."""
    rows: list[Row]


def run(say: Callable[[str], None]) -> Found:
    """Every way, and what can be had offline."""
    torch.set_num_threads(1)
    x, y = (part[TEST] for part in data.clean())
    rows: list[Row] = []
    built = 0.0
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "made.ecl"
            build(_project(way), path).bundle.close()
            say(f"{way.name}: built")
            if not rows:
                network = Network(path, 16)
                built = percent(network.look(network.built, x[y < five.KNOWN])[0].argmax(1) == y[y < five.KNOWN])
                rows += _offline(network, x, y)
                network.close()
            for rate in (None, FASTER) if way.learner == "adaptor" else (None,):
                for count in COUNTS:
                    rows.append(_taught(way, path, count, rate, x, y))
                    say(f"{rows[-1].name}, {count} labels: {rows[-1].accuracy:.1f} %")
    return Found(built, rows)


def _project(way: Way) -> Project:
    """Gradients know only the classes that a network was built with, so it has room for them; heads need none."""
    gradients = way.head == "none"
    plain = cases.project("resnet20", way.learner, "float", tapped=True).tables
    table = msgspec.to_builtins(plain) | {
        "name": "classes",
        "model": {
            "factory": "five:with_room" if gradients else "five:resnet",
            "classes": data.CLASSES if gradients else data.CLASSES[: five.KNOWN],
            "taps": models.ResNet.taps,
        },
        "data": {"train": "five:train_set", "held_out": "five:held_out"},
        "learner": {"name": way.learner, "batch": 16, "settings": way.settings},
        "head": {"form": way.head},
    }
    return Project(Path(__file__).parent, msgspec.convert(table, Tables))


def _taught(way: Way, path: Path, count: int, rate: float | None, x: Floats, y: Labels) -> Row:
    stretches = [*_stream(count), Stretch("test", x, y)]
    hyper = {"margin": 0.0} if way.learner == "adaptor" else {}  # nothing is learned without a label
    hyper |= {"lr": rate} if rate else {}
    settings = replace(
        streams.MINE,
        checkpoint_every=1000,
        hyper=hyper,
        keep_bytes=KEPT_BYTES,
        rehearsal_bytes=way.rehearsal_bytes,
        rehearse=way.rehearse,
    )
    ran = streams.run(path, stretches, settings, classes=data.CLASSES)
    right = np.array(ran.answered[ran.spans[-1]]) == y
    size = sum(ran.sizes.values()) + ran.taught
    return _row(f"{way.name}, rate {rate}" if rate else way.name, count, right, y, size, ran.refused)


def _stream(count: int) -> list[Stretch]:
    x, y = data.train()
    known = np.flatnonzero(y < five.KNOWN)[:count]
    parts = [known, *(np.flatnonzero(y == label)[:count] for label in range(five.KNOWN, len(data.CLASSES)))]
    groups = [part[start : start + GROUP] for part in parts for start in range(0, len(part), GROUP)]
    return [Stretch(str(y[group[0]]), x[group], y[group], len(group)) for group in groups]


def _row(name: str, labels: int, right: npt.NDArray[np.bool_], y: Labels, size: int, refused: int = 0) -> Row:
    old = y < five.KNOWN
    return Row(name, labels, percent(right), percent(right[old]), percent(right[~old]), size, refused)


def _offline(network: Network, x: Floats, y: Labels) -> list[Row]:
    """From the features of all training images of all ten classes."""
    train, labels = data.train()
    known, asked = (network.signatures.whitening(network.look(network.built, images)[1]) for images in (train, x))
    rows = []
    forms: Sequence[Form] = ("lda", "ridge")
    for form in forms:
        sums = HEADS[form].empty(known.shape[1], len(data.CLASSES), 0).add(known, labels)
        answers = sums.solve()(asked).argmax(1)
        rows.append(_row(f"{'LDA' if form == 'lda' else form}, all at once", len(train), answers == y, y, sums.nbytes))
    probe = nn.Linear(known.shape[1], len(data.CLASSES))
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=EPOCHS, line_search_fn="strong_wolfe")
    features, targets = torch.from_numpy(known), torch.from_numpy(labels)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(probe(features), targets) + DECAY * probe.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        right = probe(torch.from_numpy(asked)).argmax(1).numpy() == y
    size = sum(part.numel() * 4 for part in probe.parameters())
    return [*rows, _row("linear probe, all at once", len(train), right, y, size)]


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    lines = [
        [
            row.name,
            str(row.labels) if row.labels in COUNTS else "all 10,000",
            *(f"{value:.1f}" for value in (row.accuracy, row.known, row.new)),
            f"{row.bytes / 1e3:.0f}",
            str(row.refused),
        ]
        for row in sorted(found.rows, key=lambda row: (row.labels, -row.accuracy))
    ]
    head = ["", "labels of each new class", "accuracy, all ten, %", "known five", "new five"]
    most = {row.name: row for row in found.rows if row.labels == COUNTS[-1]}
    best = max(most.values(), key=lambda row: row.accuracy)
    bound = max(row.accuracy for row in found.rows if row.labels not in COUNTS)
    return [
        f"With {COUNTS[-1]} labels of each new class, `{best.name}` knows {best.accuracy:.1f} % of all ten classes; "
        f"offline, frozen features give {bound:.1f} %.",
        " ".join(str(__doc__).split()),
        f"As built, the network is right on {found.built:.1f} % of the test images of the five classes that it knows, "
        "asked for those alone. As many labels as of one new class are told of the known ones together. `LDA` and "
        "`ridge`: heads without gradients over the taps, which begin with the sums of the source and take classes "
        "with `add_class`. `PCR` and cross-entropy: the `adaptor` learner with FiLM at every tap and the linear layer, "
        "which must have all ten classes from the build on (five rows of its linear layer are random); it rehearses "
        "from 1 MiB of samples, 4 updates on them for each on new ones, or from none, at its own rate or at "
        f"{FASTER}, and learns nothing without labels. All other settings are defaults.",
        results.table([*head, "kB kept", "updates refused"], lines),
        "All at once: the same features of all training images of all ten classes, offline; the probe is logistic "
        f"regression on them (L-BFGS, weight decay {DECAY:g}). It is what frozen features can give, or nearly.",
    ]
