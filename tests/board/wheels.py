"""The wheels that a board installs, brought together here: edgecl's own for 64-bit Arm, and all it depends on."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.board import machine

DIST: Final = machine.ROOT / "dist"
FOLDER: Final = machine.FOLDER / "wheels"
PYTHON: Final = "3.11"
"""The board's."""

PLATFORMS: Final = ("linux_aarch64", "manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, 37)))
"""What a Debian 12 takes: its glibc is 2.36."""


def own() -> Path:
    """The wheel of `make wheel-arm64`. Raises FileNotFoundError with the line that says how to make it."""
    tag = f"cp{PYTHON.replace('.', '')}"
    found = sorted(DIST.glob(f"edgecl-*-{tag}-{tag}-linux_aarch64.whl"))
    if not found:
        raise FileNotFoundError(
            f"{DIST}: no wheel for Python {PYTHON} on 64-bit Arm; make wheel-arm64 with that Python"
        )
    return found[-1]


def fetch() -> Path:
    """A folder with all wheels and pip's own, for `edgecl provision`; fetched again where edgecl's has changed."""
    wheel = own()
    folder = FOLDER / hashlib.sha256(wheel.read_bytes()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    shutil.rmtree(FOLDER, ignore_errors=True)
    part = FOLDER / "part"
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={PYTHON}",
         *platforms, f"--dest={part}", str(wheel), "pip"],
        check=True,
    )  # fmt: skip
    part.rename(folder)
    return folder
