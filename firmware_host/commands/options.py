"""Options that commands of the host share."""

import getpass
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


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


def me() -> str:
    """Who asks a board for something, as it notes it down."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"
    return f"{user}@{socket.gethostname() or 'here'}"[:200]
