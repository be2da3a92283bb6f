"""Figures over time: stretches of equally many answers."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from firmware_host.evaluate import metrics
from firmware_host.evaluate.answers import Answers
from firmware_host.evaluate.evaluation import Window
from firmware_host.evaluate.source import Beside

WINDOWS: Final = 200
"""At most."""
LEAST: Final = 50
"""Answers of one."""


def windows(answers: Answers, beside: Beside | None, *, fading: float = metrics.FADING) -> list[Window]:
    """The stream in at most WINDOWS stretches of LEAST answers or more."""
    n = len(answers)
    if not n:
        return []
    size = max(LEAST, -(-n // WINDOWS))
    starts = np.arange(0, n, size)
    ends = np.append(starts[1:], n)
    count = ends - starts
    which = np.arange(n) // size
    known = answers.known
    labelled = np.add.reduceat(known.astype(np.int64), starts)
    right = np.add.reduceat((known & answers.correct).astype(np.int64), starts)
    faded = np.append(np.nan, metrics.faded(answers.correct[known], fading))[np.cumsum(labelled)]
    entropy, confidence = (_means(column, which, len(starts)) for column in (answers.entropy, answers.confidence))
    similarity = _means(answers.similarity, which, len(starts))
    novel = np.add.reduceat(answers.novel.astype(np.int64), starts) / count
    shares = class_counts(answers.label, which, len(starts))
    drift = [metrics.jensen_shannon(row, shares[0]) for row in shares]
    alike = np.full(len(starts), np.nan)
    if beside and len(beside.at):
        alike = _means(beside.alike(answers).astype(np.float64), which[beside.at], len(starts))
    return [
        Window(
            first_seq=int(answers.seq[start]),
            last_seq=int(answers.seq[end - 1]),
            start=answers.time(start),
            end=answers.time(end - 1),
            answers=int(end - start),
            labelled=int(labelled[place]),
            accuracy=float(right[place] / labelled[place]) if labelled[place] else None,
            faded=_known(faded[place]),
            entropy=float(entropy[place]),
            confidence=float(confidence[place]),
            novel=float(novel[place]) if np.isfinite(similarity[place]) else None,
            similarity=_known(similarity[place]),
            domain=int(np.bincount(answers.domain[start:end]).argmax()),
            agreement=_known(alike[place]),
            drift=drift[place],
            latency_p95_ms=float(np.percentile(answers.latency_ms[start:end], 95)),
        )
        for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
    ]


def class_counts(label: npt.NDArray[Any], which: npt.NDArray[Any], rows: int) -> npt.NDArray[np.int64]:
    """How often each class was answered in each of some stretches, [rows, classes]."""
    classes, place = np.unique(label, return_inverse=True)
    flat = np.bincount(which * len(classes) + place, minlength=rows * len(classes))
    return flat.reshape(rows, len(classes))


def _means(values: npt.NDArray[Any], which: npt.NDArray[Any], rows: int) -> npt.NDArray[np.float64]:
    """The mean of each stretch, of what are numbers; nan where there are none."""
    there = np.isfinite(values)
    counts = np.bincount(which[there], minlength=rows)
    sums = np.bincount(which[there], values[there].astype(np.float64), rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: npt.NDArray[np.float64] = sums / counts
    return found


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
