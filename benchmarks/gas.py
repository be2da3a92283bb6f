"""Gas sensors that drift for three years: a network trained on the first months, adapted with and without labels.

The gas sensor array drift data (Vergara et al. 2012): 128 features of 16 sensors, six gases, batches over 36 months. A
network with two hidden layers is trained on four fifths of batch 1 alone, and built; batches 2 to 6, 8 and 9 follow as
one stream. Within a batch the samples are shuffled: the files are sorted by gas. Features are in deviations of batch 1.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import data
import msgspec
import numpy as np
import results
import small
import streams
import torch
from small import Set
from streams import Ran, Stretch

from export.build import build

FIRST: Final = 1
LATER: Final = (2, 3, 4, 5, 6, 8, 9)
GASES: Final = ("ethanol", "ethylene", "ammonia", "acetaldehyde", "acetone", "toluene")
TRAINED: Final = 0.8
"""Of the first batch; the rest is held out for the build."""
EPOCHS: Final = 60
NOISE: Final = 0.1
SEEDS: Final = (0, 1, 2)
"""Of the network, and of the order of samples."""
LABELS: Final = 20
"""At the start of each batch; no figure counts these samples."""
KEPT_BYTES: Final = 1 << 22
BANK: Final = 8

LEARNERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "source": {},
    "norm": {},
    "tent": {},
    "ecotta": {},
    "adaptor": {"form": "film", "head": True},
}


class Row(msgspec.Struct, frozen=True):
    """One learner, one seed."""

    learner: str
    labels: int
    routed: bool
    seed: int
    accuracy: list[float]
    """Percent, of each later batch."""
    refused: int
    """Updates that the guard took back."""
    domains: int
    """In the bank, at the end."""
    learned: int
    """Labels."""


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    held_out: list[float]
    """Accuracy of the network on what was held out of the first batch, by seed; percent."""
    rows: list[Row]


def run(say: Callable[[str], None]) -> Found:
    """Every learner, with and without labels, one state or many."""
    torch.set_num_threads(1)
    found = Found([], [])
    for seed in SEEDS:
        first, *later = (_batch(number, seed) for number in (FIRST, *LATER))
        trained = int(TRAINED * len(first[0]))
        train: Set = (first[0][:trained], first[1][:trained])
        held_out: Set = (first[0][trained:], first[1][trained:])
        weights = small.train(small.gas(), *train, epochs=EPOCHS, noise=NOISE, seed=seed)
        for learner, settings in LEARNERS.items():
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                project = small.project(
                    "gas",
                    folder,
                    learner,
                    weights=weights,
                    train=train,
                    held_out=held_out,
                    classes=GASES,
                    settings=settings,
                )
                built = build(project, folder / "made.ecl")
                built.bundle.close()
                if learner == "source":
                    found.held_out.append(100 * built.accuracy)
                for labels, routed in ((0, False), (0, True), (LABELS, False), (LABELS, True)):
                    if learner == "source" and routed and not labels:
                        continue  # there is nothing to route to
                    stretches = [Stretch(str(n), *batch, labels) for n, batch in zip(LATER, later, strict=True)]
                    mine = replace(
                        streams.MINE, domains=BANK if routed else 1, keep_bytes=KEPT_BYTES, checkpoint_every=50
                    )
                    row = _row(learner, labels, routed, seed, streams.run(folder / "made.ecl", stretches, mine))
                    found.rows.append(row)
                    say(f"{_name(row)}, seed {seed}: {np.mean(row.accuracy):.1f} %")
    return found


def _batch(number: int, seed: int) -> Set:
    first = data.gas(FIRST)[0]
    x, y = data.gas(number)
    order = np.random.default_rng(seed).permutation(len(x))
    return ((x[order] - first.mean(0)) / first.std(0)).astype(np.float32), y[order]


def _row(learner: str, labels: int, routed: bool, seed: int, ran: Ran) -> Row:
    """What counts is behind the labels of every batch, whether they are told or not."""
    accuracy = [
        100 * float(np.mean(np.array(ran.answered[span])[LABELS:] == stretch.y[LABELS:]))
        for span, stretch in zip(ran.spans, ran.stretches, strict=True)
    ]
    domains = len(ran.after[-1].bank.domains)
    return Row(learner, labels, routed, seed, accuracy, ran.refused, domains, ran.learned)


def _name(row: Row) -> str:
    return f"{_taught(row) if row.labels else row.learner}{', routed' if row.routed else ''}"


def _taught(row: Row) -> str:
    return f"{row.learner}, LDA head" if row.learner in small.HEADED else f"{row.learner}, learn"


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    named: dict[str, list[Row]] = {}
    for row in found.rows:
        named.setdefault(_name(row), []).append(row)
    without = {name: rows for name, rows in named.items() if not rows[0].labels}
    taught = {name: rows for name, rows in named.items() if rows[0].labels}
    return [
        _shows(named),
        " ".join(str(__doc__).split()),
        f"Accuracy in percent, means over {len(SEEDS)} networks and orders, with the deviation of the last column. "
        f"On what is held out of batch 1 the networks have {np.mean(found.held_out):.1f} %. The first {LABELS} samples "
        "of each batch count nowhere, so that all rows are of the same samples. `routed`: a bank of "
        f"{BANK} domains at most, and a router over both hidden layers. Everything is as the loop and `edgecl build` "
        "have it by default.",
        "## Without labels",
        _table(without),
        f"## With the labels of the first {LABELS} samples of each batch",
        "Told by `label` when the last of them has been answered. `LDA head`: they teach a head without gradients over "
        "the taps, which answers a domain's samples once it has been right more often than the program. `learn`: there "
        "is no head, and they teach the learner itself, by cross-entropy, 8 new samples in an update and 4 updates on "
        "rehearsed ones behind it. `adaptor` is FiLM at both hidden layers, and the linear layer. Between labels all "
        "learn without, as above.",
        _table(taught),
    ]


def _shows(named: Mapping[str, Sequence[Row]]) -> str:
    means = {name: float(np.mean([row.accuracy for row in rows])) for name, rows in named.items()}
    plain = means["source"]
    groups = []
    for labels in (False, True):
        group = {name: mean for name, mean in means.items() if bool(named[name][0].labels) == labels}
        best = max(group, key=lambda name: group[name])
        worse = [name for name, mean in group.items() if mean < plain]
        harm = f"; below the network as trained: {', '.join(f'`{name}`' for name in worse)}" if worse else ""
        groups.append(f"{'With' if labels else 'Without'} labels the best is `{best}`, {group[best]:.1f} %{harm}.")
    return f"The network as trained has {plain:.1f} %. {' '.join(groups)}"


def _table(named: Mapping[str, Sequence[Row]]) -> str:
    lines = []
    for name, rows in named.items():
        accuracy = np.mean([row.accuracy for row in rows], axis=0)
        means = [float(np.mean(row.accuracy)) for row in rows]
        refused = f"{np.mean([row.refused for row in rows]):.1f}"
        domains = f"{np.mean([row.domains for row in rows]):.1f}"
        cells = [f"{value:.1f}" for value in accuracy]
        lines.append([name, *cells, f"**{np.mean(means):.1f}** ± {np.std(means):.1f}", domains, refused])
    return results.table(["", *(f"batch {number}" for number in LATER), "mean", "domains", "refused"], lines)
