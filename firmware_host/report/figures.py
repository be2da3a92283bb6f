"""The plots of a report, as data for plotly.js. The page's script adds what all plots share (page.js).

A colour is the name of a CSS variable, `var(--error)`, so that a plot follows light and dark. Where a value depends on
what the horizontal axis shows, it is `either(time, answers)`, of which the script takes one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from firmware_host.evaluate.evaluation import Bin, Evaluation, Overview
from firmware_host.report.domain_map import DomainMap
from firmware_host.report.markup import plotted, readable
from firmware_host.report.story import Band, Event, Story, seq_at
from firmware_host.report.tried import Tried

Figure = dict[str, Any]

POINTS: Final = 300
"""Of one line at most."""
TINTS: Final = 7
"""Colours of domains, --domain-1 and so on; the source is --domain-0."""
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
NAMED: Final = 12
"""Devices that are named in the plot of a fleet."""
ROOM: Final = 0.1
"""Share of the timeline that a stay must have to be named in it."""
TRIES: Final = ("dash", "dot", "dashdot", "longdash", "longdashdot")


def colour(domain: int) -> str:
    """Of a domain, everywhere in a report; far domains share them."""
    return f"var(--domain-{0 if domain == 0 else (domain - 1) % TINTS + 1})"


def either(time: object, answers: object) -> dict[str, object]:
    """What the script chooses from."""
    return {"time": time, "answers": answers}


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
            "error", [_error(window.accuracy) for window in windows], [_error(window.faded) for window in windows]
        )
    if any(window.agreement is not None for window in windows):
        return Series("unlike source model", [_error(window.agreement) for window in windows], [])
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
    data.append(_line(x, [one.entropy for one in windows], "entropy", "--entropy", y_axis="y2", width=2, digits="%{y:.3f}"))
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


def reliability(bins: Sequence[Bin], before: Sequence[Bin]) -> Figure | None:
    """How often answers of some confidence were right."""
    shown = [one for one in bins if one.confidence is not None and one.accuracy is not None]
    if not shown:
        return None
    data = [
        {
            "type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "as often as it says",
            "line": {"color": "var(--muted)", "width": 1, "dash": "dot"}, "hoverinfo": "skip",
        },
        _bins(shown, "the board", "--error", "circle"),
    ]  # fmt: skip
    source = [one for one in before if one.confidence is not None and one.accuracy is not None]
    if source:
        data.append(_bins(source, "source model", "--muted", "square-open"))
    axis = {"range": [0, 1.02], "tickformat": ".0%"}
    layout = {
        "xaxis": {**axis, "title": {"text": "confidence"}},
        "yaxis": {**axis, "title": {"text": "right"}},
        "showlegend": True,
    }
    return {"data": data, "layout": layout, "height": [340, 320]}


def _bins(bins: Sequence[Bin], name: str, shade: str, symbol: str) -> Figure:
    most = max(one.answers for one in bins)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [_rounded(one.confidence) for one in bins],
        "y": [_rounded(one.accuracy) for one in bins],
        "name": name,
        "text": [f"{one.answers:,} answers" for one in bins],
        "hovertemplate": "confidence %{x:.1%}, right %{y:.1%}<br>%{text}",
        "line": {"color": f"var({shade})", "width": 1.6},
        "marker": {"symbol": symbol, "size": [6 + 10 * (one.answers / most) ** 0.5 for one in bins]},
    }


def map_of_domains(found: DomainMap, answers: dict[int, int]) -> Figure | None:
    """The plane in which domains that are alike lie near to each other."""
    if len(found.domains) < 3:
        return None
    most = max(1, *answers.values()) if answers else 1
    data = [
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [_rounded(one.x)],
            "y": [_rounded(one.y)],
            "name": plotted(one.name),
            "text": [plotted(one.name)],
            "textposition": "top center",
            "cliponaxis": False,
            "hovertemplate": f"{answers.get(one.number, 0):,} answers",
            "marker": {
                "color": colour(one.number),
                "size": 14 + 22 * (answers.get(one.number, 0) / most) ** 0.5,
                "line": {"color": "var(--paper)", "width": 1.5},
            },
        }
        for one in found.domains
    ]
    reach = 1.35 * max(0.02, *(abs(value) for one in found.domains for value in (one.x, one.y)))
    bare = {"showticklabels": False, "range": [-reach, reach], "showgrid": False, "ticks": ""}
    layout = {
        "xaxis": {**bare},
        "yaxis": {**bare, "scaleanchor": "x"},
        "plot_bgcolor": "var(--card)",
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "showlegend": False,
    }
    return {"data": data, "layout": layout, "height": [340, 320]}


def what_ifs(tried: Sequence[Tried]) -> Figure | None:
    """Error of the tries in equal parts of the stream."""
    shown = [one for one in tried if any(known for known, _ in one.parts)]
    if not shown:
        return None
    data = []
    for place, one in enumerate(shown):
        error = [None if not known else round(1 - right / known, 4) for known, right in one.parts]
        plain = place < 2
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(1, len(error) + 1)),
                "y": error,
                "name": plotted(one.name),
                "hovertemplate": "%{y:.1%} wrong",
                "line": {
                    "color": ("var(--ink)", "var(--muted)")[place] if plain else colour(1 + (place - 2) % TINTS),
                    "width": 2.4 if plain else 1.8,
                    "dash": "solid" if plain else TRIES[(place - 2) % len(TRIES)],
                },
                "marker": {"size": 6},
            }
        )
    layout = {
        "xaxis": {"title": {"text": "part of the stream"}, "dtick": 1, "range": [0.7, len(shown[0].parts) + 0.3]},
        "yaxis": {"title": {"text": "error"}, "tickformat": ".0%", "rangemode": "tozero"},
        "showlegend": True,
    }
    return {"data": data, "layout": layout, "height": [360, 380]}


def fleet(devices: Sequence[Overview], limit: float) -> Figure | None:
    """All devices by two figures, those far from the others named."""
    if len(devices) < 2:
        return None
    labelled = sum(one.accuracy is not None for one in devices) * 2 >= len(devices)
    shown = [one for one in devices if one.accuracy is not None] if labelled else list(devices)
    lineages = [name for name, _ in Counter(one.lineage for one in shown).most_common()]
    data = []
    for odd in (False, True):
        mine = [one for one in shown if (one.distance >= limit and bool(one.odd)) == odd]
        if not mine:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers+text" if len(mine if odd else shown) <= NAMED else "markers",
                "x": [_rounded(_error(one.accuracy) if labelled else one.novel or 0.0) for one in mine],
                "y": [_rounded(one.entropy) for one in mine],
                "text": [plotted(one.device) for one in mine],
                "customdata": [plotted(one.odd) for one in mine],
                "textposition": "top center",
                "cliponaxis": False,
                "name": "unlike the others" if odd else "like the others",
                "hovertemplate": "%{text}<br>%{x:.1%}, entropy %{y:.3f}" + ("<br>%{customdata}" if odd else ""),
                "marker": {
                    "symbol": [_SYMBOLS[lineages.index(one.lineage) % len(_SYMBOLS)] for one in mine],
                    "size": 11 if odd else 8,
                    "opacity": 1 if odd else 0.65,
                    "color": "var(--guard)" if odd else "var(--error)",
                },
            }
        )
    title = "error" if labelled else "novel samples"
    layout = {
        "xaxis": {"title": {"text": title}, "tickformat": ".0%", "rangemode": "tozero"},
        "yaxis": {"title": {"text": "entropy"}},
        "showlegend": len(data) > 1,
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout, "height": [400, 380]}


_SYMBOLS: Final = ("circle", "square", "diamond", "cross", "triangle-up")


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
        "y": [_rounded(value) for value in y],
        "yaxis": y_axis,
        "name": name,
        "line": {"color": f"var({shade})", "width": width, "shape": "linear"},
        "hovertemplate": digits,
        "connectgaps": True,
    }


def _error(accuracy: float | None) -> float | None:
    return None if accuracy is None else 1 - accuracy


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _time(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _times(event: Event) -> str:
    return plotted(event.text if event.times == 1 else f"{event.times:,} x {event.text}")
