"""A board to provision: this computer behind a real sshd, with a home of its own, or a root of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.firmware_host import sshd

ROOT_OF_ITS_OWN = """\
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for place in proc dev sys "$2"; do mkdir -p "$1/root/$place"; mount --rbind "/$place" "$1/root/$place"; done
root=$1/root
shift 2
cd /
exec chroot "$root" "$@"
"""
"""All of this computer's files, which may be written on and are as they were afterwards; one folder is shared."""


@dataclass(frozen=True)
class Home:
    """Where one logs in as `board`."""

    folder: Path
    """Of the sshd and of ssh's settings."""
    home: Path
    """HOME of those who log in."""

    @property
    def command(self) -> str:
        """What to put into EDGECL_SSH."""
        return f"ssh -F {self.folder / 'config'}"


@contextmanager
def running(folder: Path, home: Path, *, path: str = "", apart: bool = False) -> Iterator[Home]:
    """An sshd that lets this user in, with another HOME, and programs of `path` before the others.

    `apart`: what is written outside of the home's parent is seen by nobody else, and gone at the end.
    """
    folder.mkdir(exist_ok=True)
    within: tuple[str, ...] = ()
    if apart:
        (folder / "root").mkdir()
        within = ("unshare", "--mount", "sh", "-c", ROOT_OF_ITS_OWN, "sh", str(folder / "root"), str(home.parent))
    programs = f" PATH={path}:/usr/bin:/bin:/usr/sbin:/sbin" if path else ""
    with sshd.running(folder, settings=f"SetEnv HOME={home}{programs}\n", within=within):
        yield Home(folder, home)
