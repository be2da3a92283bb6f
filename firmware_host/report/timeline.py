"""The plot of a device over time or answers: error, entropy, the domains that answered, and what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from firmware_host.evaluate.evaluation import Evaluation
from firmware_host.report.figures import Figure, colour, either, error_of, rounded
from firmware_host.report.markup import plotted, readable
from firmware_host.report.story import Band, Event, Story, seq_at

POINTS: Final = 300
"""Of one line at most."""
LANES: Final = (
    ("domain", "domains"),
    ("deployment", "deployed"),
    ("shift", "shifts"),
    ("guard", "guard"),
    ("label", "labels"),
)
"""Lane of events -> what it is called, from the top."""
MARKS: Final = {
    ("shift", "began"): ("diamond", "--shift"),
    ("shift", "ended"): ("diamond-open", "--shift"),
    ("guard", "skipped"): ("line-ns-open", "--guard"),
    ("guard", "rolled_back"): ("triangle-left", "--guard"),
    ("guard", "reset"): ("x", "--guard"),
    ("label", "given"): ("circle", "--label"),
}
"""Lane and kind of an event -> symbol and colour: kinds differ in shape, and not in colour alone."""
ROOM: Final = 0.1
"""Share of the timeline that a stay must have to be named in it."""


@dataclass(frozen=True)
class Series:
    """What is drawn in the upper row, by what is known."""

    title: str
    values: Sequence[float | None]
    smooth: Sequence[float | None]
    share: bool = True
    """Whether it is written in percent."""


def upper(found: Evaluation) -> Series:
    """Error where there are labels; else how far the answers are from the source model's, or have drifted."""
    windows = thinned(found.over_time)
    if any(window.accuracy is not None for window in windows):
        return Series(
            "error", [error_of(window.accuracy) for window in windows], [error_of(window.faded) for window in windows]
        )
    if any(window.agreement is not None for window in windows):
        return Series("unlike source model", [error_of(window.agreement) for window in windows], [])
    return Series("drift of answers", [window.drift for window in windows], [], share=False)


def thinned(windows: Sequence[Any]) -> Sequence[Any]:
    """Every so-manieth of too many windows."""
    step = -(-len(windows) // POINTS) or 1
    return windows[::step]


def timeline(found: Evaluation, told: Story) -> Figure | None:
    """Error, entropy and what happened, over time or answers."""
    windows = thinned(found.over_time)
    if not windows:
        return None
    x = either(
        [_time(one.start + (one.end - one.start) / 2) for one in windows],
        [(one.first_seq + one.last_seq) / 2 for one in windows],
    )
    top = upper(found)
    data: list[Figure] = []
    if top.smooth:
        data += [
            _line(x, top.values, "of a window", "--error", y_axis="y", width=1, filled=True),
            _line(x, top.smooth, "fading mean", "--error", y_axis="y", width=2.4),
        ]
    else:
        data.append(_line(x, top.values, top.title, "--error", y_axis="y", width=2.2,
                          digits="%{y:.1%}" if top.share else "%{y:.3f}"))  # fmt: skip
    data.append(
        _line(x, [one.entropy for one in windows], "entropy", "--entropy", y_axis="y2", width=2, digits="%{y:.3f}")
    )
    here = {event.lane for event in told.events if (event.lane, event.what) in MARKS} | {"domain", "deployment"}
    lanes = [(lane, name) for lane, name in LANES if lane in here]
    data += _ribbons(told)
    data += _marks(found, told, [lane for lane, _ in lanes])
    base = 0.05 * len(lanes) + 0.06
    """Where the lanes end and the lines begin, from below."""
    shapes = [_tint(band, base) for band in told.bands if band.domain]
    shapes += [_deployed(one.time, one.seq) for one in told.deployments]
    layout = {
        "xaxis": either(
            {"type": "date", "anchor": "y3", "title": {"text": "time, UTC"}},
            {"type": "linear", "anchor": "y3", "title": {"text": "answers"}, "tickformat": ",d"},
        ),
        "yaxis": {
            "domain": [base + 0.38 * (1 - base), 1],
            "title": {"text": top.title},
            "tickformat": ".0%" if top.share else None,
            "rangemode": "tozero",
            "fixedrange": True,
        },
        "yaxis2": {
            "domain": [base, base + 0.3 * (1 - base)],
            "title": {"text": "entropy"},
            "rangemode": "tozero",
            "nticks": 4,
            "fixedrange": True,
        },
        "yaxis3": {
            "domain": [0, 0.05 * len(lanes)],
            "tickvals": list(range(len(lanes))),
            "ticktext": [name for _, name in lanes],
            "range": [len(lanes) - 0.4, -0.6],
            "fixedrange": True,
            "showgrid": True,
        },
        "shapes": shapes,
        "annotations": _names(found, told),
        "showlegend": False,
        "hovermode": "x",
    }
    return {"data": data, "layout": layout, "height": [520, 500]}


def _names(found: Evaluation, told: Story) -> list[Figure]:
    """The name of each domain but the source over its longest stay, where there is room."""
    whole_s, whole = max(1e-9, (found.last - found.first).total_seconds()), max(1, found.answers)
    out = []
    for domain in sorted({band.domain for band in told.bands if band.domain}):
        longest = max((band for band in told.bands if band.domain == domain), key=_length)
        if min((longest.end - longest.start).total_seconds() / whole_s, _length(longest) / whole) < ROOM:
            continue
        out.append(
            {
                "x": either(_time(longest.start), longest.first_seq),
                "y": 1,
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "text": plotted(readable(told.names.get(domain, f"domain {domain}"), most=16)),
                "showarrow": False,
                "font": {"size": 11},
            }
        )
    return out


def _length(band: Band) -> int:
    return band.last_seq - band.first_seq


def _ribbons(told: Story) -> list[Figure]:
    """A bar for each domain along its stays."""
    out = []
    for domain in sorted({band.domain for band in told.bands}):
        name = plotted(told.names.get(domain, f"domain {domain}"))
        mine = [band for band in told.bands if band.domain == domain]
        times: list[str | None] = []
        seqs: list[int | None] = []
        for band in mine:
            times += [_time(band.start), _time(band.end), None]
            seqs += [band.first_seq, band.last_seq, None]
        out.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": either(times, seqs),
                "y": [None if one is None else 0 for one in times],
                "yaxis": "y3",
                "name": name,
                "line": {"width": 11, "color": colour(domain)},
                "hoverinfo": "name",
            }
        )
    return out


def _marks(found: Evaluation, told: Story, lanes: Sequence[str]) -> list[Figure]:
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in told.events:
        if (event.lane, event.what) in MARKS:
            groups.setdefault((event.lane, event.what), []).append(event)
    out = []
    for (lane, what), events in groups.items():
        symbol, shade = MARKS[lane, what]
        out.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": either(
                    [_time(one.time) for one in events],
                    [one.seq if one.seq is not None else seq_at(found, one.time) for one in events],
                ),
                "y": [lanes.index(lane)] * len(events),
                "yaxis": "y3",
                "name": f"{lane}: {what.replace('_', ' ')}",
                "text": [_times(one) for one in events],
                "hoverinfo": "text+x",
                "marker": {
                    "symbol": symbol,
                    "size": [min(16, 8 + 2 * len(str(one.times - 1)) * (one.times > 1)) for one in events],
                    "color": f"var({shade})",
                    "line": {"color": f"var({shade})", "width": 1.6},
                },
            }
        )
    if told.deployments:
        out.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": either([_time(one.time) for one in told.deployments], [one.seq for one in told.deployments]),
                "y": [lanes.index("deployment")] * len(told.deployments),
                "yaxis": "y3",
                "name": "deployed",
                "text": [
                    f"{plotted(one.name)} version {one.version}, {plotted(one.learner)}" for one in told.deployments
                ],
                "hoverinfo": "text+x",
                "marker": {"symbol": "triangle-right", "size": 12, "color": "var(--deployed)"},
            }
        )
    return out


def _tint(band: Band, base: float) -> Figure:
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": either(_time(band.start), band.first_seq),
        "x1": either(_time(band.end), band.last_seq),
        "y0": base,
        "y1": 1,
        "fillcolor": colour(band.domain),
        "opacity": 0.13,
        "line": {"width": 0},
        "layer": "below",
    }


def _deployed(time: datetime, seq: int) -> Figure:
    at = either(_time(time), seq)
    line = {"width": 1, "dash": "dot", "color": "var(--deployed)"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line}


def _line(
    x: object,
    y: Sequence[float | None],
    name: str,
    shade: str,
    *,
    y_axis: str = "y",
    width: float,
    filled: bool = False,
    digits: str = "%{y:.1%}",
) -> Figure:
    area = {"fill": "tozeroy", "fillcolor": f"var({shade}-pale)"} if filled else {}
    return {
        **area,
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": [rounded(value) for value in y],
        "yaxis": y_axis,
        "name": name,
        "line": {"color": f"var({shade})", "width": width, "shape": "linear"},
        "hovertemplate": digits,
        "connectgaps": True,
    }


def _time(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _times(event: Event) -> str:
    return plotted(event.text if event.times == 1 else f"{event.times:,} x {event.text}")
