"""Running shell scripts on a board that has nothing of ours yet: the system's ssh, plain sh, and tar.

The user's own ssh settings, keys and known hosts decide; nothing here answers a question of ssh.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from edgecl.errors import EdgeclError, LinkError

OPTIONS: Final = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-T")
SSH_FAILED: Final = 255
"""What ssh exits with when it is ssh that failed, not the script."""

CURES: Final = {
    "host key verification failed": "connect once with ssh and compare the fingerprint with the board's",
    "identification has changed": "compare the fingerprints; if the board was installed anew, ssh-keygen -R its name",
    "permission denied": "copy your key there with ssh-copy-id",
    "could not resolve hostname": "give the name or address that ssh knows it by",
    "connection refused": "start the board's ssh server",
    "no route to host": "check that the board is on and in this network",
    "timed out": "check that the board is on and in this network",
}
"""What ssh says -> what helps."""


class ScriptError(EdgeclError):
    """A script on the board failed."""


@dataclass(frozen=True)
class Remote:
    """A board, by ssh."""

    host: str
    """As ssh takes it: a name of the user's settings, or user@host."""
    options: tuple[str, ...] = ()
    """More of ssh's, like `-p 2222`."""
    command: tuple[str, ...] = ("ssh",)
    """What to run as ssh."""
    sudo_password: str | None = field(default=None, repr=False)
    """Of the user there, where sudo asks for one."""

    def script(self, text: str, *, root: bool = False, values: Mapping[str, str] | None = None) -> str:
        """Run a script by sh, with values as its variables, and give what it printed.

        Raises LinkError: no connection. ScriptError: the script failed, in the words of its last line on stderr.
        """
        text = "".join(f"{name}={quoted(value)}\n" for name, value in (values or {}).items()) + text
        if not root:
            return self._run("sh -s", text.encode())
        if self.sudo_password is None:
            as_root = 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'
            return self._run(f"sh -c {quoted(as_root)}", text.encode())  # a login shell may be none of sh's kind
        # -k: sudo asks though it may remember, so that the first line is never taken for one of the script.
        return self._run("sudo -k -S -p '' sh -s", f"{self.sudo_password}\n{text}".encode())

    def unpack(self, folder: str, tar: bytes) -> None:
        """Unpack a tar in a folder of the user's. Raises LinkError, ScriptError."""
        self._run(f"tar -C {quoted(folder)} -xf -", tar)

    def _run(self, command: str, given: bytes) -> str:
        words = [*self.command, *OPTIONS, *self.options, "--", self.host, command]
        try:
            done = subprocess.run(words, input=given, capture_output=True)
        except FileNotFoundError:
            raise LinkError(f"{self.host}: no {self.command[0]} on this computer; install OpenSSH's client") from None
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode == SSH_FAILED:
            raise LinkError(f"{self.host}: {why(said)}")
        if done.returncode:
            last = said.splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise ScriptError(last[0].strip())
        return done.stdout.decode("utf-8", "replace")


def remote(device: str, *, sudo_password: str | None = None) -> Remote:
    """The board of an address: `HOST` or `USER@HOST` as ssh takes it, or `ssh://USER@HOST:PORT`.

    EDGECL_SSH names another ssh, with its options. Raises LinkError: it is no address of ssh's.
    """
    command = tuple(shlex.split(os.environ.get("EDGECL_SSH", ""))) or ("ssh",)
    host, options = device, ()
    if device.startswith("ssh://"):
        try:
            parts = urlsplit(device)
            host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname or ""
            options = ("-p", str(parts.port)) if parts.port else ()
        except ValueError:
            host = ""
    if not host or host.startswith("-") or ":" in host or "/" in host:
        raise LinkError(f"{device}: not reached by ssh; give HOST, USER@HOST or ssh://USER@HOST:PORT")
    return Remote(host, options, command, sudo_password)


def why(said: str) -> str:
    """What ssh said on stderr, in one line with its cure."""
    lines = [line.strip(" @\r") for line in said.splitlines() if line.strip(" @\r")]
    cure = next((cure for words, cure in CURES.items() if words in said.lower()), "try it with ssh itself")
    return f"{(lines or ['ssh failed'])[-1].rstrip('.')}; {cure}"


def quoted(text: str) -> str:
    """One word for a shell. In every shell a login may have, nothing between single quotes means anything."""
    return "'" + text.replace("'", "'\\''") + "'"


def words(texts: Sequence[str]) -> str:
    """Several words for a shell."""
    return " ".join(map(quoted, texts))
