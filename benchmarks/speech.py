"""Spoken digits: a network that knows three speakers hears the other three, one after another, and all of them again.

The Free Spoken Digit Dataset. What the network sees is a log-mel spectrogram, made here: frames of 32 ms every 16 ms
under a Hann window, the power of each in 32 triangular bands that are equally wide on the mel scale from 60 to 4,000
Hz, and the logarithm. A recording is centred, and cut or filled with silence to 60 frames.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import data
import msgspec
import numpy as np
import numpy.typing as npt
import results
import retained
import routing
import small
import streams
import torch
from data import Spoken
from retained import Row
from routing import Routing
from small import Set
from streams import Network, Ran, Stretch

from export.build import build

RATE: Final = 8000
FRAME: Final = 256
HOP: Final = 128
FRAMES: Final = 60
BANDS: Final = 32
LOWEST: Final = 60.0
SILENCE: Final = 1e-4
"""Added to the power of a band, of samples between -1 and 1."""

SPEAKERS: Final = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
KNOWN: Final = ((0, 1, 2), (3, 4, 5), (0, 2, 4))
"""Speakers that the network is trained on, by split."""
SOURCE: Final = "known"
PLAN: Final = (SOURCE, 0, 1, SOURCE, 2, 0, 1, 2)
"""The stream: the speakers that are known, mixed, and the others."""

TRAINED: Final = range(30)
"""Takes of known speakers."""
CHECKED: Final = range(30, 34)
"""That the build holds out."""
STREAMED: Final = range(34, 44)
KEPT: Final = range(44, 50)
"""Held out of everything."""
NEW_STREAMED: Final = range(40)
"""Takes of other speakers; the rest are held out."""

EPOCHS: Final = 25
NOISE: Final = 0.3
LABELS: Final = 20
BANK: Final = 8
KEPT_BYTES: Final = 1 << 24

LEARNERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "source": {},
    "norm": {},
    "tent": {},
    "ecotta": {},
    "adaptor": {"form": "film", "head": True},
}


class Taught(msgspec.Struct, frozen=True):
    """A run with labels. Percent."""

    name: str
    split: int
    first: list[float]
    """Accuracy in the first stretch of each new speaker, behind the labels."""
    again: list[float]
    """In the second."""
    known: list[float]
    """In both stretches of known speakers."""


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    held_out: list[float]
    rows: list[Row]
    taught: list[Taught]
    routing: list[Routing]


def run(say: Callable[[str], None]) -> Found:
    """Every learner on every split."""
    torch.set_num_threads(1)
    found = Found([], [], [], [])
    recordings = data.spoken()
    for split in range(len(KNOWN)):
        sets = _sets(recordings, split)
        weights = small.train(small.speech(), *sets["train"], epochs=EPOCHS, noise=NOISE, seed=split)
        say(f"split {split}: trained")
        for learner, settings in LEARNERS.items():
            with tempfile.TemporaryDirectory() as name:
                _of_learner(found, split, learner, settings, Path(name), sets, weights)
            say(f"{learner}, split {split}: {_spoken(found.taught[-1])}")
    return found


def _of_learner(
    found: Found,
    split: int,
    learner: str,
    settings: Mapping[str, Any],
    folder: Path,
    sets: Mapping[str, Set],
    weights: Mapping[str, torch.Tensor],
) -> None:
    project = small.project(
        "speech",
        folder,
        learner,
        weights=weights,
        train=sets["train"],
        held_out=sets["check"],
        classes=[str(digit) for digit in range(10)],
        settings=settings,
    )
    path = folder / "made.ecl"
    built = build(project, path)
    built.bundle.close()
    if learner == "source":
        found.held_out.append(100 * built.accuracy)
    network = Network(path, 16)
    held_out = {name: sets[f"{name} kept"] for name in (SOURCE, *_new(split))}
    seen = {name: routing.see(network, x) for name, (x, _) in held_out.items()}
    labels = {name: y for name, (_, y) in held_out.items()}
    for how, domains in (("shared", 1), ("routed", BANK)):
        if learner != "source" or how == "shared":
            mine = replace(streams.MINE, domains=domains)
            ran = streams.run(path, _stream(sets, split, 0), mine)
            name = learner if learner == "source" else f"{learner}, {how}"
            found.rows.append(retained.row(name, split, ran, network, seen, labels))
            found.taught.append(_taught(name, split, ran))
            if learner == "norm" and how == "routed":
                source = routing.see(network, sets["train"][0])
                found.routing.append(routing.measure(learner, split, ran, network, source, seen))
        mine = replace(streams.MINE, domains=domains, keep_bytes=KEPT_BYTES, checkpoint_every=50)
        name = f"{learner}, {how}, {LABELS} labels, {'LDA head' if learner in small.HEADED else 'learn'}"
        found.taught.append(_taught(name, split, streams.run(path, _stream(sets, split, LABELS), mine)))
    network.close()


def _new(split: int) -> list[str]:
    return [speaker for place, speaker in enumerate(SPEAKERS) if place not in KNOWN[split]]


def _sets(recordings: Sequence[Spoken], split: int) -> dict[str, Set]:
    """All parts of the data, each in an order of its own; a stream's halves are told by `.0` and `.1`."""
    known = [SPEAKERS[place] for place in KNOWN[split]]
    random = np.random.default_rng(split)

    def part(speakers: Sequence[str], takes: range) -> list[Spoken]:
        chosen = [one for one in recordings if one.speaker in speakers and one.take in takes]
        return [chosen[place] for place in random.permutation(len(chosen))]

    rest = range(NEW_STREAMED.stop, KEPT.stop)
    parts = {
        "train": part(known, TRAINED),
        "check": part(known, CHECKED),
        SOURCE: part(known, STREAMED),
        f"{SOURCE} kept": part(known, KEPT),
    }
    for speaker in _new(split):
        parts |= {speaker: part([speaker], NEW_STREAMED), f"{speaker} kept": part([speaker], rest)}
    raw = {name: np.stack([spectrogram(one.wave) for one in some]) for name, some in parts.items()}
    mean, deviation = raw["train"].mean(), raw["train"].std()
    return {
        name: (((raw[name] - mean) / deviation).astype(np.float32), np.array([one.digit for one in some], np.int64))
        for name, some in parts.items()
    }


def _stream(sets: Mapping[str, Set], split: int, labels: int) -> list[Stretch]:
    """Labels are told when a new speaker is first heard."""
    new, made, heard = _new(split), [], set()
    for kind in PLAN:
        name = kind if isinstance(kind, str) else new[kind]
        x, y = sets[name]
        half = len(x) // 2
        part = slice(half, None) if name in heard else slice(0, half)
        told = labels if name != SOURCE and name not in heard else 0
        made.append(Stretch(name, x[part], y[part], told))
        heard.add(name)
    return made


def spectrogram(wave: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """[1, BANDS, FRAMES]"""
    length = (FRAMES - 1) * HOP + FRAME
    middle = max(0, (len(wave) - length) // 2)
    cut = wave[middle : middle + length].astype(np.float64) / 32768
    before = (length - len(cut)) // 2
    padded = np.pad(cut, (before, length - len(cut) - before))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP] * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return np.log(power @ _bands().T + SILENCE).T[None].astype(np.float32)


def _bands() -> npt.NDArray[np.float64]:
    """Triangles [BANDS, FRAME / 2 + 1] between points that are equally far apart in mel, 2595 log10(1 + f / 700)."""
    lowest, highest = (float(2595 * np.log10(1 + f / 700)) for f in (LOWEST, RATE / 2))
    mel = np.linspace(lowest, highest, BANDS + 2)
    points = 700 * (10 ** (mel / 2595) - 1)
    at = np.linspace(0, RATE / 2, FRAME // 2 + 1)
    left, top, right = (points[place : place + BANDS, None] for place in (0, 1, 2))
    rising, falling = (at - left) / (top - left), (right - at) / (right - top)
    bands: npt.NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return bands


def _taught(name: str, split: int, ran: Ran) -> Taught:
    """Accuracies; the samples whose labels are told in some runs count in none."""
    first: dict[str, float] = {}
    again, known = [], []
    for span, stretch in zip(ran.spans, ran.stretches, strict=True):
        fresh = stretch.domain != SOURCE and stretch.domain not in first
        right = (np.array(ran.answered[span]) == stretch.y)[LABELS if fresh else 0 :]
        if stretch.domain == SOURCE:
            known.append(retained.percent(right))
        elif fresh:
            first[stretch.domain] = retained.percent(right)
        else:
            again.append(retained.percent(right))
    return Taught(name, split, list(first.values()), again, known)


def _spoken(one: Taught) -> str:
    return f"{np.mean(one.first):.1f} % at first, {np.mean(one.again):.1f} % again"


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    domains = [SOURCE, "new 1", "new 2", "new 3"]
    return [
        _shows(found.taught),
        " ".join(str(__doc__).split()),
        f"Three splits into three known and three new speakers; means over them. Trained on {len(TRAINED)} takes of "
        f"each known digit and speaker: {np.mean(found.held_out):.1f} % right on other takes of theirs. A stretch is "
        "200 recordings of one new speaker, or 150 of the three known ones; no recording comes twice. Routed: a bank "
        f"of {BANK} domains at most. All settings are those that the loop and `edgecl build` have by default.",
        "## Accuracy along the stream",
        f"Percent. With labels: those of the first {LABELS} recordings of a new speaker are told, by `label`, when the "
        "last of them has been answered; these recordings count in no row. `LDA head`: the labels teach a head without "
        "gradients over the taps, which answers a domain's recordings once it has been right more often than the "
        "program. `learn`: they teach the learner itself, by cross-entropy, with rehearsal. `adaptor` is FiLM at both "
        "taps, and the linear layer.",
        _accuracies(found.taught),
        "## What is kept, without labels",
        f"Held out of each new speaker are {10 * (KEPT.stop - NEW_STREAMED.stop)} recordings, of each known one "
        f"{10 * len(KEPT)}. " + retained.says(),
        retained.table([_plain(row) for row in found.rows], SOURCE, domains),
        "## Where recordings go",
        _routes(found.routing),
    ]


def _shows(taught: Sequence[Taught]) -> str:
    named: dict[str, list[float]] = {}
    for one in taught:
        named.setdefault(one.name, []).append(float(np.mean([*one.first, *one.again])))
    means = {name: float(np.mean(values)) for name, values in named.items()}
    best = {
        labels: max((name for name in means if ("labels" in name) == labels), key=lambda name: means[name])
        for labels in (False, True)
    }
    return (
        f"Of new speakers' digits, the network as trained knows {means['source']:.1f} %; the best without labels is "
        f"`{best[False]}` with {means[best[False]]:.1f} %, with {LABELS} labels a speaker `{best[True]}` with "
        f"{means[best[True]]:.1f} %."
    )


def _plain(row: Row) -> Row:
    """With new speakers by number, so that splits can be averaged."""
    names = list(row.matrix[0])
    plain = {name: f"new {place}" if place else SOURCE for place, name in enumerate(names)}
    matrix, own = (
        [{plain[name]: value for name, value in one.items()} for one in rows] if rows is not None else None
        for rows in (row.matrix, row.own)
    )
    assert matrix is not None
    stretches = [plain[name] for name in row.stretches]
    return msgspec.structs.replace(row, stretches=stretches, matrix=matrix, own=own)


def _accuracies(taught: Sequence[Taught]) -> str:
    named: dict[str, list[Taught]] = {}
    for one in sorted(taught, key=lambda one: "labels" in one.name):
        named.setdefault(one.name, []).append(one)
    lines = [
        [name, *(f"{np.mean([getattr(one, part) for one in ones]):.1f}" for part in ("known", "first", "again"))]
        for name, ones in named.items()
    ]
    return results.table(["", "known speakers", "new speakers, first stretch", "second stretch"], lines)


def _routes(found: Sequence[Routing]) -> str:
    lines = []
    for one in found:
        shares = [f"{name} {share:.0f}" for name, share in zip(one.stretches, one.routed, strict=True)]
        single = ", ".join(f"{name} {share:.1f}" for name, share in one.single.items())
        lines.append([f"split {one.order}", ", ".join(shares), single])
    head = ["`norm`, routed right, %", "stretches", "single held-out recordings, mixed: the router, and nearest means"]
    return results.table(head, lines)
