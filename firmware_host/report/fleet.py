"""The part of a report that is about all devices: those that are unlike the others come first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import duckdb

from firmware_host.evaluate.evaluation import Fleet, Overview
from firmware_host.report import figures
from firmware_host.report.figures import Figure
from firmware_host.report.markup import Html, count, milliseconds, moment, number, percent, readable, tag
from firmware_host.report.parts import Column, Key, Plots, cards, folded, heading, notes, section, table

ODD: Final = 3.5
"""Robust deviations from which a device is called unlike the others (Iglewicz and Hoaglin 1993)."""
SHOWN: Final = 25
"""Rows of the table that are shown until all are asked for."""
STEPS: Final = 100
"""Of the course of a fleet at most."""
WIDTHS_S: Final = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400, 364 * 86400)


@dataclass(frozen=True)
class Step:
    """A stretch of time, over all devices."""

    time: datetime
    devices: int
    error: tuple[float, float, float] | None
    """Tenth, half and nine tenths of the devices have less."""
    entropy: tuple[float, float, float]


def course(connection: duckdb.DuckDBPyConnection, shown: Fleet) -> tuple[Step, ...]:
    """How the devices of a fleet were, step by step: quantiles over devices. Nothing for a few of them."""
    if len({one.device for one in shown.devices}) < 4:
        return ()
    span_s = (max(one.last for one in shown.devices) - min(one.first for one in shown.devices)).total_seconds()
    width_s = next((one for one in WIDTHS_S if span_s / one <= STEPS), WIDTHS_S[-1])
    rows = connection.execute(
        f"""
        WITH one AS (
            SELECT device, time_bucket(INTERVAL {width_s} SECONDS, time) AS step, avg(entropy) AS entropy,
                1 - avg(correct::INT) AS error
            FROM answers GROUP BY ALL
        )
        SELECT step, count(*), quantile_cont(error, [0.1, 0.5, 0.9]), quantile_cont(entropy, [0.1, 0.5, 0.9])
        FROM one GROUP BY step ORDER BY step
        """
    ).fetchall()
    return tuple(
        Step(
            time.replace(tzinfo=UTC),
            devices,
            tuple(error) if error and error[0] is not None else None,  # where no device had a label
            tuple(entropy),
        )
        for time, devices, error, entropy in rows[: 3 * STEPS]
    )


def rendered(shown: Fleet, steps: Sequence[Step], plots: Plots, anchors: Mapping[tuple[str, str], str]) -> Html:
    """The section; `anchors` are those of the devices that have a section of their own."""
    devices = shown.devices
    odd = [one for one in devices if is_odd(one)]
    lineages = {one.lineage for one in devices}
    answers, labelled = sum(one.answers for one in devices), sum(one.labelled for one in devices)
    known = [one for one in devices if one.accuracy is not None]
    right = sorted(one.accuracy for one in known if one.accuracy is not None)
    keys = [
        Key(
            "devices",
            count(len({one.device for one in devices})),
            f"{len(lineages)} lineages" if len(lineages) > 1 else readable(next(iter(lineages), ""), most=24),
        ),
        Key("unlike the others", count(len(odd)), f"by {ODD} robust deviations or more"),
        Key("answers", count(answers), f"{percent(labelled / answers if answers else None)} with labels"),
    ]
    if right:
        keys.append(Key("accuracy", percent(right[len(right) // 2]), f"median; worst {percent(right[0])}"))
    keys.append(
        Key(
            "updates",
            count(sum(one.updates for one in devices)),
            f"{count(sum(one.refused for one in devices))} refused",
        )
    )
    return tag(
        "section",
        heading(2, "Fleet", id_="fleet-title"),
        tag("p", _summary(devices, odd), class_="lead"),
        cards(keys),
        _table(devices, anchors),
        section(
            "Devices beside each other",
            plots.place(
                figures.fleet(devices, ODD), "Devices by error and entropy; those far from the others are named"
            ),
        )
        if len(devices) > 2
        else None,
        _course(steps, plots),
        notes(shown.notes),
        id="fleet",
        aria_labelledby="fleet-title",
    )


def is_odd(one: Overview) -> bool:
    """Whether a device is far from the others of its lineage."""
    return bool(one.odd) and one.distance >= ODD


def _summary(devices: Sequence[Overview], odd: Sequence[Overview]) -> str:
    if not odd:
        return "No device is far from the others." if len(devices) > 2 else "There are too few devices to compare them."
    named = ", ".join(f"{readable(one.device, most=40)} ({readable(one.odd, most=40)})" for one in odd[:3])
    more = f" and {count(len(odd) - 3)} more" if len(odd) > 3 else ""
    return f"{'One device is' if len(odd) == 1 else f'{count(len(odd))} devices are'} unlike the others: {named}{more}."


def _table(devices: Sequence[Overview], anchors: Mapping[tuple[str, str], str]) -> Html:
    rows = []
    several = len({one.lineage for one in devices}) > 1
    for one in devices:
        anchor = anchors.get((one.device, one.lineage))
        name = tag("a", readable(one.device), href=f"#{anchor}") if anchor else readable(one.device)
        rows.append(
            (
                name,
                one.lineage if several else "",
                number(one.distance, 1) if one.odd else "–",
                one.odd,
                count(one.answers),
                percent(one.accuracy),
                number(one.entropy),
                percent(one.novel),
                count(one.updates),
                count(one.refused),
                milliseconds(one.latency_p95_ms),
                moment(one.last),
            )
        )
    many = len(rows) > SHOWN
    whole = table(
        [
            "device",
            "lineage",
            Column("deviation", about="largest deviation from the median of the lineage, in robust deviations"),
            Column("in", numeric=False, about="the figure that deviates so"),
            Column("answers"),
            Column("right"),
            Column("entropy"),
            Column("novel"),
            Column("updates"),
            Column("refused"),
            Column("latency", about="95 of 100 answers within"),
            "last answer, UTC",
        ],
        rows,
        caption="Devices, those that are unlike the others first",
        classes=["odd" if is_odd(one) else "" for one in devices],
        sortable=True,
        hidden=SHOWN,
    )
    more, fewer = f"Show all {count(len(rows))}", f"Show {SHOWN}"
    tools = [
        tag("input", id="fleet-search", type="search", placeholder="Find a device", aria_label="Find a device"),
        tag("button", more, id="fleet-all", type="button", aria_expanded="false", data_more=more, data_fewer=fewer)
        if many
        else None,
    ]
    return tag("div", tag("div", *tools, class_="tools") if len(rows) > 8 else None, whole, id="fleet-table")


def _course(steps: Sequence[Step], plots: Plots) -> Html | None:
    if len(steps) < 3:
        return None
    rows = []
    for one in steps:
        error = ("–",) * 3 if one.error is None else tuple(percent(value) for value in one.error)
        rows.append((moment(one.time), count(one.devices), *error, *(number(value) for value in one.entropy)))
    return section(
        "The fleet over time",
        plots.place(_drawn(steps), "Error and entropy of the devices over time: median, and where eight of ten lie"),
        folded(
            "The figures of the plot",
            table(
                [
                    "from, UTC",
                    Column("devices"),
                    Column("error, tenth"),
                    Column("median"),
                    Column("nine tenths"),
                    Column("entropy, tenth"),
                    Column("median"),
                    Column("nine tenths"),
                ],
                rows,
                caption="The fleet over time",
            ),
        ),
        about="The line is the median of the devices; eight of ten lie in the band.",
    )


def _drawn(steps: Sequence[Step]) -> Figure:
    known = [(one.time, one.error) for one in steps if one.error is not None]
    data: list[Figure] = []
    if known:
        data += _band([time for time, _ in known], [three for _, three in known], "error", "y", "%{y:.1%}")
    data += _band(
        [one.time for one in steps], [one.entropy for one in steps], "entropy", "y2" if known else "y", "%{y:.3f}"
    )
    layout: dict[str, Any] = {
        "xaxis": {"type": "date", "anchor": "y2" if known else "y", "title": {"text": "time, UTC"}}
    }
    if known:
        layout["yaxis"] = {"domain": [0.54, 1], "title": {"text": "error"}, "tickformat": ".0%", "rangemode": "tozero"}
        layout["yaxis2"] = {"domain": [0, 0.46], "title": {"text": "entropy"}, "rangemode": "tozero"}
    else:
        layout["yaxis"] = {"title": {"text": "entropy"}, "rangemode": "tozero"}
    return {"data": data, "layout": {**layout, "showlegend": False, "hovermode": "x"}, "height": [420, 400]}


def _band(
    times: Sequence[datetime], three: Sequence[tuple[float, float, float]], name: str, axis: str, digits: str
) -> list[Figure]:
    x = [time.replace(tzinfo=None).isoformat(sep=" ") for time in times]
    low, middle, high = ([float(f"{one[place]:.4g}") for one in three] for place in range(3))
    shade = f"var(--{name})"
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "yaxis": axis,
        "line": {"width": 0, "color": shade},
        "hoverinfo": "skip",
    }
    return [
        {**edge, "y": low, "name": f"{name}, a tenth"},
        {**edge, "y": high, "name": f"{name}, nine tenths", "fill": "tonexty", "fillcolor": f"var(--{name}-pale)"},
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": middle,
            "yaxis": axis,
            "name": name,
            "line": {"color": shade, "width": 2.2},
            "hovertemplate": digits,
        },
    ]
