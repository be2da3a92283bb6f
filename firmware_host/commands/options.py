"""Options that commands of the host share."""

import getpass
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_UNITS_S: Final = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def fleet_option(command: F) -> F:
    """`--fleet FILE`"""
    option = click.option(
        "--fleet", "fleet_file", type=click.Path(path_type=Path), metavar="FILE",
        help="Names and groups of devices; else EDGECL_FLEET, or fleet.toml in this folder.",
    )  # fmt: skip
    return option(command)


def json_option(command: F) -> F:
    """`--json`"""
    return click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")(command)


def devices_argument(command: F) -> F:
    """`DEVICE...`"""
    return click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")(command)


def duration_s(text: str) -> float:
    """`90`, `90 s`, `2 min` or `1 h` in seconds. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", text.strip())
    if not found or found[2] not in _UNITS_S:
        raise click.BadParameter(f'"{text}" is no time; write it like "90 s" or "2 min"')
    return float(found[1]) * _UNITS_S[found[2]]


def me() -> str:
    """Who asks a board for something, as it notes it down."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"
    return f"{user}@{socket.gethostname() or 'here'}"[:200]
