"""The part of a report that is about one device: what it met, what it learned, and whether that helped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from firmware_host.evaluate.evaluation import Evaluation, Interval, Percentiles, Recovery
from firmware_host.report import figures
from firmware_host.report.domain_map import DomainMap
from firmware_host.report.markup import Html, count, join, milliseconds, number, percent, readable, signed, tag, when
from firmware_host.report.parts import Column, Key, Plots, cards, folded, heading, matrix, notes, section, table
from firmware_host.report.pictures import Picture, Scene
from firmware_host.report.story import Story
from firmware_host.report.tried import Tried

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
    about = [found.lineage and f"lineage {readable(found.lineage)}", f"learner {readable(found.learner)}",
             f"{when(found.first)} to {when(found.last)} UTC"]  # fmt: skip
    return tag(
        "section",
        heading(2, heading_of, id_=f"{name}-title"),
        tag("p", " · ".join(part for part in about if part), class_="meta"),
        tag("p", summary(found), class_="lead"),
        cards(keys(found)),
        _timeline(one, plots),
        _domains(one, plots),
        _scenes(one),
        _matrix(found),
        _recoveries(found.recoveries),
        _tried(one.tried, plots),
        _guard(found),
        _calibration(found, plots),
        _times(found),
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
        out.append(Key("accuracy", percent(found.accuracy.value), _range(found.accuracy),
                       "prequential: each answer was given before its label was known"))  # fmt: skip
    if found.against and found.against.gain:
        gain = found.against.gain
        out.append(Key("gain over source model", _points(gain.value), f"points, {_range(gain, points=True)}".rstrip(", "),
                       "on the same samples"))  # fmt: skip
    if found.matrix and found.matrix.forgetting is not None:
        out.append(Key("forgetting", _points(found.matrix.forgetting), "points, of domains that came back"))
    behind = [one.answers for one in found.recoveries if one.answers is not None]
    if found.recoveries:
        middle = sorted(behind)[len(behind) // 2] if behind else None
        out.append(Key("recovered from changes", f"{len(behind)} of {len(found.recoveries)}",
                       "" if middle is None else f"within {count(middle)} answers, median"))  # fmt: skip
    if found.novelty:
        out.append(Key("novelty AUROC", number(found.novelty.auroc.value), f"FPR95 {percent(found.novelty.fpr95)}"))
    if found.calibration.ece:
        before = found.calibration.before
        out.append(Key("calibration error", percent(found.calibration.ece.value),
                       "" if before is None else f"source model {percent(before)}"))  # fmt: skip
    if not found.accuracy:
        behaviour = found.behaviour
        out.append(Key("entropy", number(behaviour.entropy.value), f"first tenth {number(behaviour.entropy_first)}, "
                       f"last {number(behaviour.entropy_last)}"))  # fmt: skip
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
        rows.append((tag("time", when(time), datetime=f"{when(time).replace(' ', 'T')}Z"), lane, text,
                     "" if seq is None else count(seq)))  # fmt: skip
    left = len(rows) - EVENTS
    shown = rows[: EVENTS // 2] + rows[-EVENTS // 2 :] if left > 0 else rows
    events = table(
        [Column("time, UTC", numeric=False), Column("of", numeric=False), Column("what", numeric=False), Column("answer")],
        shown,
        caption=f"What happened on {readable(found.device)}",
    )
    windows = figures.thinned(found.over_time)
    series = table(
        [Column("answers", numeric=False), Column("until", numeric=False), Column("error"), Column("fading mean"),
         Column("entropy"), Column("confidence"), Column("novel"), Column("domain", numeric=False), Column("latency, 95 %")],
        [
            (f"{count(w.first_seq)} to {count(w.last_seq)}", when(w.end), _wrong(w.accuracy), _wrong(w.faded),
             number(w.entropy), number(w.confidence), percent(w.novel), told.names.get(w.domain, str(w.domain)),
             milliseconds(w.latency_p95_ms))
            for w in windows
        ],
        caption=f"Windows of answers of {readable(found.device)}",
    )  # fmt: skip
    said = f"{figures.upper(found).title} and entropy of {readable(found.device)} over time. {summary(found)}"
    return section(
        "Over time",
        plots.place(figures.timeline(found, told), said),
        folded(f"What happened ({len(rows)})", tag("p", f"{left} in the middle are left out.") if left > 0 else None,
               events) if rows else None,
        folded("The figures of the plot", series) if windows else None,
        about="Shaded where a domain other than the source answered. Dotted lines are deployments. Drag to look closer, "
        "double click to go back.",
    )  # fmt: skip


def _rows(told: Story) -> list[tuple]:
    rows = [(one.time, one.lane, one.text if one.times == 1 else f"{one.times} × {one.text}", one.seq) for one in told.events]
    rows += [(one.time, "deployment", f"{one.name} version {one.version}, {one.learner}, bundle {one.bundle[:12]}"
              + (f", by {one.by}" if one.by else ""), one.seq) for one in told.deployments]  # fmt: skip
    return sorted(rows, key=lambda row: (row[0], SAID.index(row[1])))


def _domains(one: Device, plots: Plots) -> Html | None:
    found = one.found
    if len(found.domains) < 2 and isinstance(one.map, str):
        return None
    rows = [
        (join(_dot(d.number), d.name), count(d.answers), str(d.visits), count(d.updates), _with_range(d.accuracy),
         percent(d.before), percent(d.after), number(d.entropy), percent(d.novel), number(d.similarity, 2))
        for d in found.domains
    ]  # fmt: skip
    told = table(
        [Column("domain", numeric=False), Column("answers"), Column("visits"), Column("updates"), Column("right"),
         Column("source model", about="accuracy of the source model, on the samples that it answered"),
         Column("the board", about="on the same samples"), Column("entropy"), Column("novel"), Column("similarity")],
        rows,
        caption=f"Domains of {readable(found.device)}",
    )  # fmt: skip
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
                matrix(names, list(zip(names, one.map.likeness, strict=True)), caption="Likeness of domains",
                       corner="likeness", texts=lambda value: number(value, 2), low=-0.1),
                tag("figcaption", "Likeness of signatures: 1 is the same, 0 has nothing in common."),
                class_="narrow",
            ),
            class_="pair",
        )  # fmt: skip
    return section("Domains", told, drawn)


def _scenes(one: Device) -> Html | None:
    shown = []
    for scene in one.scenes:
        event = scene.event
        title, _, rest = event.text.partition(": ")
        shown.append(
            tag(
                "article",
                heading(4, join(title, tag("small", f" {rest + ', ' if rest else ''}answer {count(event.seq or 0)}, {when(event.time)}"))),
                tag("div", _strip("before", scene.front, one), _strip("from then on", scene.behind, one), class_="strips"),
                class_="scene",
            )
        )
    return section(
        "Samples behind what was new", *shown,
        about="As they were kept, with the class that was answered and its confidence. ◆ was told to be novel; "
        "✗ is known to be wrong.",
    )  # fmt: skip


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
        points = " ".join(f"{48 * at / max(1, len(each.line) - 1):.1f},{30 - 28 * y:.1f}" for at, y in enumerate(each.line))
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


def _matrix(found: Evaluation) -> Html | None:
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
        Key("average accuracy", percent(told.average.value), _range(told.average)) if told.average else None,
        Key("forgetting", _points(told.forgetting)) if told.forgetting is not None else None,
        Key("backward transfer", _points(told.backward)) if told.backward is not None else None,
        Key("forward transfer", _points(told.forward)) if told.forward is not None else None,
    ]
    where = {"phases": "a file", "domains": "the board's routing", "shifts": "the board's detector"}[told.by]
    return section(
        "Accuracy by domain and phase",
        cards([key for key in figures_of if key]),
        matrix(told.domains, rows, caption="Accuracy on each domain in each phase", corner="phase",
               texts=lambda value: "" if value is None else percent(value)),
        about=f"A row is a stay of the stream, from the first to the last; domains are told by {where}.",
    )  # fmt: skip


MOST_PHASES: Final = 40


def _recoveries(found: Sequence[Recovery]) -> Html | None:
    if not found:
        return None
    rows = [
        (when(one.time), one.what, count(one.seq), one.by,
         percent(one.before) if one.by == "accuracy" else number(one.before),
         percent(one.worst) if one.by == "accuracy" else number(one.worst),
         "not yet" if one.answers is None else count(one.answers), _duration(one.seconds))
        for one in found[:EVENTS]
    ]  # fmt: skip
    told = table(
        [Column("time, UTC", numeric=False), Column("change", numeric=False), Column("answer"),
         Column("told by", numeric=False), Column("before"), Column("worst"), Column("answers to recover"), Column("time")],
        rows,
        caption="Recovery after changes of the stream",
    )  # fmt: skip
    return section("Recovery after changes", told)


def _tried(tried: Sequence[Tried], plots: Plots) -> Html | None:
    if not tried:
        return None
    plain = next((one for one in tried if one.name == "unchanged"), None)
    rows = []
    for one in tried:
        same = plain is None or one.accuracy is None or plain.accuracy is None or one in (plain, tried[0])
        rows.append((one.name, percent(one.accuracy), "" if same else _points(one.accuracy - plain.accuracy),
                     percent(one.agreeing / one.answers if one.answers else None), number(one.entropy),
                     count(one.updates), count(one.refused), str(one.domains)))  # fmt: skip
    told = table(
        [Column("settings", numeric=False), Column("right"), Column("against unchanged"), Column("agrees with the board"),
         Column("entropy"), Column("updates"), Column("refused"), Column("domains")],
        rows,
        caption="What other settings had done",
    )  # fmt: skip
    return section(
        "What if",
        plots.place(figures.what_ifs(tried), "Error of other settings in ten equal parts of the same stream"),
        told,
        about="Other settings on the same recorded stream. Compare them with unchanged: the board's own settings, "
        "replayed in the same way.",
    )


def _guard(found: Evaluation) -> Html | None:
    if not found.guard:
        return None
    rows = [(one.action.replace("_", " "), one.reason, count(one.times), when(one.first), when(one.last))
            for one in found.guard]  # fmt: skip
    return section("Guard", table(
        [Column("did", numeric=False), Column("reason", numeric=False), Column("times"),
         Column("first, UTC", numeric=False), Column("last, UTC", numeric=False)],
        rows, caption="What the guard did",
    ))  # fmt: skip


def _calibration(found: Evaluation, plots: Plots) -> Html | None:
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
        (f"{100 * one.low:.0f} to {100 * one.high:.0f} %", count(one.answers), percent(one.confidence), percent(one.accuracy))
        for one in told.bins if one.answers
    ]  # fmt: skip
    figures_of = [("of all answers with labels", told.ece.value if told.ece else None), ("source model", told.before),
                  ("the board, on the same samples", told.after)]  # fmt: skip
    said = ", ".join(f"{percent(value)} {name}" for name, value in figures_of if value is not None)
    return section(
        "Calibration",
        tag("div", drawn, table(
            [Column("confidence", numeric=False), Column("answers"), Column("mean"), Column("right")],
            rows, caption="Calibration",
        ), class_="pair"),
        about=f"Expected calibration error: {said}." if said else None,
    )  # fmt: skip


def _times(found: Evaluation) -> Html | None:
    rows = [(name, *_percentiles(told), _duration(seconds)) for name, told, seconds in (
        ("answers", found.latency, found.answering_seconds), ("updates", found.update, found.learning_seconds),
    ) if told.count]  # fmt: skip
    if not rows:
        return None
    return section("Time", table(
        [Column("", numeric=False), Column("count"), Column("median"), Column("95 %"), Column("99 %"),
         Column("most"), Column("in all", about="proxy for energy: the time that they took together")],
        rows, caption="Times of answers and updates",
    ))  # fmt: skip


def _percentiles(told: Percentiles) -> tuple[str, ...]:
    values = (told.p50_ms, told.p95_ms, told.p99_ms, told.max_ms)
    return (count(told.count), *(milliseconds(value) for value in values))


def _dot(domain: int) -> Html:
    place = 0 if domain == 0 else (domain - 1) % figures.TINTS + 1
    return tag("span", class_=f"dot d{place}", aria_hidden="true")


def _with_range(told: Interval | None) -> Html | str:
    if told is None:
        return "–"
    return join(percent(told.value), tag("small", f" {_range(told)}") if told.low is not None else None)


def _range(told: Interval, *, points: bool = False) -> str:
    if told.low is None or told.high is None:
        return ""
    low, high = 100 * told.low, 100 * told.high
    return f"{signed(f'{low:+.1f}')} to {signed(f'{high:+.1f}')}" if points else f"{low:.1f} to {high:.1f}"


def _points(share: float) -> str:
    return signed(f"{100 * share:+.1f}")


def _wrong(accuracy: float | None) -> str:
    return percent(None if accuracy is None else 1 - accuracy)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for most, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
