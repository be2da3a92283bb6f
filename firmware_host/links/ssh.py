"""The agent of a board that `ssh` reaches: the system's OpenSSH, so the user's keys, aliases, jump hosts and known host
keys are what they are in a terminal. It asks nothing, and accepts no unknown host key by itself.
"""

import os
import shlex
from dataclasses import dataclass
from typing import Final

from edgecl.errors import LinkError
from firmware_host.links.address import SshAddress
from firmware_host.links.link import USUAL, Options
from firmware_host.links.process import Process
from firmware_host.links.ssh_failures import explain

CONNECT_S: Final = 10
SERVER_ALIVE_S: Final = 5
"""Asked of a silent server, three times; a network that has gone ends ssh after 15 seconds."""

_OPTIONS: Final = (
    "BatchMode=yes",
    f"ConnectTimeout={CONNECT_S}",
    f"ServerAliveInterval={SERVER_ALIVE_S}",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",  # those of a configuration may be taken by the user's own session
    "ForwardAgent=no",
    "ForwardX11=no",
    "RemoteCommand=none",
    "LogLevel=INFO",  # why it failed is read from what it says
)

INSTALLED: Final = ("/opt/edgecl/bin/edgecl", '"$HOME"/.local/share/edgecl/bin/edgecl', "edgecl")
"""Where `edgecl provision` puts it, as a shell's words, and wherever else the shell finds it."""


def ssh_command(to: SshAddress, options: Options) -> list[str]:
    """`ssh` with all its options and the host, ready for a remote command."""
    command = shlex.split(options.ssh_command or os.environ.get("EDGECL_SSH", "")) or ["ssh"]
    command += ["-T", *(part for option in _OPTIONS for part in ("-o", option))]
    if to.port is not None:
        command += ["-p", str(to.port)]
    if to.user:
        command += ["-l", to.user]
    return [*command, "--", to.host]


def remote_command(options: Options) -> str:
    """What runs on the board: the first agent that is there. Any login shell understands it."""
    agents = (shlex.quote(options.agent),) if options.agent else INSTALLED
    store = f" --store {shlex.quote(str(options.store))}" if options.store else ""
    script = (
        f'for e in {" ".join(agents)}; do command -v "$e" >/dev/null 2>&1 && exec "$e" agent{store}; done; '
        "echo edgecl: not installed >&2; exit 127"
    )
    return f"exec sh -c {shlex.quote(script)}"


class _Session(Process):
    def __init__(self, to: SshAddress, options: Options) -> None:
        command = [*ssh_command(to, options), remote_command(options)]
        try:
            super().__init__(command, stall_s=options.stall_s)
        except OSError as error:
            raise LinkError(
                f"{to.text}: {command[0]}: {error.strerror}; install OpenSSH, or name another with --ssh-command"
            ) from None
        self._to, self._options = to, options

    def failure(self, found: str) -> LinkError:
        if found == "silent":
            self.give_up()
            return LinkError(
                f"{self._to.text}: the connection is open, but nothing came for {self._options.stall_s:g} s; look "
                "after board and network, and run the same command again"
            )
        return LinkError(f"{self._to.text}: {explain(self._to.text, *self.outcome())}")


@dataclass(frozen=True)
class Ssh:
    """An agent that ssh starts."""

    to: SshAddress
    options: Options = USUAL

    @property
    def address(self) -> str:
        return self.to.text

    def open(self) -> _Session:
        return _Session(self.to, self.options)
