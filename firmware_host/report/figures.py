"""The plots of a report, as data for plotly.js. The page's script adds what all plots share (page.js).

A colour is the name of a CSS variable, `var(--error)`, so that a plot follows light and dark. Where a value depends on
what the horizontal axis shows, it is `either(time, answers)`, of which the script takes one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from firmware_host.evaluate.evaluation import Bin, Overview
from firmware_host.report.domain_map import DomainMap
from firmware_host.report.markup import plotted
from firmware_host.report.tried import Tried

Figure = dict[str, Any]

POINTS: Final = 300
"""Of one line at most."""
TINTS: Final = 7
"""Colours of domains, --domain-1 and so on; the source is --domain-0."""
NAMED: Final = 12
"""Devices that are named in the plot of a fleet."""
TRIES: Final = ("dash", "dot", "dashdot", "longdash", "longdashdot")


def colour(domain: int) -> str:
    """Of a domain, everywhere in a report; far domains share them."""
    return f"var(--domain-{0 if domain == 0 else (domain - 1) % TINTS + 1})"


def either(time: object, answers: object) -> dict[str, object]:
    """What the script chooses from."""
    return {"time": time, "answers": answers}


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
        "x": [rounded(one.confidence) for one in bins],
        "y": [rounded(one.accuracy) for one in bins],
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
            "x": [rounded(one.x)],
            "y": [rounded(one.y)],
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
                "x": [rounded(error_of(one.accuracy) if labelled else one.novel or 0.0) for one in mine],
                "y": [rounded(one.entropy) for one in mine],
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


def error_of(accuracy: float | None) -> float | None:
    """Where an accuracy is known."""
    return None if accuracy is None else 1 - accuracy


def rounded(value: float | None) -> float | None:
    """To four digits, which no eye tells from more."""
    return None if value is None else float(f"{value:.4g}")
