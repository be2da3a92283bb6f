"""Options that commands of the host share."""

import getpass
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from firmware_host.executor import EXECUTORS

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


def workers_option(command: F) -> F:
    """`--workers N` and `--executor NAME`"""
    command = click.option(
        "--executor", type=click.Choice(list(EXECUTORS)), default="pool", show_default=True,
        help="What the workers are: processes of this computer, or of a Ray cluster.",
    )(command)  # fmt: skip
    return click.option(
        "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Devices that are done at a time.",
    )(command)  # fmt: skip


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
