"""An evaluation for people: a sheet for one device, a line each for several."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np

from edgecl.commands.table import aligned
from firmware_host.evaluate.evaluation import (
    AccuracyMatrix,
    Against,
    Evaluation,
    Fleet,
    Interval,
    Percentiles,
    Recovery,
)

BARS: Final = "▁▂▃▄▅▆▇█"
WIDE: Final = 60
"""Bars in a line."""
FEW: Final = 12
"""Rows of a table, and columns of the matrix."""


def sheet(found: Evaluation) -> str:
    """All that people are shown of one device."""
    runs = f"{found.runs} run{'s' * (found.runs != 1)}, {len(found.bundles)} bundle{'s' * (len(found.bundles) != 1)}"
    parts = [
        f"{found.device}: {found.lineage}, learner {found.learner}, {runs}",
        aligned(_facts(found)),
        _over_time(found),
        _domains(found),
        _matrix(found.matrix) if found.matrix else "",
        _recoveries(found.recoveries),
        _guard(found),
        "\n".join(f"note: {note}" for note in found.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def fleet(found: Fleet, shown: int) -> str:
    """A line a device and lineage."""
    rows = [("device", "lineage", "answers", "accuracy", "entropy", "novel", "updates", "refused", "p95 ms", "odd")]
    for one in found.devices[:shown]:
        odd = f"{one.odd}, {one.distance:.1f} deviations" if one.distance >= 3 else ""
        numbers = (_share(one.accuracy), f"{one.entropy:.3f}", _share(one.novel), str(one.updates), str(one.refused))
        rows.append((one.device, one.lineage, str(one.answers), *numbers, f"{one.latency_p95_ms:.2f}", odd))
    lines = [aligned(rows)]
    if len(found.devices) > shown:
        lines.append(f"{len(found.devices) - shown} more; --json has them all")
    return "\n".join((*lines, *(f"note: {note}" for note in found.notes)))


def _facts(found: Evaluation) -> list[tuple[str, str]]:
    behaviour, rows = found.behaviour, list[tuple[str, str]]()
    damaged = f", {found.damaged} samples damaged" if found.damaged else ""
    rows.append(
        ("answers", f"{found.answers}, {found.labelled} with labels{damaged}; {_span(found.first, found.last)}")
    )
    if found.accuracy:
        rows.append(("accuracy", _interval(found.accuracy)))
    if found.against:
        rows += _against(found.against)
    if found.calibration.ece:
        rows.append(("calibration", _calibration(found)))
    if found.novelty:
        kinds = {"phases": "domains of the file", "domains": "other domains", "errors": "wrong answers"}
        novelty = found.novelty
        rows.append(
            (
                "novelty",
                f"AUROC {_interval(novelty.auroc)}, FPR95 {novelty.fpr95:.3f}, for {kinds[novelty.by]}; "
                f"{_percent(novelty.told)} told, {_percent(novelty.false_alarms)} false alarms",
            )
        )
    ends = f"{behaviour.entropy_first:.3f} in the first tenth, {behaviour.entropy_last:.3f} in the last"
    rows.append(("entropy", f"{_interval(behaviour.entropy)}; {ends}"))
    steady = f"{_percent(behaviour.steady)} are as the answer before; their classes moved by {behaviour.drift:.3f}"
    rows.append(("stream", steady))
    if behaviour.novel is not None:
        similar = f"; similarity {behaviour.similarity_first:.3f}, then {behaviour.similarity_last:.3f}"
        shifts = f"; {behaviour.shifts} shift{'s' * (behaviour.shifts != 1)}"
        rows.append(("novel", f"{_percent(behaviour.novel)}{similar}{shifts}"))
    refused = f", {found.refused} refused" if found.refused else ""
    rows.append(("updates", f"{found.updates}{refused}; {_durations(found.update)} an update"))
    rows.append(("latency", f"{_durations(found.latency)} an answer"))
    each = 1e3 * found.cpu_seconds / max(1, found.answers)
    split = f"{found.answering_seconds:.1f} s answering, {found.learning_seconds:.1f} s learning"
    rows.append(("cpu", f"{split}; {each:.2f} ms an answer"))
    return rows


def _against(against: Against) -> list[tuple[str, str]]:
    alike = f"{_percent(against.agreement)} of its answers are the board's"
    entropy = f"entropy {against.entropy_before:.3f}, on the board {against.entropy_after:.3f}"
    source = f"{alike}, {entropy}, on {against.answers} samples"
    if not against.before or not against.gain:
        return [("source model", source)]
    gain = against.gain
    low_high = "" if gain.low is None or gain.high is None else f" ({gain.low:+.3f} to {gain.high:+.3f})"
    worth = f"{gain.value:+.3f}{low_high}, where the source model has {_interval(against.before)}"
    return [("learning was", f"worth {worth}"), ("source model", source)]


def _calibration(found: Evaluation) -> str:
    calibration = found.calibration
    text = f"ECE {_interval(calibration.ece)}" if calibration.ece else ""
    if calibration.before is not None and calibration.after is not None:
        text += f"; before learning {calibration.before:.3f}, with it {calibration.after:.3f} on the same samples"
    return text


def _over_time(found: Evaluation) -> str:
    windows = found.over_time
    if len(windows) < 3:
        return ""
    lines = []
    figures: dict[str, list[float | None]] = {
        "accuracy": [window.accuracy for window in windows],
        "entropy": [window.entropy for window in windows],
        "novel": [window.novel for window in windows],
    }
    for name, values in figures.items():
        known = [value for value in values if value is not None and np.isfinite(value)]
        if known and (name != "novel" or max(known)):
            lines.append((name, bars(values), f"{min(known):.3f} to {max(known):.3f}"))
    return aligned(lines)


def bars(values: Sequence[float | None]) -> str:
    """A figure over time in one line, from its least to its largest value; a space where it is not known."""
    given = np.array([np.nan if value is None else value for value in values], np.float64)
    parts = [part[np.isfinite(part)] for part in np.array_split(given, min(WIDE, len(given)))]
    means = [float(part.mean()) if len(part) else None for part in parts]
    known = [mean for mean in means if mean is not None]
    low, span = min(known), max(known) - min(known)
    return "".join(
        " " if mean is None else BARS[round((mean - low) / span * (len(BARS) - 1)) if span else 0] for mean in means
    )


def _domains(found: Evaluation) -> str:
    if len(found.domains) < 2:
        return ""
    rows = [("domain", "answers", "labels", "accuracy", "as built", "learned", "entropy", "novel", "visits", "updates")]
    for one in found.domains[:FEW]:
        accuracy = _interval(one.accuracy) if one.accuracy else "-"
        of = (_share(one.before), _share(one.after), f"{one.entropy:.3f}", _share(one.novel))
        rows.append(
            (one.name, str(one.answers), str(one.labelled), accuracy, *of, str(one.visits), str(one.updates or "-"))
        )
    return aligned(rows) + _more(len(found.domains))


def _matrix(matrix: AccuracyMatrix) -> str:
    told = {"phases": "the file", "domains": "the routing", "shifts": "the detector"}[matrix.by]
    figures = [
        ("average accuracy", _interval(matrix.average) if matrix.average else "-"),
        ("forgetting", _share(matrix.forgetting)),
        ("backward transfer", _signed(matrix.backward)),
        ("forward transfer", _signed(matrix.forward)),
    ]
    lines = [f"over domains, as {told} has them", *(f"  {line}" for line in aligned(figures).splitlines())]
    if len(matrix.domains) <= FEW and len(matrix.phases) > len(matrix.domains):
        rows = [("samples", *matrix.domains)]
        rows += [
            (f"{phase.first_seq} to {phase.last_seq}", *("" if value is None else f"{value:.3f}" for value in row))
            for phase, row in list(zip(matrix.phases, matrix.accuracy, strict=True))[-FEW:]
        ]
        lines += ["", aligned(rows) + _last(len(matrix.phases))]
    return "\n".join(lines)


def _recoveries(found: Sequence[Recovery]) -> str:
    if not found:
        return ""
    rows = [("change", "at sample", "by", "before", "worst", "back after")]
    for one in found[-FEW:]:
        if one.answers is None or one.seconds is None:
            back = "not before the next"
        else:
            count = f"{one.answers} answer{'s' * (one.answers != 1)}, {_seconds(one.seconds)}"
            back = count if one.answers else "never worse"
        rows.append((one.what, str(one.seq), one.by, f"{one.before:.3f}", f"{one.worst:.3f}", back))
    return aligned(rows) + _last(len(found))


def _guard(found: Evaluation) -> str:
    if not found.guard:
        return ""
    rows = [("guard", "reason", "times", "last")]
    rows += [(one.action, one.reason, str(one.times), f"{one.last:%Y-%m-%d %H:%M}") for one in found.guard[:FEW]]
    return aligned(rows) + _more(len(found.guard))


def _more(count: int) -> str:
    return f"\n({count} in all)" if count > FEW else ""


def _last(count: int) -> str:
    return f"\n(the last {FEW}; --json has more)" if count > FEW else ""


def _span(first: datetime, last: datetime) -> str:
    end = f"{last:%H:%M}" if last.date() == first.date() else f"{last:%Y-%m-%d %H:%M}"
    return f"{first:%Y-%m-%d %H:%M} to {end}"


def _interval(given: Interval) -> str:
    return f"{given.value:.3f}" + ("" if given.low is None else f" ({given.low:.3f} to {given.high:.3f})")


def _durations(given: Percentiles) -> str:
    if given.p50_ms is None:
        return "no time"
    return f"{given.p50_ms:.2f} ms, p95 {given.p95_ms:.2f}, p99 {given.p99_ms:.2f}, most {given.max_ms:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _share(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
