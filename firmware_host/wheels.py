"""The wheels that a board installs, brought together on the host by its own pip: the board needs no internet."""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecl import __version__
from edgecl.errors import EdgeclError

OLDEST_LIBC: Final = 17
"""Wheels for glibc 2.17 to 2.x run on 2.x."""


@dataclass(frozen=True)
class Target:
    """What the wheels are for."""

    python: tuple[int, int]
    arch: str
    libc: tuple[int, int]

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags that fit, the best first."""
        many = (f"manylinux_{self.libc[0]}_{minor}_{self.arch}" for minor in range(self.libc[1], OLDEST_LIBC - 1, -1))
        return (*many, f"manylinux2014_{self.arch}", f"linux_{self.arch}")

    @property
    def text(self) -> str:
        """For messages."""
        return f"Python {self.python[0]}.{self.python[1]} on {self.arch} with glibc {self.libc[0]}.{self.libc[1]}"


@dataclass(frozen=True)
class Wheel:
    """A file."""

    path: Path
    sha256: str

    @property
    def is_pip(self) -> bool:
        """Whether it is what installs the others."""
        return self.path.name.startswith("pip-")


def collect(
    target: Target, folder: Path, *, wheel: Path | None, wheelhouse: Path | None, extra: Sequence[str] = ()
) -> tuple[Wheel, ...]:
    """Bring edgecl, what it needs, and pip into a folder, for a board.

    `wheel` is edgecl's own; without it, the wheelhouse or the package index has to have this version. With a wheelhouse
    nothing is asked of the network.

    Raises EdgeclError: a wheel is missing, or is for something else.
    """
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "download"]
    command += ["--dest", str(folder), "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", ".".join(map(str, target.python))]
    for platform in target.platforms:
        command += ["--platform", platform]
    if wheelhouse is not None:
        command += ["--no-index", "--find-links", str(wheelhouse.resolve())]
    own = str(wheel.resolve()) if wheel is not None else f"edgecl=={__version__}"
    done = subprocess.run([*command, own, "pip", *extra], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or ["ERROR: pip failed"]
        raise EdgeclError(
            f"wheels for {target.text}: {said[0].removeprefix('ERROR: ')}; "
            f"{'add it to the wheelhouse' if wheelhouse else 'give --wheel FILE or --wheelhouse DIR'}"
        )
    return tuple(Wheel(path, _digest(path)) for path in sorted(folder.glob("*.whl")))


def python_of(wheel: Path) -> tuple[int, int] | None:
    """The one Python that a wheel is for; None where there are several. Raises EdgeclError: that is no wheel."""
    parts = wheel.name.removesuffix(".whl").split("-")
    if not wheel.name.endswith(".whl") or len(parts) < 5 or not wheel.is_file():
        raise EdgeclError(f"{wheel}: no wheel; make one with make build")
    found = re.fullmatch(r"cp(\d)(\d+)", parts[-3])
    return (int(found[1]), int(found[2])) if found and parts[-2] != "abi3" else None


def own(wheelhouse: Path | None) -> Path | None:
    """Edgecl's own wheel of this version in a wheelhouse, if there is just one."""
    found = sorted(wheelhouse.glob(f"edgecl-{__version__}-*.whl")) if wheelhouse is not None else []
    return found[0] if len(found) == 1 else None


def identity(wheels: Iterable[Wheel], python: str) -> str:
    """What tells one installation from another: the wheels' contents, and the Python that they are installed with."""
    text = "".join(f"{wheel.path.name} {wheel.sha256}\n" for wheel in wheels) + python
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tar(wheels: Iterable[Wheel]) -> bytes:
    """An archive of wheels."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for wheel in wheels:
            file.add(wheel.path, wheel.path.name)
    return archive.getvalue()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
