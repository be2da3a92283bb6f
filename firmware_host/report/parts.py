"""Parts that sections of a report are made of: plots with what they say in words, tables, key figures, matrices."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from firmware_host.report.figures import Figure
from firmware_host.report.markup import Html, join, tag


@dataclass
class Plots:
    """The plots of a page; the script draws each into its place."""

    figures: dict[str, Figure] = field(default_factory=dict)

    def place(self, figure: Figure | None, said: str, *, caption: object = None, wide: bool = True) -> Html | None:
        """Where a plot is drawn. `said`: what it shows, for who does not see it."""
        if figure is None:
            return None
        name = f"plot-{len(self.figures) + 1}"
        self.figures[name] = figure
        low = "tall" if figure["height"][0] > 450 else "low"
        drawn = tag("div", id=name, class_=f"plot {low}", role="img", aria_label=said)
        return tag(
            "figure", drawn, tag("figcaption", caption) if caption else None, class_="wide" if wide else "narrow"
        )


@dataclass(frozen=True)
class Column:
    """Of a table."""

    title: str
    numeric: bool = True
    about: str = ""
    """What it is, shown where the pointer rests."""


def table(
    columns: Sequence[Column | str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str,
    classes: Sequence[str] = (),
    sortable: bool = False,
    hidden: int = 0,
) -> Html:
    """A table with a heading for each row, without columns in which nothing is known. A column that is a text is not
    numeric. `classes`: of rows. Rows from `hidden` on are shown when asked for.
    """
    given = [Column(one, numeric=False) if isinstance(one, str) else one for one in columns]
    known = [at for at in range(len(given)) if not at or any(str(row[at]) not in ("", "–") for row in rows)]
    given, rows = [given[at] for at in known], [[row[at] for at in known] for row in rows]
    head = [
        tag("th", tag("button", column.title, type="button") if sortable else column.title, scope="col",
            class_="n" if column.numeric else None, title=column.about or None)
        for column in given
    ]  # fmt: skip
    lines = []
    for place, row in enumerate(rows):
        cells = [
            tag("td" if at else "th", cell, class_="n" if given[at].numeric else None, scope=None if at else "row")
            for at, cell in enumerate(row)
        ]
        names = [classes[place]] if classes and classes[place] else []
        names += ["more"] if hidden and place >= hidden else []
        lines.append(tag("tr", *cells, class_=" ".join(names) or None))
    told = tag("caption", caption, class_="unseen")
    whole = tag(
        "table", told, tag("thead", tag("tr", *head)), tag("tbody", *lines), class_="sortable" if sortable else None
    )
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def folded(title: str, *inside: object, open_: bool = False) -> Html:
    """Something that is shown when asked for."""
    return tag("details", tag("summary", title), *inside, open=open_)


@dataclass(frozen=True)
class Key:
    """A figure that is worth a card."""

    title: str
    value: str
    note: str = ""
    about: str = ""


def cards(keys: Sequence[Key]) -> Html | None:
    """Key figures side by side."""
    if not keys:
        return None
    return tag("dl", *[
        tag("div", tag("dt", key.title, title=key.about or None), tag("dd", tag("strong", key.value),
            tag("span", key.note) if key.note else None))
        for key in keys
    ], class_=f"cards of-{len(keys)}")  # fmt: skip


def shade(share: float | None) -> str:
    """The class of a cell of a matrix: from 0, pale, to 10."""
    return "" if share is None else f"s{round(10 * min(1.0, max(0.0, share)))}"


def matrix(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    *,
    caption: str,
    corner: str,
    texts: Any,
    low: float = 0.0,
    high: float = 1.0,
) -> Html:
    """A table whose cells are the darker the more they have; `texts` writes a number."""
    head = tag("tr", tag("th", corner, scope="col"), *[tag("th", name, scope="col", class_="n") for name in columns])
    lines = []
    for name, values in rows:
        cells = [
            tag(
                "td",
                texts(value),
                class_=f"n {shade(None if value is None else (value - low) / (high - low or 1))}".strip(),
            )
            for value in values
        ]
        lines.append(tag("tr", tag("th", name, scope="row"), *cells))
    whole = tag(
        "table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", *lines), class_="matrix"
    )
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def notes(told: Sequence[str]) -> Html | None:
    """What could not be told, and why."""
    return tag("ul", *[tag("li", one) for one in told], class_="notes") if told else None


def heading(level: int, text: object, *, id_: str | None = None) -> Html:
    """A heading."""
    return tag(f"h{level}", text, id=id_)


def section(title: str, *inside: object, about: object = None) -> Html | None:
    """A part of a device, with its heading; nothing where there is nothing inside."""
    given = [one for one in inside if one is not None]
    if not given:
        return None
    return tag("section", heading(3, title), tag("p", about, class_="about") if about else None, join(*given))
