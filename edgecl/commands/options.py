"""Values of command-line options, read from text."""

import re
from typing import Final

import click

_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_bytes(text: str) -> int | None:
    """`64 MB` (10^6) or `64 MiB` (2^20) in bytes, or a plain number of bytes; None where it is neither."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper() or "B") if found else None
    return round(float(found[1]) * unit) if found and unit else None


def size(text: str) -> int:
    """A number of bytes. Raises BadParameter."""
    found = parse_bytes(text)
    if found is None:
        raise click.BadParameter(f'"{text}" is no size; write it like "64 MB" or "64 MiB"')
    return found


def named_number(text: str) -> tuple[str, float]:
    """`name=number`. Raises BadParameter."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise click.BadParameter(f'"{text}" is not like rate=0.001') from None


def duration_ms(text: str) -> float:
    """A time in milliseconds, from `40 ms` or `0.5 s`; a plain number is of milliseconds. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(ms|s|)", text.strip())
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f'"{text}" is no time; write it like "40 ms"')
    return float(found[1]) * (1000 if found[2] == "s" else 1)
