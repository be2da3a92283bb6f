"""The page around the sections: one file, whose policy lets nothing in but what is in it.

`default-src 'none'` keeps the network out. Scripts run by their hashes alone, so text from a journal that became markup
by some mistake would still not run. plotly.js lies in the file compressed, and is let in by the hash of its source.
"""

import base64
import hashlib
import importlib.resources
import zlib
from collections.abc import Sequence
from functools import cache

import msgspec
import plotly

from edgecl import __version__
from firmware_host.report.markup import Html, tag
from firmware_host.report.parts import Plots, heading


def page(title: str, meta: str, links: Sequence[tuple[str, str]], sections: Sequence[Html], plots: Plots) -> str:
    """The whole file. `links`: anchor and name."""
    style, script = _own("page.css"), _own("page.js")
    library = _plotly() if plots.figures else ""
    allowed = " ".join(f"'sha256-{_hash(text)}'" for text in (script, library) if text)
    # plotly.js writes styles as it goes; they can load nothing, as all other sources are closed
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"edgecl {__version__}"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("a", "To the report", href="#report", class_="skip"),
        tag("header", tag("div", heading(1, title), tag("p", meta, class_="meta")), _controls(bool(plots.figures))),
        _nav(links),
        tag("main", *sections, id="report"),
        tag(
            "footer",
            f"Made by edgecl {__version__}. This file needs no network. Times are in UTC. "
            "Plots are drawn by plotly.js, which it carries, under the MIT licence.",
        ),
        tag("script", Html(_json(plots)), type="application/json", id="figures"),
        tag("script", Html(_packed()), type="text/plain", id="library") if plots.figures else None,
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _controls(axis: bool) -> Html:
    colours = _choice("theme", "Colours", ("auto", "light", "dark"))
    return tag(
        "div",
        colours,
        _choice("axis", "Horizontal axis", ("time", "answers")) if axis else None,
        class_="controls",
    )


def _choice(name: str, title: str, options: Sequence[str]) -> Html:
    return tag(
        "fieldset",
        tag("legend", title, class_="unseen"),
        *[
            tag("label", tag("input", type="radio", name=name, value=option, checked=not place), tag("span", option))
            for place, option in enumerate(options)
        ],
    )


def _nav(links: Sequence[tuple[str, str]]) -> Html | None:
    if len(links) < 2:
        return None
    items = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name in links]
    return tag("nav", tag("ul", *items), aria_label="Parts of this report")


def _json(plots: Plots) -> str:
    """No `<` in it, so that nothing in it ends the element."""
    return (
        msgspec.json.encode(plots.figures)
        .decode()
        .replace("<", "\\u003c")
        .replace("\u2028", " ")
        .replace("\u2029", " ")
    )


def _own(name: str) -> str:
    return importlib.resources.files("firmware_host.report").joinpath(name).read_text("utf-8")


@cache
def _plotly() -> str:
    """The source of plotly.js, as the Python package has it."""
    return importlib.resources.files(plotly).joinpath("package_data", "plotly.min.js").read_text("utf-8")


@cache
def _packed() -> str:
    """The same, compressed: a third of its size."""
    return base64.b64encode(zlib.compress(_plotly().encode(), 9)).decode()


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
