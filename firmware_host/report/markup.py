"""HTML from Python: what comes from journals is text, never markup, and never hides what it is."""

import html
import math
from datetime import datetime
from typing import Final

MOST: Final = 80
"""Characters of a name that are shown."""

THIN: Final = "\u202f"
"""Space between thousands."""

_VOID: Final = frozenset({"img", "input", "meta", "br", "col"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children that are not Html are escaped, None is left out; `class_`, `data_x` become class, data-x.

    An attribute that is True stands without a value, one that is False or None not at all.
    """
    words = [name]
    for key, value in attributes.items():
        given = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(given)
        elif value is not None and value is not False:
            words.append(f'{given}="{html.escape(readable(value, most=0))}"')
    opening = f"<{' '.join(words)}>"
    return Html(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Elements and texts one behind the other."""
    return Html("".join(one if isinstance(one, Html) else _escaped(one) for one in children if one is not None))


def readable(value: object, *, most: int = MOST) -> str:
    """A text without characters that do not show, or that turn what is around them; cut to `most`, 0 for no limit."""
    text = str(value)
    if not text.isprintable():
        text = "".join(char if char.isprintable() or char == THIN else _named(char) for char in text)
    return f"{text[: most - 1]}…" if 0 < most < len(text) else text


def plotted(value: object) -> str:
    """The same for a plot, which takes `<b>` and `%{x}` in its labels for its own."""
    return html.escape(readable(value), quote=False).replace("%{", "%\u200b{")


def when(time: datetime) -> str:
    """A time for people, in UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S}"


def moment(time: datetime) -> Html:
    """The same, as an element."""
    return tag("time", when(time), datetime=f"{time:%Y-%m-%dT%H:%M:%SZ}")


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is not known."""
    return "–" if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits behind the point; a dash where it is not known."""
    return "–" if value is None or not math.isfinite(value) else signed(f"{value:.{digits}f}")


def signed(text: str) -> str:
    """A number with a true minus sign; none in front of 0."""
    digits = text.lstrip("+-")
    return digits if not digits.strip("0.") else text.replace("-", "−")


def milliseconds(value: float | None) -> str:
    """A duration given in milliseconds, for people."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:,.1f} s".replace(",", THIN)


def count(value: int) -> str:
    """A count, with thin spaces between thousands."""
    return f"{value:,}".replace(",", THIN)


def _escaped(value: object) -> str:
    return html.escape(readable(value, most=0))


def _named(char: str) -> str:
    return " " if char in "\n\t" else f"\\u{ord(char):04x}"
