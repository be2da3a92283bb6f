"""The files that make edgecl a service of a board, from the templates in `edgecl/system`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from edgecl.devices import Profile

SPARE_BYTES: Final = 64 << 20
"""Beside what the two processes may have resident: files that they read are counted to the service as well."""

RESERVED_BYTES: Final = 256 << 20
"""Memory that a process asks for and does not touch, stacks of threads above all."""

GROUPS: Final = ("video", "render", "gpio")
"""Groups that give access to cameras, to what the board computes with, and to pins."""


@dataclass(frozen=True)
class Place:
    """Where things are on the board."""

    venv: str
    store: str


def service(place: Place, profile: Profile, *, groups: Sequence[str] = (), devices: Sequence[str] = ()) -> str:
    """The unit of the system's service.

    `groups` are those of GROUPS that the board has: systemd starts no service with a group that is not there.
    `devices` are the nodes that it may open besides cameras.
    """
    return _filled("edgecl.service", _values(place, profile, groups, devices))


def user_service(place: Place, profile: Profile) -> str:
    """The unit of a user's own service, without root."""
    return _filled("edgecl-user.service", _values(place, profile, (), ()))


def sysusers(place: Place) -> str:
    """The service's user, for systemd-sysusers."""
    return _filled("sysusers.conf", {"STORE": place.store})


def tmpfiles(place: Place) -> str:
    """The service's folders, for systemd-tmpfiles."""
    return _filled("tmpfiles.conf", {"STORE": place.store})


def _values(place: Place, profile: Profile, groups: Sequence[str], devices: Sequence[str]) -> dict[str, str]:
    both = 2 * profile.budget_bytes
    # A GPU's driver reserves many times what it uses.
    data = "" if profile.providers else f"LimitDATA={both + RESERVED_BYTES}"
    return {
        "VENV": place.venv,
        "STORE": place.store,
        "BUDGET": str(profile.budget_bytes),
        "HIGH": str(both + SPARE_BYTES),
        "MAX": str(both + 2 * SPARE_BYTES),
        "DATA": data,
        "GROUPS": f"SupplementaryGroups={' '.join(groups)}" if groups else "",
        "DEVICES": "\n".join(f"DeviceAllow={device} rw" for device in devices),
    }


def _filled(template: str, values: Mapping[str, str]) -> str:
    """A line whose names all have empty values is left out."""
    lines = []
    for line in (files("edgecl") / "system" / template).read_text("utf-8").splitlines():
        new = re.sub(r"@([A-Z]+)@", lambda name: values[name[1]], line)
        lines += [new] if new or not line else []
    return "\n".join(lines) + "\n"
