"""Figures of a stream of answers: accuracy, what learning was worth, novelty, calibration, behaviour, durations."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from firmware_host.evaluate import bootstrap, metrics
from firmware_host.evaluate.answers import Answers
from firmware_host.evaluate.domains import Stays, number
from firmware_host.evaluate.evaluation import (
    Against,
    Behaviour,
    Bin,
    Calibration,
    DomainFigures,
    Interval,
    Novelty,
    Percentiles,
)
from firmware_host.evaluate.metrics import Reliability
from firmware_host.evaluate.source import Beside
from firmware_host.evaluate.windows import class_counts

LEAST: Final = 20
"""Answers on each side below which scores are not compared."""
SKEWED: Final = 0.15
"""That the probability of a labelled answer being less sure than another one may be away from a half."""
SHOWN: Final = 100
"""Domains that are told of, those with the most answers."""
_LEVELS: Final = 64
"""That scores are rounded to, for an interval."""


def accuracy(answers: Answers, seed: int) -> Interval | None:
    """Of all answers whose label is known."""
    right = answers.correct[answers.known]
    return bootstrap.mean(right, seed=seed) if len(right) else None


def against(answers: Answers, beside: Beside, seed: int) -> Against:
    """The board beside its source model."""
    known = answers.known[beside.at]
    before = beside.right(answers)[known].astype(np.float64)
    after = answers.correct[beside.at][known].astype(np.float64)
    there = bool(known.any())
    return Against(
        answers=len(beside.at),
        labelled=int(known.sum()),
        before=bootstrap.mean(before, seed=seed) if there else None,
        after=bootstrap.mean(after, seed=seed) if there else None,
        gain=bootstrap.mean(after - before, seed=seed) if there else None,
        agreement=float(beside.alike(answers).mean()),
        entropy_before=_mean(beside.said.entropy),
        entropy_after=_mean(answers.entropy[beside.at]),
    )


def domain_figures(
    answers: Answers, stays: Stays, beside: Beside | None, updates: Mapping[int, int], seed: int
) -> tuple[DomainFigures, ...]:
    """Of each domain, in the order in which they came."""
    if not len(answers):
        return ()
    counts = np.bincount(stays.domain, minlength=len(stays.names))
    shown = sorted(np.argsort(-counts, kind="stable")[:SHOWN].tolist())
    visits = np.bincount(stays.of, minlength=len(stays.names))
    found = []
    for domain in shown:
        here = stays.domain == domain
        own = answers.of(here)
        own_number = int(np.bincount(own.domain).argmax()) if stays.by == "domains" else domain
        before = after = None
        if beside:
            both = here[beside.at] & answers.known[beside.at]
            if both.any():
                before = float(beside.right(answers)[both].mean())
                after = float(answers.correct[beside.at][both].mean())
        similarity = _mean(own.similarity)
        found.append(
            DomainFigures(
                number=own_number,
                name=stays.names[domain],
                answers=len(own),
                labelled=int(own.known.sum()),
                accuracy=accuracy(own, seed),
                before=before,
                after=after,
                entropy=_mean(own.entropy),
                confidence=_mean(own.confidence),
                similarity=number(similarity),
                novel=float(own.novel.mean()) if np.isfinite(similarity) else None,
                visits=int(visits[domain]),
                updates=updates.get(own_number, 0) if stays.by == "domains" else 0,
                first=own.time(0),
                last=own.time(len(own) - 1),
            )
        )
    return tuple(found)


def novelty(answers: Answers, stays: Stays, seed: int) -> Novelty | None:
    """How well the board's own scores tell what belongs from what does not; None without a detector or both kinds."""
    scored = np.isfinite(answers.similarity)
    by: Literal["phases", "domains", "errors"] = "errors"
    inside, chosen = answers.correct, scored & answers.known
    if stays.by in ("phases", "domains") and len(stays.names) > 1:
        by = "phases" if stays.by == "phases" else "domains"
        home = stays.names.index("source") if "source" in stays.names else 0
        inside, chosen = stays.domain == home, scored
    similarity, inside, novel = answers.similarity[chosen], inside[chosen], answers.novel[chosen]
    ours, others = similarity[inside], similarity[~inside]
    if min(len(ours), len(others)) < LEAST:
        return None
    return Novelty(
        by=by,
        inside=len(ours),
        outside=len(others),
        auroc=_auroc(similarity, inside, seed),
        fpr95=metrics.fpr95(ours, others),
        told=float(novel[~inside].mean()),
        false_alarms=float(novel[inside].mean()),
    )


def _auroc(scores: npt.NDArray[Any], inside: npt.NDArray[Any], seed: int) -> Interval:
    value = metrics.auroc(scores[inside], scores[~inside])
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, _LEVELS + 1)[1:-1]))
    levels = len(edges) + 1
    column = np.searchsorted(edges, scores, side="right") + np.where(inside, 0, levels)
    cell = bootstrap.cells(len(scores))
    rows = int(cell[-1]) + 1
    features = metrics.sums(cell * 2 * levels + column, rows * 2 * levels).reshape(rows, -1)

    def figure(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        ours, others = sums[:, :levels], sums[:, levels:]
        below = np.cumsum(others, 1) - others / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            found: npt.NDArray[np.float64] = (ours * below).sum(1) / (ours.sum(1) * others.sum(1))
        return found

    found = bootstrap.interval(features, figure, metrics.sums(cell, rows, scores), len(scores), seed=seed)
    if found.low is None or found.high is None:
        return Interval(value)
    moved = value - found.value  # of levels instead of scores
    return Interval(value, max(0.0, found.low + moved), min(1.0, found.high + moved))


def calibration(answers: Answers, beside: Beside | None, seed: int) -> Calibration:
    """Of all answers whose label is known, and of the source model and the board on the same samples."""
    known = answers.known
    right, confidence = answers.correct[known], answers.confidence[known]
    all_of_them = metrics.reliability(confidence, right)
    before = after = None
    bins_before: tuple[Bin, ...] = ()
    if beside and (both := known[beside.at]).any():
        source = metrics.reliability(beside.said.confidence[both], beside.right(answers)[both])
        board = metrics.reliability(answers.confidence[beside.at][both], answers.correct[beside.at][both])
        before, after, bins_before = number(source.ece), number(board.ece), _bins(source)
    return Calibration(
        ece=_ece(confidence, right, all_of_them.ece, seed) if all_of_them.counts.any() else None,
        before=before,
        after=after,
        bins=_bins(all_of_them) if all_of_them.counts.any() else (),
        bins_before=bins_before,
    )


def _ece(confidence: npt.NDArray[Any], right: npt.NDArray[Any], value: float, seed: int) -> Interval:
    sure = np.isfinite(confidence)
    confidence, right = confidence[sure], right[sure]
    cell, bins = bootstrap.cells(len(right)), metrics.BINS
    column = cell * (bins + 1) + metrics.bin_of(confidence)
    rows, off = int(cell[-1]) + 1, confidence.astype(np.float64) - right
    features = metrics.sums(column, rows * (bins + 1), off).reshape(rows, -1)
    features[:, bins] = metrics.sums(cell, rows)

    def figure(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = np.abs(sums[:, :bins]).sum(1) / sums[:, bins]
        return found

    found = bootstrap.interval(features, figure, metrics.sums(cell, rows, off), len(right), seed=seed)
    return Interval(value, found.low, found.high)


def _bins(found: Reliability) -> tuple[Bin, ...]:
    return tuple(
        Bin(low, high, count, confidence / count if count else None, right / count if count else None)
        for low, high, count, confidence, right in zip(
            found.edges[:-1].tolist(),
            found.edges[1:].tolist(),
            found.counts.tolist(),
            found.confidence.tolist(),
            found.correct.tolist(),
            strict=True,
        )
    )


def behaviour(answers: Answers, names: Mapping[int, str], shifts: int, domains: int, seed: int) -> Behaviour:
    """What can be told without labels."""
    tenth = max(1, len(answers) // 10)
    first, last = answers.of(slice(None, tenth)), answers.of(slice(-tenth, None))
    ends = np.concatenate([first.label, last.label])
    counts = class_counts(ends, np.repeat((0, 1), tenth), 2)
    classes, found = np.unique(answers.label, return_counts=True)
    same = answers.label[1:] == answers.label[:-1]
    within = answers.domain[1:] == answers.domain[:-1]
    scored = bool(np.isfinite(answers.similarity).any())
    return Behaviour(
        entropy=bootstrap.mean(np.nan_to_num(answers.entropy), seed=seed),
        entropy_first=_mean(first.entropy),
        entropy_last=_mean(last.entropy),
        confidence=_mean(answers.confidence),
        steady=float(same[within].mean()) if within.any() else 1.0,
        novel=float(answers.novel.mean()) if scored else None,
        similarity_first=number(_mean(first.similarity)) if scored else None,
        similarity_last=number(_mean(last.similarity)) if scored else None,
        drift=metrics.jensen_shannon(counts[0], counts[1]),
        classes={
            names.get(index, str(index)): share
            for index, share in zip(classes.tolist(), (found / len(answers)).tolist(), strict=True)
        },
        shifts=shifts,
        domains=domains,
    )


def skewed(answers: Answers) -> str:
    """What to say where the answers with labels are surer, or less sure, than the others; empty where they are not."""
    known, entropy = answers.known, np.nan_to_num(answers.entropy)
    labelled, rest = entropy[known], entropy[~known]
    if min(len(labelled), len(rest)) < LEAST:
        return ""
    away = metrics.auroc(labelled, rest) - 0.5
    if abs(away) < SKEWED:
        return ""
    told = "less sure" if away > 0 else "surer"
    return (
        f"the answers with labels are {told} than the others (entropy {labelled.mean():.3f}, the others "
        f"{rest.mean():.3f}): figures that need labels are of those, and not of the stream; label some at random"
    )


def percentiles(durations_ms: npt.NDArray[Any]) -> Percentiles:
    """Of durations in milliseconds."""
    if not len(durations_ms):
        return Percentiles()
    p50, p95, p99 = np.percentile(durations_ms, (50, 95, 99)).tolist()
    return Percentiles(len(durations_ms), p50, p95, p99, float(durations_ms.max()))


def _mean(values: npt.NDArray[Any]) -> float:
    """Of what are numbers; nan where there are none."""
    there = values[np.isfinite(values)]
    return float(there.mean(dtype=np.float64)) if len(there) else float("nan")
