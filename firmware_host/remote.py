"""Running shell scripts on a board that has nothing of ours yet: the system's ssh, plain sh, and tar.

The user's own ssh settings, keys and known hosts decide; nothing here answers a question of ssh.
"""

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from edgecl.errors import EdgeclError, LinkError
from firmware_host import fleet as fleets
from firmware_host.links.address import SshAddress, parse
from firmware_host.links.link import USUAL, Options
from firmware_host.links.ssh import ssh_command
from firmware_host.links.ssh_failures import SSH_FAILED, explain


class ScriptError(EdgeclError):
    """A script on the board failed."""


@dataclass(frozen=True)
class Remote:
    """A board, by ssh."""

    to: SshAddress
    options: Options = USUAL
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

    @contextlib.contextmanager
    def connected(self) -> Iterator[Self]:
        """The same board, by one connection for all that follows: each by itself takes a slow board a second."""
        with tempfile.TemporaryDirectory(prefix="edgecl-ssh-") as folder:
            base = self.options.ssh_command or os.environ.get("EDGECL_SSH", "") or "ssh"
            own = shlex.join(["-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/c", "-o", "ControlPersist=60"])
            one = replace(self, options=replace(self.options, ssh_command=f"{base} {own}"))
            try:
                yield one
            finally:
                leave = [*ssh_command(self.to, one.options)[:-2], "-O", "exit", "--", self.to.host]
                with contextlib.suppress(OSError):
                    subprocess.run(leave, stdin=subprocess.DEVNULL, capture_output=True)

    def _run(self, command: str, given: bytes) -> str:
        words = [*ssh_command(self.to, self.options), command]
        try:
            done = subprocess.run(words, input=given, capture_output=True)
        except OSError as error:
            raise LinkError(f"{self.to.text}: {words[0]}: {error.strerror}; install OpenSSH") from None
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode == SSH_FAILED:
            raise LinkError(f"{self.to.text}: {explain(self.to.text, SSH_FAILED, said)}")
        if done.returncode:
            last = said.splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise ScriptError(last[0].strip())
        return done.stdout.decode("utf-8", "replace")


def remote(device: str, *, sudo_password: str | None = None) -> Remote:
    """The board of an address, or of a name of fleet.toml. Raises LinkError: it is none, or not one of ssh's."""
    address = parse(device, fleets.load(None).address)
    if not isinstance(address, SshAddress):
        raise LinkError(f"{device}: not reached by ssh; give HOST, USER@HOST or ssh://USER@HOST:PORT")
    return Remote(address, sudo_password=sudo_password)


def quoted(text: str) -> str:
    """One word for a shell. In every shell a login may have, nothing between single quotes means anything."""
    return "'" + text.replace("'", "'\\''") + "'"


def words(texts: Sequence[str]) -> str:
    """Several words for a shell."""
    return " ".join(map(quoted, texts))
