"""`fleet.toml`: the names, addresses and groups of one's devices. Nobody needs one who types addresses.

It is the file that `--fleet` or EDGECL_FLEET names, or else `fleet.toml` in the current folder. docs/formats/fleet.md
tells every field.
"""

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgecl.errors import LinkError, ProfileError
from firmware_host.links.link import Link, Options
from firmware_host.links.table import link_to

FILE: Final = "fleet.toml"
VARIABLE: Final = "EDGECL_FLEET"
MAX_BYTES: Final = 4 << 20

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PERCENT: Final = re.compile(r"(\d{1,3})\s*%")

Share = int | str
"""So many devices, or a part of all: 3, or "25%"."""


class FleetError(ProfileError):
    """`fleet.toml` cannot be used, or does not have what was named."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class Rollout(_Table, frozen=True, kw_only=True):
    """How a bundle comes to several devices."""

    canaries: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Devices that get it first, one after another; the others wait for them."""
    max_in_flight: Share = 1
    """Devices that get it at a time, after that."""
    error_threshold: Share = 0
    """No more devices begin once more of them than this have failed."""
    pause_after_canary: bool = False
    """End after the canaries; the same command later does the others."""


class Defaults(_Table, frozen=True, kw_only=True):
    """What holds for every device that does not say otherwise."""

    agent: str = ""
    """The `edgecl` of the board; looked for where it is empty."""
    store: str = ""
    """The state directory on the board; where it is empty, the agent's own choice."""
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] | None = None
    """For which a new bundle is watched."""


class Group(_Table, frozen=True, kw_only=True):
    """Devices that belong together."""

    rollout: Rollout = Rollout()


class Entry(_Table, frozen=True, kw_only=True):
    """One device of the file."""

    address: str
    groups: tuple[str, ...] = ()
    agent: str | None = None
    store: str | None = None


class _File(_Table, frozen=True, kw_only=True):
    defaults: Defaults = Defaults()
    group: dict[str, Group] = {}
    device: dict[str, Entry] = {}


@dataclass(frozen=True)
class Device:
    """A device as it was named, and how to reach it."""

    name: str
    address: str
    options: Options = Options()  # noqa: RUF009  frozen
    groups: tuple[str, ...] = ()

    def link(self) -> Link:
        """The way there. Raises LinkError: the address is none."""
        return link_to(self.address, self.options)

    @property
    def folder(self) -> str:
        """The name as that of a directory."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.name).strip("._") or "device"


@dataclass(frozen=True)
class Fleet:
    """A file that was read; without one, empty."""

    where: str = ""
    defaults: Defaults = Defaults()  # noqa: RUF009  frozen
    groups: tuple[tuple[str, Rollout], ...] = ()
    devices: tuple[Device, ...] = ()

    def find(self, named: Sequence[str]) -> tuple[Device, ...]:
        """The devices that names, groups and addresses mean, each once, in their order. Raises FleetError."""
        found: dict[str, Device] = {}
        groups = dict(self.groups)
        for name in named:
            if name in groups:
                members = [device for device in self.devices if name in device.groups]
                if not members:
                    raise FleetError(f"{self.where}: no device is in group {name}; name it in the groups of one")
            else:
                members = [device for device in self.devices if device.name == name] or [self._address(name)]
            found |= {device.name: device for device in members}
        return tuple(found.values())

    def one(self, name: str) -> Device:
        """The only device that a name means. Raises FleetError: there are several."""
        found = self.find([name])
        if len(found) > 1:
            raise FleetError(f"{name}: a group of {len(found)} devices; name one of them")
        return found[0]

    def address(self, name: str) -> str | None:
        """Of a device; None where there is none of that name."""
        return next((device.address for device in self.devices if device.name == name), None)

    def rollout(self, named: Sequence[str]) -> Rollout:
        """That of the group, where one was named and nothing else."""
        return dict(self.groups).get(named[0], Rollout()) if len(named) == 1 else Rollout()

    def _address(self, text: str) -> Device:
        agent, store = self.defaults.agent, self.defaults.store
        return Device(text, text, Options(agent=agent, store=Path(store) if store else None))


def load(given: Path | None) -> Fleet:
    """The file that is given, or that of EDGECL_FLEET, or that of the current folder. Raises FleetError."""
    path = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if path is None:
        if not Path(FILE).is_file():
            return Fleet()
        path = Path(FILE)
    return read(path)


def read(path: Path) -> Fleet:
    """The fleet of a file. Raises FleetError: it cannot be read, or says what cannot be."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FleetError(f"{path}: more than {MAX_BYTES} bytes; see docs/formats/fleet.md")
        file = msgspec.convert(tomllib.loads(path.read_text("utf-8")), _File)
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror}; give the file of a fleet") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise FleetError(f"{path}: {error}; see docs/formats/fleet.md") from None
    _check(file, path)
    devices = tuple(_device(name, entry, file.defaults) for name, entry in file.device.items())
    names = dict.fromkeys([*file.group, *(group for device in devices for group in device.groups)])
    groups = tuple((name, file.group.get(name, Group()).rollout) for name in names)
    return Fleet(str(path), file.defaults, groups, devices)


def share(given: Share, of: int, *, up: bool) -> int:
    """So many of `of`; a percentage is rounded up or down. Raises ValueError: it is no share."""
    if isinstance(given, int) and given >= 0:
        return given
    found = _PERCENT.fullmatch(given) if isinstance(given, str) else None
    if isinstance(given, str) and given.isdecimal():
        return int(given)
    if not found or int(found[1]) > 100:
        raise ValueError(f'"{given}" is neither a number of devices nor a part of all; write it like 3 or "25%"')
    return -(-of * int(found[1]) // 100) if up else of * int(found[1]) // 100


def _device(name: str, entry: Entry, defaults: Defaults) -> Device:
    agent = defaults.agent if entry.agent is None else entry.agent
    store = defaults.store if entry.store is None else entry.store
    return Device(name, entry.address, Options(agent=agent, store=Path(store) if store else None), entry.groups)


def _check(file: _File, path: Path) -> None:
    for name in (*file.device, *file.group, *(group for entry in file.device.values() for group in entry.groups)):
        if not _NAME.fullmatch(name):
            raise FleetError(f"{path}: {name!r} is no name; use letters, digits, dots, dashes and underscores")
    if both := file.device.keys() & ({*file.group} | {g for entry in file.device.values() for g in entry.groups}):
        raise FleetError(f"{path}: {min(both)} is a device and a group; give one of them another name")
    for name, entry in file.device.items():
        try:
            link_to(entry.address)
        except LinkError as error:
            raise FleetError(f"{path}: device {name}: {error}") from None
    for name, group in file.group.items():
        for value in (group.rollout.max_in_flight, group.rollout.error_threshold):
            try:
                share(value, 1, up=True)
            except ValueError as error:
                raise FleetError(f"{path}: group {name}: {error}") from None
