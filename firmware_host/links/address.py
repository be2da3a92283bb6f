"""Addresses of boards, as users write them.

local:                  an agent on this machine, with the state directory it chooses
local:DIR               the same, with this state directory
ssh://user@host:port    user and port may be missing
host, user@host         as `ssh` takes it, so also an alias of ~/.ssh/config
serial:/dev/ttyUSB0     a port
serial:usb-FTDI_A50     the port of that name in /dev/serial/by-id, or the one whose name has that in it
serial:auto             the only one there
serial:...@921600       faster than the 115200 baud that each begins with
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecl.errors import LinkError

FORMS: Final = "a name of fleet.toml, HOST, ssh://user@host:port, serial:PORT@BAUD, serial:auto or local:DIR"

_HOST: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]"
_USER: Final = r"[A-Za-z0-9_][^\s@/:]*"
_URL: Final = re.compile(rf"ssh://(?:({_USER})@)?({_HOST})(?::(\d{{1,5}}))?/?")
_ALIAS: Final = re.compile(rf"(?:{_USER}@)?(?:{_HOST})")
_SERIAL: Final = re.compile(r"serial:(?P<port>[^@]+?)(?:@(?P<baud>\d{1,8}))?")


@dataclass(frozen=True)
class LocalAddress:
    """A child process."""

    text: str
    directory: Path | None


@dataclass(frozen=True)
class SshAddress:
    """A host that `ssh` reaches."""

    text: str
    host: str
    """Or an alias of the user's configuration."""
    user: str = ""
    port: int | None = None


@dataclass(frozen=True)
class SerialAddress:
    """A serial port of this machine."""

    text: str
    port: str
    """A path, a name of /dev/serial/by-id or a part of one, or `auto`."""
    baud: int | None
    """To go on at, once connected."""


Address = LocalAddress | SshAddress | SerialAddress


def parse(text: str, names: Callable[[str], str | None] = lambda name: None) -> Address:
    """The address that a text means. `names` gives the address that the fleet has for a name, or None.

    Raises LinkError: it is none.
    """
    text = names(text) or text
    if text.startswith("local:"):
        rest = text.removeprefix("local:")
        return LocalAddress(text, Path(rest).expanduser().absolute() if rest else None)
    if found := _SERIAL.fullmatch(text):
        return SerialAddress(text, found["port"], int(found["baud"]) if found["baud"] else None)
    if found := _URL.fullmatch(text):
        return SshAddress(text, found[2].strip("[]"), found[1] or "", int(found[3]) if found[3] else None)
    if _ALIAS.fullmatch(text):
        user, _, host = text.rpartition("@")
        return SshAddress(text, host.strip("[]"), user)
    raise LinkError(f"{text!r}: no address of a device; write {FORMS}")
