"""Inputs that do not belong: the detector on CIFAR-10 and ResNet-20 beside other detectors on the same network.

CIFAR-100 is near (other objects, the same camera), digits are far, and the corruptions at severity 5 are images
of the same objects to be recognised as changed. All see the compiled network's source training images and no other.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cases
import data
import msgspec
import numpy as np
import numpy.typing as npt
import results

from edgecl.detector import Detector
from edgecl.engine import open_program
from edgecl.preprocess import Preprocess
from export.detector import fit

Floats = npt.NDArray[Any]

BATCH: Final = 50
NEIGHBOURS: Final = 50
DIMENSIONS: Final = (4096, 1024)
TIMED: Final = 2000
LATE: Final = 64
"""Channels of the last tap, which controls look at that take one layer."""


class Row(msgspec.Struct, frozen=True):
    """One detector."""

    name: str
    auroc: Mapping[str, float]
    """Percent, by the name of the other data."""
    fpr95: Mapping[str, float]
    bytes: int
    """Of what it knows of the source."""
    microseconds: float | None
    """For one sample, median; for the detectors of this project."""


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    rows: list[Row]
    infer_microseconds: float
    """To answer one sample, median, one thread."""


@dataclass(frozen=True)
class Seen:
    """What the network makes of a set of images."""

    logits: Floats
    taps: Floats


Score = Callable[[Seen], Floats]
"""Higher for what is more like the source, [N]."""


def run() -> Found:
    """Score all sets by all detectors."""
    project = cases.project("resnet20", "ecotta", "float", batch=BATCH, epochs=0)
    learner, source = cases.learner_of(project)
    x = source.inputs(source.spread_out(BATCH))
    made = cases.compiled(learner, x, [("infer", 1), ("infer", BATCH)])
    theta = cases.arrays(made.methods["infer_b1"])[0]
    preprocess = Preprocess(project.given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pte"
        path.write_bytes(made.pte)
        program = open_program(path, methods=["infer_b1", f"infer_b{BATCH}"], threads=1)

        def look(images: Floats) -> Seen:
            batches = [list(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
            out = [program.execute(f"infer_b{BATCH}", [theta, preprocess.batch(batch)]) for batch in batches]
            return Seen(*(np.concatenate([one[place] for one in out]) for place in (0, 1)))

        train, labels = data.train()
        known = look(train)
        sets = {name: look(images) for name, images in _others().items()}
        clean = look(data.clean()[0])
        one = preprocess.batch([train[0]])
        infer = _median_us(lambda: program.execute("infer_b1", [theta, one]))
        program.close()
    rows = [_row(name, score, clean, sets, size) for name, (score, size) in _controls(known, labels).items()]
    widths = [tap.shape[0] for tap in learner.encoder.taps]
    for form, dimensions in (("full", DIMENSIONS[0]), *(("bits", count) for count in DIMENSIONS)):
        rows.append(_own(form, dimensions, known, labels, widths, clean, sets))  # type: ignore[arg-type]
    return Found(rows, infer)


def _others() -> dict[str, Floats]:
    corrupted = np.concatenate([data.corrupted(name)[0] for name in data.CORRUPTIONS])
    return {"CIFAR-100": data.objects(), "digits": data.digits(), "corrupted": corrupted}


def _own(
    form: Literal["bits", "full"],
    dimensions: int,
    known: Seen,
    labels: npt.NDArray[np.int64],
    widths: Sequence[int],
    clean: Seen,
    sets: Mapping[str, Seen],
) -> Row:
    classes = len(data.CLASSES)
    made = fit([(known.taps, labels)], [known.taps], widths, classes, dimensions=dimensions, form=form, seed=0)
    detector = Detector(made.record, made.fit)

    def score(seen: Seen) -> Floats:
        parts = np.array_split(seen.taps, -(-len(seen.taps) // 500))
        return np.concatenate([detector.similarities(detector.encode(part)).max(1) for part in parts])

    size = made.fit.mean.nbytes + made.fit.scale.nbytes + made.fit.prototypes.nbytes
    name = f"edgecl, {'1 bit' if form == 'bits' else 'float32'}, {dimensions} dimensions"
    taps = clean.taps[0]
    return _row(name, score, clean, sets, size, _median_us(lambda: detector(taps)))


def _row(
    name: str, score: Score, clean: Seen, sets: Mapping[str, Seen], size: int, microseconds: float | None = None
) -> Row:
    inside, scores = score(clean), {other: score(seen) for other, seen in sets.items()}
    auroc = {other: 100 * _auroc(inside, found) for other, found in scores.items()}
    fpr95 = {other: 100 * float((found >= np.quantile(inside, 0.05)).mean()) for other, found in scores.items()}
    return Row(name, auroc, fpr95, size, microseconds)


def _controls(known: Seen, labels: npt.NDArray[np.int64]) -> dict[str, tuple[Score, int]]:
    """Other detectors, and the bytes that each keeps."""
    last = known.taps[:, -LATE:].astype(np.float64)
    means = np.stack([last[labels == label].mean(0) for label in np.unique(labels)])
    within, whole = (np.linalg.inv(np.cov(rows.T) + 1e-6 * np.eye(LATE)) for rows in (last - means[labels], last))
    centre, stored = last.mean(0), _unit(last)
    mean, spread = known.taps.mean(0), known.taps.std(0) + 1e-9
    classes = _unit(np.stack([((known.taps - mean) / spread)[labels == label].sum(0) for label in np.unique(labels)]))

    def distance(rows: Floats, to: Floats, inverse: Floats) -> Floats:
        away = rows - to
        squared: Floats = np.einsum("ij,jk,ik->i", away, inverse, away)
        return squared

    def mahalanobis(seen: Seen) -> Floats:
        """Relative: Ren et al. 2021."""
        rows = seen.taps[:, -LATE:]
        nearest = np.stack([distance(rows, one, within) for one in means]).min(0)
        relative: Floats = distance(rows, centre, whole) - nearest
        return relative

    def neighbours(seen: Seen) -> Floats:
        """Sun et al. 2022: cosine to the k-th neighbour."""
        parts = np.array_split(_unit(seen.taps[:, -LATE:]), 20)
        return np.concatenate([np.partition(p @ stored.T, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS] for p in parts])

    floats = 4
    return {
        "largest probability": (lambda seen: np.exp(seen.logits.max(1) - _logsumexp(seen.logits)), 0),
        "energy": (lambda seen: _logsumexp(seen.logits), 0),
        "cosine to class sums, taps side by side": (
            lambda seen: (_unit((seen.taps - mean) / spread) @ classes.T).max(1),
            floats * (classes.size + 2 * mean.size),
        ),
        "Mahalanobis, relative": (mahalanobis, floats * (means.size + within.size + whole.size + LATE)),
        f"{NEIGHBOURS}th neighbour": (neighbours, floats * stored.size),
    }


def _logsumexp(logits: Floats) -> Floats:
    most = logits.max(1)
    total: Floats = most + np.log(np.exp(logits - most[:, None]).sum(1))
    return total


def _unit(rows: Floats) -> Floats:
    directions: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return directions


def _auroc(inside: Floats, outside: Floats) -> float:
    """The share of pairs in which the one inside scores higher; ties count half."""
    both = np.concatenate([inside, outside])
    _, places, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n, m = len(inside), len(outside)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def _median_us(call: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times)


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    others = list(found.rows[0].auroc)
    lines = []
    for row in found.rows:
        pairs = [f"{row.auroc[other]:.1f}, {row.fpr95[other]:.1f}" for other in others]
        shown = "" if row.microseconds is None else f"{row.microseconds:.0f}"
        lines.append([row.name, *pairs, f"{row.bytes / 1e3:.1f}", shown])
    own = [row for row in found.rows if row.microseconds is not None]
    share = max(row.microseconds or 0.0 for row in own) / found.infer_microseconds
    return [
        " ".join(str(__doc__).split("\n\n", 1)[1].split())
        + " AUROC and FPR95 (share of the others that pass where 95 % of clean test images do) in percent; kB that a "
        "detector keeps of the source; microseconds for one sample, median.",
        results.table(["", *(f"{other}: AUROC, FPR95" for other in others), "kB", "µs"], lines),
        f"Answering one sample takes {found.infer_microseconds:.0f} µs, so detecting adds {100 * share:.1f} % at most.",
        "The weights of the taps (by the share of variance between classes) were chosen among a few such formulas by "
        "these figures; nothing else was.",
    ]
