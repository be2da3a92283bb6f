"""The part of a device that says what learning was worth: phases, recovery, what-ifs, guard, calibration."""

from collections.abc import Sequence
from typing import Final

from firmware_host.evaluate.evaluation import Evaluation, Percentiles, Recovery
from firmware_host.replay.what_if import UNCHANGED
from firmware_host.report import figures
from firmware_host.report.markup import Html, count, milliseconds, moment, number, percent, readable, tag
from firmware_host.report.parts import Column, Key, Plots, cards, matrix, section, table
from firmware_host.report.tried import Tried
from firmware_host.report.written import duration, interval, points_of

ROWS: Final = 60
"""Of a table."""
MOST_PHASES: Final = 40


def phases(found: Evaluation) -> Html | None:
    """Accuracy on each domain in each phase, and what continual learning measures by it."""
    told = found.matrix
    if not told:
        return None
    rows: list[tuple[str, Sequence[float | None]]] = []
    if any(value is not None for value in told.source):
        rows.append(("source model", told.source))
    rows += [
        (f"{place}. {readable(phase.domain, most=24)}", values)
        for place, (phase, values) in enumerate(zip(told.phases, told.accuracy, strict=True), 1)
    ][-MOST_PHASES:]
    figures_of = [
        Key("average accuracy", percent(told.average.value), interval(told.average)) if told.average else None,
        Key("forgetting", points_of(told.forgetting)) if told.forgetting is not None else None,
        Key("backward transfer", points_of(told.backward)) if told.backward is not None else None,
        Key("forward transfer", points_of(told.forward)) if told.forward is not None else None,
    ]
    where = {"phases": "a file", "domains": "the board's routing", "shifts": "the board's detector"}[told.by]
    return section(
        "Accuracy by domain and phase",
        cards([key for key in figures_of if key]),
        matrix(
            told.domains,
            rows,
            caption="Accuracy on each domain in each phase",
            corner="phase",
            texts=lambda value: "" if value is None else percent(value),
        ),
        about=f"A row is a stay of the stream, from the first to the last; domains are told by {where}.",
    )


def recoveries(found: Sequence[Recovery]) -> Html | None:
    """How long it took after each change of the stream."""
    if not found:
        return None
    rows = [
        (
            moment(one.time),
            one.what,
            count(one.seq),
            one.by,
            percent(one.before) if one.by == "accuracy" else number(one.before),
            percent(one.worst) if one.by == "accuracy" else number(one.worst),
            "not yet" if one.answers is None else count(one.answers),
            duration(one.seconds),
        )
        for one in found[:ROWS]
    ]
    told = table(
        [
            "time, UTC",
            "change",
            Column("answer"),
            "told by",
            Column("before"),
            Column("worst"),
            Column("answers to recover"),
            Column("time"),
        ],
        rows,
        caption="Recovery after changes of the stream",
    )
    return section("Recovery after changes", told)


def what_ifs(tried: Sequence[Tried], plots: Plots) -> Html | None:
    """Other settings on the same stream."""
    if not tried:
        return None
    plain = next((one.accuracy for one in tried if one.name == UNCHANGED), None)
    rows = []
    for place, one in enumerate(tried):
        other = ""
        if place and one.name != UNCHANGED and plain is not None and one.accuracy is not None:
            other = points_of(one.accuracy - plain)
        rows.append(
            (
                one.name,
                percent(one.accuracy),
                other,
                percent(one.agreeing / one.answers if one.answers else None),
                number(one.entropy),
                count(one.updates),
                count(one.refused),
                str(one.domains),
            )
        )
    told = table(
        [
            "settings",
            Column("right"),
            Column("against unchanged"),
            Column("agrees with the board"),
            Column("entropy"),
            Column("updates"),
            Column("refused"),
            Column("domains"),
        ],
        rows,
        caption="What other settings had done",
    )
    return section(
        "What if",
        plots.place(figures.what_ifs(tried), "Error of other settings in ten equal parts of the same stream"),
        told,
        about="Other settings on the same recorded stream. Compare them with unchanged: the board's own settings, "
        "replayed in the same way.",
    )


def guard(found: Evaluation) -> Html | None:
    """What the guard did, and why."""
    if not found.guard:
        return None
    rows = [
        (one.action.replace("_", " "), one.reason, count(one.times), moment(one.first), moment(one.last))
        for one in found.guard
    ]
    return section(
        "Guard",
        table(
            ["did", "reason", Column("times"), "first, UTC", "last, UTC"],
            rows,
            caption="What the guard did",
        ),
    )


def calibration(found: Evaluation, plots: Plots) -> Html | None:
    """Whether answers are right as often as they say."""
    told = found.calibration
    drawn = plots.place(
        figures.reliability(told.bins, told.bins_before),
        "How often answers of some confidence were right",
        caption="On the dotted line, answers are right as often as they say. Larger marks have more answers.",
        wide=False,
    )
    if drawn is None:
        return None
    rows = [
        (
            f"{100 * one.low:.0f} to {100 * one.high:.0f} %",
            count(one.answers),
            percent(one.confidence),
            percent(one.accuracy),
        )
        for one in told.bins
        if one.answers
    ]
    figures_of = [
        ("of all answers with labels", told.ece.value if told.ece else None),
        ("source model", told.before),
        ("the board, on the same samples", told.after),
    ]
    said = ", ".join(f"{percent(value)} {name}" for name, value in figures_of if value is not None)
    return section(
        "Calibration",
        tag(
            "div",
            drawn,
            table(
                ["confidence", Column("answers"), Column("mean"), Column("right")],
                rows,
                caption="Calibration",
            ),
            class_="pair",
        ),
        about=f"Expected calibration error: {said}." if said else None,
    )


def times(found: Evaluation) -> Html | None:
    """How long answers and updates took."""
    rows = [
        (name, *_percentiles(told), duration(seconds))
        for name, told, seconds in (
            ("answers", found.latency, found.answering_seconds),
            ("updates", found.update, found.learning_seconds),
        )
        if told.count
    ]
    if not rows:
        return None
    return section(
        "Time",
        table(
            [
                "",
                Column("count"),
                Column("median"),
                Column("95 %"),
                Column("99 %"),
                Column("most"),
                Column("in all", about="proxy for energy: the time that they took together"),
            ],
            rows,
            caption="Times of answers and updates",
        ),
    )


def _percentiles(told: Percentiles) -> tuple[str, ...]:
    values = (told.p50_ms, told.p95_ms, told.p99_ms, told.max_ms)
    return (count(told.count), *(milliseconds(value) for value in values))
