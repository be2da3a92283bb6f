"""Domains of a stream, the stays in each, and the accuracy matrix that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from firmware_host.evaluate import bootstrap, metrics
from firmware_host.evaluate.answers import Answers
from firmware_host.evaluate.evaluation import AccuracyMatrix, Interval, Phase
from firmware_host.evaluate.source import Beside

By = Literal["phases", "domains", "shifts"]

LEAST: Final = 20
"""Labelled answers below which a stay has no figure."""
BLIP: Final = 16
"""Answers below which a stay is none, and belongs to the one before."""
ENTERED: Final = 64
"""Labelled answers that tell with which accuracy a domain was entered."""
ROWS: Final = 200
"""Stays that a matrix shows: the latest ones. Its figures are of all."""
_WIDE: Final = 64
"""Domains above which there is no interval of the average."""


@dataclass(frozen=True)
class Stays:
    """The domain of each answer, and the stays of the stream."""

    by: By
    domain: npt.NDArray[np.intp]
    """Of each answer, a place in `names`."""
    names: tuple[str, ...]
    """In the order in which they first came."""
    starts: npt.NDArray[np.intp]
    """First answer of each stay."""
    ends: npt.NDArray[np.intp]
    """Behind its last one."""

    @property
    def of(self) -> npt.NDArray[np.intp]:
        """The domain of each stay."""
        return self.domain[self.starts]


def stays(by: By, domain: npt.NDArray[Any], names: Sequence[str]) -> Stays:
    """Stays of a stream whose answers are each of a domain, told as a place in `names`."""
    found = np.asarray(domain, np.intp).copy()
    starts = np.flatnonzero(np.append(True, found[1:] != found[:-1])) if len(found) else np.zeros(0, np.intp)
    lengths = np.diff(np.append(starts, len(found)))
    if by != "phases":  # what a file tells is meant
        for start, length in zip(starts[1:].tolist(), lengths[1:].tolist(), strict=True):
            if length < BLIP:
                found[start : start + length] = found[start - 1]
        starts = np.flatnonzero(np.append(True, found[1:] != found[:-1])) if len(found) else starts
    came = list(dict.fromkeys(found[starts].tolist()))
    place = np.zeros(max(came, default=0) + 1, np.intp)
    place[came] = np.arange(len(came))
    ends = np.append(starts[1:], len(found)).astype(np.intp) if len(found) else starts
    return Stays(by, place[found], tuple(names[number] for number in came), starts, ends)


def matrix(answers: Answers, found: Stays, beside: Beside | None, *, seed: int) -> AccuracyMatrix | None:
    """The accuracy matrix of the stays; None where there is one domain alone, or where nothing has labels."""
    if len(found.names) < 2 or not answers.known.any():
        return None
    known = np.concatenate([[0], np.cumsum(answers.known)])
    right = np.concatenate([[0], np.cumsum(answers.known & answers.correct)])
    labelled = known[found.ends] - known[found.starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = np.where(labelled >= LEAST, (right[found.ends] - right[found.starts]) / labelled, np.nan)
    rows = np.full((len(found.starts), len(found.names)), np.nan)
    rows[np.arange(len(rows)), found.of] = accuracy
    first = np.zeros(len(found.names), np.intp)
    entered, baseline = _entered(answers, found, beside)
    shown = slice(max(0, len(rows) - ROWS), None)
    seqs = answers.seq
    return AccuracyMatrix(
        by=found.by,
        domains=found.names,
        phases=tuple(
            Phase(found.names[domain], int(seqs[start]), int(seqs[end - 1]), end - start, count)
            for domain, start, end, count in zip(
                found.of[shown].tolist(),
                found.starts[shown].tolist(),
                found.ends[shown].tolist(),
                labelled[shown].tolist(),
                strict=True,
            )
        ),
        accuracy=tuple(tuple(number(value) for value in row) for row in rows[shown].tolist()),
        source=tuple(number(value) for value in _source(answers, found, beside).tolist()),
        average=_average(answers, found, rows, seed),
        forgetting=number(metrics.forgetting(rows, first)),
        backward=number(metrics.backward_transfer(rows, first)),
        forward=number(metrics.forward_transfer(entered, baseline)),
    )


def number(value: float) -> float | None:
    """None for what is no number."""
    return float(value) if np.isfinite(value) else None


def _average(answers: Answers, found: Stays, rows: npt.NDArray[Any], seed: int) -> Interval | None:
    """Average accuracy over the latest stays, with its interval."""
    value = metrics.average_accuracy(rows)
    if not np.isfinite(value):
        return None
    domains = np.flatnonzero(np.isfinite(rows).any(0))
    latest = [int(np.flatnonzero(np.isfinite(rows[:, domain]))[-1]) for domain in domains]
    order = sorted(range(len(latest)), key=lambda place: latest[place])
    parts = [np.arange(found.starts[latest[place]], found.ends[latest[place]]) for place in order]
    parts = [part[answers.known[part]] for part in parts]
    if len(parts) > _WIDE:
        return Interval(value)
    joined = np.concatenate(parts)
    which = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    right = answers.correct[joined].astype(np.float64)
    cell = bootstrap.cells(len(joined))
    wide = 2 * len(parts)
    size = (int(cell[-1]) + 1) * wide
    features = metrics.sums(cell * wide + which, size, right) + metrics.sums(cell * wide + len(parts) + which, size)

    def figure(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            each = sums[:, : len(parts)] / sums[:, len(parts) :]
        there = np.isfinite(each)
        found: npt.NDArray[np.float64] = np.where(there, each, 0).sum(1) / there.sum(1)
        return found

    means = np.array([right[which == one].mean() for one in range(len(parts))])
    along = metrics.sums(cell, size // wide, right - means[which])
    return bootstrap.interval(features.reshape(-1, wide), figure, along, len(joined), seed=seed)


def _source(answers: Answers, found: Stays, beside: Beside | None) -> npt.NDArray[np.float64]:
    """Accuracy of the source model on each domain."""
    out = np.full(len(found.names), np.nan)
    if beside:
        for domain in range(len(out)):
            here = found.domain[beside.at] == domain
            right = beside.right(answers)[here & answers.known[beside.at]]
            if len(right) >= LEAST:
                out[domain] = right.mean()
    return out


def _entered(
    answers: Answers, found: Stays, beside: Beside | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of each domain but the first: accuracy over the first answers in it, and the source model's on the same."""
    entered, baseline = np.full((2, len(found.names)), np.nan)
    if beside is None:
        return entered, baseline
    right = beside.right(answers)
    for domain in range(1, len(found.names)):
        stay = int(np.flatnonzero(found.of == domain)[0])
        labelled = np.flatnonzero(answers.known[found.starts[stay] : found.ends[stay]])[:ENTERED]
        if not len(labelled):
            continue
        first, last = found.starts[stay], found.starts[stay] + labelled[-1]
        both = (beside.at >= first) & (beside.at <= last) & answers.known[beside.at]
        if both.sum() >= LEAST:
            entered[domain] = answers.correct[beside.at][both].mean()
            baseline[domain] = right[both].mean()
    return entered, baseline
