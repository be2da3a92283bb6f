"""A real sshd on loopback whose users have a home of their own, or a root of their own: a board to provision."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Server:
    """A running sshd."""

    port: int
    folder: Path
    home: Path
    """HOME of those who log in."""

    @property
    def command(self) -> str:
        """What to put into EDGECL_SSH."""
        return f"ssh -F {self.folder / 'config'}"


ROOT_OF_ITS_OWN = """set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for place in proc dev sys "$2"; do mkdir -p "$1/root/$place"; mount --rbind "/$place" "$1/root/$place"; done
shift 2
cd /
exec chroot "$OLDPWD/root" "$@"
"""
"""All of this computer's files, which may be written on and are as they were afterwards; one folder is shared."""


@contextmanager
def running(folder: Path, home: Path, *, path: str = "", apart: bool = False) -> Iterator[Server]:
    """An sshd that lets this user in, with another HOME, and programs of `path` before the others.

    `apart`: what is written outside of the home's parent is seen by nobody else, and gone at the end.
    """
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd; install openssh-server")
    folder.mkdir(exist_ok=True)
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n Port {port}\n HostKeyAlias [127.0.0.1]:{port}\n"
        f"Host *\n IdentityFile {folder / 'user'}\n IdentitiesOnly yes\n UserKnownHostsFile {folder / 'known_hosts'}\n"
        " GlobalKnownHostsFile /dev/null\n"
    )
    settings = (
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized_keys'}\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
        f"SetEnv HOME={home}{f' PATH={path}:/usr/bin:/bin:/usr/sbin:/sbin' if path else ''}\n"
    )
    (folder / "sshd_config").write_text(settings)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    command = [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
    if apart:
        (folder / "root").mkdir()
        script = ROOT_OF_ITS_OWN.replace("$OLDPWD", str(folder / "root"))
        command = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder / "root"), str(home.parent), *command]
    process = subprocess.Popen(command, stderr=(folder / "log").open("wb"))
    try:
        _wait(process, port, folder / "log")
        yield Server(port, folder, home)
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(500):
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()}")
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise AssertionError("sshd does not listen")
