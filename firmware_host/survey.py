"""What a board is before edgecl is on it, asked with a shell script that changes nothing."""

import re
from dataclasses import dataclass
from typing import Final

from edgecl import devices, facts
from edgecl.devices import Profile
from edgecl.errors import ProfileError, StoreError
from firmware_host.remote import Remote
from firmware_host.unit import GROUPS

PYTHON: Final = (3, 11)
"""The oldest Python that runs edgecl."""

SCRIPT: Final = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
say arch "$(uname -m)"
say libc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say user "$(id -un)"
say uid "$(id -u)"
say home "$HOME"
if [ -d /run/systemd/system ]; then say systemd yes; fi
if [ "$(id -u)" = 0 ]; then say sudo root
elif sudo -n true 2>/dev/null; then say sudo free
elif command -v sudo >/dev/null; then say sudo password
else say sudo none; fi
for name in $pythons; do
  if path=$(command -v "$name"); then
    say python "$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2], end="")' 2>/dev/null) $path"
  fi
done
if [ -r /proc/device-tree/model ]; then say model "$(tr -d '\0' </proc/device-tree/model)"; fi
for group in $groups; do
  if getent group "$group" >/dev/null; then say group "$group"; fi
done
for node in /dev/nvmap /dev/nvhost* /dev/nvgpu/*/* /dev/nvidia*; do
  if [ -c "$node" ]; then say device "$node"; fi
done
if [ -n "$store" ]; then folder=$store; else folder=$HOME; fi
while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
say disk "$(df -PT "$folder" | awk 'NR == 2 { print $2, $5 }')"
"""


@dataclass(frozen=True)
class Survey:
    """The answers."""

    arch: str
    libc: tuple[int, int]
    """Version of glibc."""
    user: str
    uid: int
    home: str
    systemd: bool
    sudo: str
    """`root` (no need of it), `free`, `password` or `none`."""
    pythons: tuple[tuple[tuple[int, int], str], ...]
    """Version and path of each Python that is recent enough."""
    model: str
    groups: tuple[str, ...]
    devices: tuple[str, ...]
    """Nodes of an NVIDIA GPU."""
    file_system: str
    free_bytes: int

    @property
    def profile(self) -> Profile:
        """The profile that the board looks like. Raises ProfileError: none fits."""
        found = devices.of_model(self.model, self.arch)
        if found is None:
            raise ProfileError(f"{self.arch}: edgecl is not built for this processor; use a 64-bit system")
        return found


def ask(remote: Remote, *, store: str, python: str = "") -> Survey:
    """Ask a board. `store` may be empty for somewhere in the user's home; `python` names its Python, if not the usual.

    Raises LinkError: no connection. StoreError: a store there would not last. ProfileError: edgecl does not run there.
    """
    names = python or " ".join(["python3", *(f"python3.{minor}" for minor in range(PYTHON[1], 20))])
    values = {"store": store, "pythons": names, "groups": " ".join(GROUPS)}
    return parse(remote.script(SCRIPT, values=values), remote.to.text)


def parse(text: str, where: str) -> Survey:
    """What the script printed. Raises StoreError, ProfileError."""
    told: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, found, value = line.partition("=")
        if found:
            told.setdefault(name, []).append(value)
    one = {name: values[0] for name, values in told.items()}
    libc = re.search(r"glibc (\d+)\.(\d+)", one.get("libc", ""))
    if libc is None:
        raise ProfileError(f"{where}: its C library is not glibc; use Debian, Ubuntu or a system made from them")
    pythons: dict[tuple[int, int], str] = {}
    for line in told.get("python", ()):
        version, _, path = line.partition(" ")
        numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
        if len(numbers) == 2 and numbers >= PYTHON:
            pythons.setdefault((numbers[0], numbers[1]), path)
    if not pythons:
        raise ProfileError(f"{where}: no Python {PYTHON[0]}.{PYTHON[1]} or later; install python3.{PYTHON[1]} there")
    kind, _, free = one.get("disk", "").partition(" ")
    if reason := facts.REFUSED.get(kind):
        raise StoreError(f"{where}: a store cannot lie on {kind}: {reason}; give --store a folder on the board's disk")
    return Survey(
        arch=one.get("arch", ""),
        libc=(int(libc[1]), int(libc[2])),
        user=one.get("user", ""),
        uid=int(one.get("uid", "0")),
        home=one.get("home", ""),
        systemd="systemd" in one,
        sudo=one.get("sudo", "none"),
        pythons=tuple(pythons.items()),
        model=one.get("model", ""),
        groups=tuple(told.get("group", ())),
        devices=tuple(told.get("device", ())),
        file_system=kind,
        free_bytes=1024 * int(free) if free.isdigit() else 0,
    )
