"""The part of a report that is about one device: what it met, what it learned, and whether that helped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from firmware_host.evaluate.evaluation import Evaluation
from firmware_host.report import figures, learned
from firmware_host.report.domain_map import DomainMap
from firmware_host.report.markup import (
    Html,
    count,
    join,
    milliseconds,
    moment,
    number,
    percent,
    readable,
    tag,
    when,
)
from firmware_host.report.parts import Column, Key, Plots, cards, folded, heading, matrix, notes, section, table
from firmware_host.report.pictures import Picture, Scene
from firmware_host.report.story import Story
from firmware_host.report.timeline import thinned, timeline, upper
from firmware_host.report.tried import Tried
from firmware_host.report.written import interval, points_of, with_range, wrong

EVENTS: Final = 60
"""Rows of the table of what happened."""
SAID: Final = ("deployment", "shift", "domain", "guard", "gap", "label")


@dataclass(frozen=True)
class Device:
    """All that is told of one lineage on one device."""

    found: Evaluation
    told: Story
    map: DomainMap | str
    """Or why there is none."""
    scenes: tuple[Scene, ...]
    tried: tuple[Tried, ...]
    classes: Mapping[int, str]
    """Names, where the bundle is at hand."""
    notes: tuple[str, ...]


def rendered(one: Device, name: str, plots: Plots, *, heading_of: str) -> Html:
    """The section; `name` is its anchor."""
    found = one.found
    about = [
        found.lineage and f"lineage {readable(found.lineage)}",
        f"learner {readable(found.learner)}",
        f"{when(found.first)} to {when(found.last)} UTC",
    ]
    return tag(
        "section",
        heading(2, heading_of, id_=f"{name}-title"),
        tag("p", " · ".join(part for part in about if part), class_="meta"),
        tag("p", summary(found), class_="lead"),
        cards(keys(found)),
        _timeline(one, plots),
        _domains(one, plots),
        _scenes(one),
        learned.phases(found),
        learned.recoveries(found.recoveries),
        learned.what_ifs(one.tried, plots),
        learned.guard(found),
        learned.calibration(found, plots),
        learned.times(found),
        section("What could not be told", notes([*found.notes, *one.notes, *one.told.notes])),
        id=name,
        class_="device",
        aria_labelledby=f"{name}-title",
    )


def summary(found: Evaluation) -> str:
    """What a colleague would say first."""
    said = [f"{count(found.answers)} answers"]
    if found.accuracy:
        said[0] += f", {percent(found.accuracy.value)} of the {count(found.labelled)} with labels right"
    else:
        said[0] += ", none of them with a label"
    if found.against and found.against.gain:
        gain = found.against.gain
        word = "better" if gain.value >= 0 else "worse"
        said.append(f"Learning made it {abs(100 * gain.value):.1f} points {word} than the source model")
    elif found.against:
        said.append(f"{percent(found.against.agreement)} of the answers are those of the source model")
    visited = len([one for one in found.domains if one.answers])
    met = [f"{count(found.behaviour.shifts)} {'shift' if found.behaviour.shifts == 1 else 'shifts'}"]
    if visited > 1:
        met.append(f"answered in {visited} domains")
    said.append(f"It met {' and '.join(met)}")
    taken = sum(one.times for one in found.guard if one.action != "skipped")
    learned = f"It learned in {count(found.updates)} updates"
    said.append(f"{learned}; the guard took back {count(taken)}" if taken else learned)
    return ". ".join(said) + "."


def keys(found: Evaluation) -> list[Key]:
    """The figures that matter most, of those that are known."""
    out = []
    if found.accuracy:
        out.append(
            Key(
                "accuracy",
                percent(found.accuracy.value),
                interval(found.accuracy),
                "prequential: each answer was given before its label was known",
            )
        )
    if found.against and found.against.gain:
        gain = found.against.gain
        out.append(
            Key(
                "gain over source model",
                points_of(gain.value),
                f"points, {interval(gain, points=True)}",
                "on the same samples",
            )
        )
    if found.matrix and found.matrix.forgetting is not None:
        out.append(Key("forgetting", points_of(found.matrix.forgetting), "points, of domains that came back"))
    behind = [one.answers for one in found.recoveries if one.answers is not None]
    if found.recoveries:
        middle = sorted(behind)[len(behind) // 2] if behind else None
        out.append(
            Key(
                "recovered from changes",
                f"{len(behind)} of {len(found.recoveries)}",
                "" if middle is None else f"within {count(middle)} answers, median",
            )
        )
    if found.novelty:
        out.append(Key("novelty AUROC", number(found.novelty.auroc.value), f"FPR95 {percent(found.novelty.fpr95)}"))
    if found.calibration.ece:
        before = found.calibration.before
        out.append(
            Key(
                "calibration error",
                percent(found.calibration.ece.value),
                "" if before is None else f"source model {percent(before)}",
            )
        )
    if not found.accuracy:
        behaviour = found.behaviour
        out.append(
            Key(
                "entropy",
                number(behaviour.entropy.value),
                f"first tenth {number(behaviour.entropy_first)}, last {number(behaviour.entropy_last)}",
            )
        )
        out.append(Key("drift of answers", number(behaviour.drift), "first tenth to last, 0 to 1"))
        if behaviour.novel is not None:
            out.append(Key("novel samples", percent(behaviour.novel)))
    out.append(Key("updates", count(found.updates), f"{count(found.refused)} refused" if found.refused else ""))
    if found.latency.p95_ms is not None:
        out.append(Key("latency", milliseconds(found.latency.p95_ms), "95 of 100 answers within"))
    return out


def _timeline(one: Device, plots: Plots) -> Html | None:
    found, told = one.found, one.told
    rows = []
    for time, lane, text, seq in _rows(told):
        rows.append((moment(time), lane, text, "" if seq is None else count(seq)))
    left = len(rows) - EVENTS
    shown = rows[: EVENTS // 2] + rows[-EVENTS // 2 :] if left > 0 else rows
    events = table(
        [
            "time, UTC",
            "of",
            "what",
            Column("answer"),
        ],
        shown,
        caption=f"What happened on {readable(found.device)}",
    )
    windows = thinned(found.over_time)
    series = table(
        [
            "answers",
            "until",
            Column("error"),
            Column("fading mean"),
            Column("entropy"),
            Column("confidence"),
            Column("novel"),
            "domain",
            Column("latency, 95 %"),
        ],
        [
            (
                f"{count(w.first_seq)} to {count(w.last_seq)}",
                moment(w.end),
                wrong(w.accuracy),
                wrong(w.faded),
                number(w.entropy),
                number(w.confidence),
                percent(w.novel),
                told.names.get(w.domain, str(w.domain)),
                milliseconds(w.latency_p95_ms),
            )
            for w in windows
        ],
        caption=f"Windows of answers of {readable(found.device)}",
    )
    said = f"{upper(found).title} and entropy of {readable(found.device)} over time. {summary(found)}"
    return section(
        "Over time",
        plots.place(timeline(found, told), said),
        folded(
            f"What happened ({len(rows)})",
            tag("p", f"{left} in the middle are left out.") if left > 0 else None,
            events,
        )
        if rows
        else None,
        folded("The figures of the plot", series) if windows else None,
        about="Shaded where a domain other than the source answered; dotted lines are deployments. Drag to look "
        "closer, double click to go back.",
    )


def _rows(told: Story) -> list[tuple[datetime, str, str, int | None]]:
    rows = [
        (one.time, one.lane, one.text if one.times == 1 else f"{one.times} × {one.text}", one.seq)
        for one in told.events
    ]
    rows += [
        (
            one.time,
            "deployment",
            f"{one.name} version {one.version}, {one.learner}, bundle {one.bundle[:12]}"
            + (f", by {one.by}" if one.by else ""),
            one.seq,
        )
        for one in told.deployments
    ]
    return sorted(rows, key=lambda row: (row[0], SAID.index(row[1])))


def _domains(one: Device, plots: Plots) -> Html | None:
    found = one.found
    if len(found.domains) < 2 and isinstance(one.map, str):
        return None
    rows = [
        (
            join(_dot(d.number), d.name),
            count(d.answers),
            str(d.visits),
            count(d.updates),
            with_range(d.accuracy),
            percent(d.before),
            percent(d.after),
            number(d.entropy),
            percent(d.novel),
            number(d.similarity, 2),
        )
        for d in found.domains
    ]
    told = table(
        [
            "domain",
            Column("answers"),
            Column("visits"),
            Column("updates"),
            Column("right"),
            Column("source model", about="accuracy of the source model, on the samples that it answered"),
            Column("the board", about="on the same samples"),
            Column("entropy"),
            Column("novel"),
            Column("similarity"),
        ],
        rows,
        caption=f"Domains of {readable(found.device)}",
    )
    if isinstance(one.map, str):
        drawn: Html | None = tag("p", f"No map: {one.map}.", class_="about")
    elif len(one.map.domains) < 2:
        drawn = None
    else:
        names = [d.name for d in one.map.domains]
        drawn = tag(
            "div",
            plots.place(
                figures.map_of_domains(one.map, {d.number: d.answers for d in found.domains}),
                f"Map of {len(names)} domains; those that are alike lie near to each other.",
                caption="What is alike lies near; larger marks have more answers. The plane keeps "
                f"{percent(one.map.kept, 0)} of the squared distances.",
                wide=False,
            ),
            tag(
                "figure",
                matrix(
                    names,
                    list(zip(names, one.map.likeness, strict=True)),
                    caption="Likeness of domains",
                    corner="likeness",
                    texts=lambda value: number(value, 2),
                    low=-0.1,
                ),
                tag("figcaption", "Likeness of signatures: 1 is the same, 0 has nothing in common."),
                class_="narrow",
            ),
            class_="pair",
        )
    return section("Domains", told, drawn)


def _scenes(one: Device) -> Html | None:
    shown = []
    for scene in one.scenes:
        event = scene.event
        title, _, rest = event.text.partition(": ")
        shown.append(
            tag(
                "article",
                heading(
                    4,
                    join(
                        title,
                        tag(
                            "small", f" {rest + ', ' if rest else ''}answer {count(event.seq or 0)}, {when(event.time)}"
                        ),
                    ),
                ),
                tag(
                    "div",
                    _strip("before", scene.front, one),
                    _strip("from then on", scene.behind, one),
                    class_="strips",
                ),
                class_="scene",
            )
        )
    return section(
        "Samples behind what was new",
        *shown,
        about="As they were kept, with the class that was answered and its confidence. ◆ was told to be novel; "
        "✗ is known to be wrong.",
    )


def _strip(title: str, pictures: Sequence[Picture], one: Device) -> Html | None:
    if not pictures:
        return None
    return tag("div", tag("h5", title), tag("ol", *[tag("li", _shown(each, one)) for each in pictures]), class_="strip")


def _shown(each: Picture, one: Device) -> Html:
    answered = _class(each.label, one)
    wrong = each.truth is not None and each.truth != each.label
    said = f"sample {each.seq}: {answered}, {percent(each.confidence, 0)}"
    if each.truth is not None:
        said += f", is {_class(each.truth, one)}"
    if each.novel:
        said += ", novel"
    if each.image:
        crisp = "crisp" if each.side <= 48 else None
        picture = tag("img", src=Html(each.image), alt=said, title=said, class_=crisp)
    elif each.line:
        points = " ".join(
            f"{48 * at / max(1, len(each.line) - 1):.1f},{30 - 28 * y:.1f}" for at, y in enumerate(each.line)
        )
        line = tag("polyline", points=points)
        picture = tag("svg", tag("title", said), line, viewBox="0 0 48 32", role="img", aria_label=said)
    else:
        picture = tag("span", "?", title="it cannot be shown", class_="missing")
    marks = f"{'◆' if each.novel else ''}{'✗' if wrong else ''}"
    return join(
        picture,
        tag("span", readable(answered, most=14), class_="class"),
        tag("span", percent(each.confidence, 0), tag("b", marks) if marks else None, class_="sure"),
    )


def _class(index: int, one: Device) -> str:
    return one.classes.get(index, f"class {index}")


def _dot(domain: int) -> Html:
    place = 0 if domain == 0 else (domain - 1) % figures.TINTS + 1
    return tag("span", class_=f"dot d{place}", aria_hidden="true")
