"""What may be wrong with this computer, before a board is asked anything."""

import grp
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from firmware_host.checks import Check, failed, passed, skipped, warned
from firmware_host.links.address import SshAddress
from firmware_host.links.ssh import ssh_command
from firmware_host.remote import Remote

PORTS: Final = ("ttyUSB*", "ttyACM*", "ttyAMA*")
"""Serial lines, below /dev."""

SSH_S: Final = 20.0


def of_ssh(remote: Remote | None) -> Iterator[Check]:
    """Whether ssh is there and can log in to a board, or to boards in general."""
    remote = remote or Remote(SshAddress("", "localhost"))
    program = ssh_command(remote.to, remote.options)[0]
    if shutil.which(program) is None:
        yield failed("ssh", f"no {program}", "install OpenSSH's client")
        return
    version = re.search(r"OpenSSH\S*", _told([program, "-V"], errors=True))
    yield passed("ssh", version[0].rstrip(",") if version else program)
    settings = _settings(remote)
    yield _keys(settings)
    if remote.to.text:
        yield _known(remote, settings)
        yield _strict(settings)


def of_serial(*, wanted: bool, root: Path = Path("/")) -> Iterator[Check]:
    """Whether serial lines can be used. Where no board on one is meant, what is missing is no failure."""
    bad = failed if wanted else warned
    if importlib.util.find_spec("serial") is None:
        yield bad("pyserial", "not installed; boards on a serial line need it", "pip install 'edgecl[serial]'")
    else:
        yield passed("pyserial", "installed")
    ports = sorted(port for pattern in PORTS for port in (root / "dev").glob(pattern))
    closed = [port for port in ports if not os.access(port, os.R_OK | os.W_OK)]
    if closed:
        group = _group(closed[0])
        cure = f"sudo usermod -aG {group} $USER, then log in again"
        yield bad("serial ports", f"{closed[0]}: not for this user, only for group {group}", cure)
    elif ports:
        yield passed("serial ports", ", ".join(port.name for port in ports))
    elif wanted:
        yield failed("serial ports", "none", "plug the adapter in")
    else:
        yield skipped("serial ports", "none")
    if any(_text(comm) == "ModemManager" for comm in (root / "proc").glob("[0-9]*/comm")):
        cure = "sudo systemctl stop ModemManager, or tell it to pass over the adapter with a udev rule"
        yield warned("ModemManager", "running: it talks to serial adapters and disturbs what others send", cure)
    else:
        yield passed("ModemManager", "not running")


def _settings(remote: Remote) -> dict[str, list[str]]:
    """What ssh would do, asked of ssh itself: all of the user's settings are in it."""
    told: dict[str, list[str]] = {}
    for line in _told([*ssh_command(remote.to, remote.options)[:-2], "-G", "--", remote.to.host]).splitlines():
        name, _, value = line.partition(" ")
        told.setdefault(name, []).append(value)
    return told


def _keys(settings: dict[str, list[str]]) -> Check:
    files = [Path(name).expanduser() for name in settings.get("identityfile", ())]
    found = [file for file in files if file.is_file()]
    agent = _told(["ssh-add", "-l"]).count("\n") if os.environ.get("SSH_AUTH_SOCK") else 0
    if found or agent:
        names = [str(file) for file in found] + ([f"{agent} in the agent"] if agent else [])
        return passed("ssh keys", ", ".join(names))
    return failed("ssh keys", "none", "make one with ssh-keygen -t ed25519, and copy it to the board with ssh-copy-id")


def _known(remote: Remote, settings: dict[str, list[str]]) -> Check:
    host = (settings.get("hostkeyalias") or settings.get("hostname") or [remote.to.host])[0]
    port = (settings.get("port") or ["22"])[0]
    name = host if port == "22" or settings.get("hostkeyalias") else f"[{host}]:{port}"
    for kind in ("userknownhostsfile", "globalknownhostsfile"):
        for file in " ".join(settings.get(kind, ())).split():
            if _told(["ssh-keygen", "-F", name, "-f", os.path.expanduser(file)]):
                return passed("host key", f"{name} is in {file}")
    cure = f"ssh {remote.to.text} once, and compare the fingerprint with the one the board shows"
    return failed("host key", f"{name} is not known", cure)


def _strict(settings: dict[str, list[str]]) -> Check:
    value = (settings.get("stricthostkeychecking") or ["ask"])[0]
    if value in ("no", "off", "false", "accept-new"):
        cure = "remove it from ssh's settings: whoever answers at that address would be taken for the board"
        return warned("strict host keys", f"StrictHostKeyChecking is {value}", cure)
    return passed("strict host keys", value)


def _group(port: Path) -> str:
    try:
        return grp.getgrgid(port.stat().st_gid).gr_name
    except (KeyError, OSError):
        return "dialout"


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:  # the process has ended
        return ""


def _told(command: list[str], *, errors: bool = False) -> str:
    """What a program prints; nothing where it fails."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SSH_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr if errors else done.stdout if done.returncode == 0 else ""
