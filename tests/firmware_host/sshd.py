"""A real sshd on loopback, with keys and configuration of its own, and a client configuration that knows it."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from firmware_host.links.link import Options

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if Path(path).exists()), None)

CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
Subsystem sftp internal-sftp
"""

CLIENT = """
Host * !keyless
  IdentityFile {folder}/user_key
Host *
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  User {user}
Host board jump
  HostName 127.0.0.1
  Port {port}
Host behind
  HostName 127.0.0.1
  Port {port}
  ProxyJump jump
Host astray
  HostName 127.0.0.1
  Port {closed}
  ProxyJump jump
Host keyless
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/other_key
"""


@dataclass(frozen=True)
class Server:
    """One sshd, and how to reach it."""

    folder: Path
    port: int
    process: int

    @property
    def command(self) -> str:
        """`ssh` with the configuration that knows this server: the hosts board, jump, behind, astray and keyless."""
        return f"ssh -F {self.folder / 'config'}"

    def options(self, **changes: object) -> Options:
        """To reach the agent of this source tree there."""
        return Options(**{"ssh_command": self.command, "agent": str(self.folder / "edgecl"), **changes})  # type: ignore[arg-type]

    def sessions(self) -> list[int]:
        """The processes that serve connections."""
        return children(self.process)

    def new_host_key(self) -> None:
        """From now on it is another board, as far as one can see."""
        key(self.folder / "host_key")


def key(path: Path) -> None:
    """Make a key pair, in place of one that may be there."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def fingerprint(path: Path) -> str:
    """Of a public key, as OpenSSH tells it."""
    return subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True).stdout.split()[1]


def children(process: int) -> list[int]:
    """Direct children of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(entry.name))
    return found


def know(server: Server) -> None:
    """Write the host key into known_hosts."""
    kind, blob = (server.folder / "host_key.pub").read_text().split()[:2]
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {kind} {blob}\n")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, *, settings: str = "", within: Sequence[str] = ()) -> Iterator[Server]:
    """An sshd whose host key is known, with more settings, and run by another program. Skips the test where there is
    none.
    """
    if not SSHD or not shutil.which("ssh"):
        pytest.skip("sshd and ssh are needed: apt install openssh-server openssh-client")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host_key", "user_key", "other_key"):
        key(folder / name)
    port = free_port()
    (folder / "sshd_config").write_text(CONFIG.format(folder=folder, port=port) + settings)
    (folder / "config").write_text(CLIENT.format(folder=folder, port=port, closed=free_port(), user=getpass.getuser()))
    agent = folder / "edgecl"
    path = os.environ.get("PYTHONPATH", "")
    agent.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {sys.executable} -P -m edgecl "$@"\n')
    agent.chmod(0o755)
    log = folder / "log"
    process = subprocess.Popen([*within, SSHD, "-D", "-f", str(folder / "sshd_config"), "-E", str(log)])
    server = Server(folder, port, process.pid)
    know(server)
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None:
                pytest.skip(f"sshd does not run here: {log.read_text().strip()}")
            time.sleep(0.02)
        yield server
    finally:
        for session in server.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)
        process.terminate()
        process.wait()
