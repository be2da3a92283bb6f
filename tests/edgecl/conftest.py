"""Real programs for the tests of the runtime, built by torch and executorch in a process of their own."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

BUILDER = Path(__file__).parent / "build_programs.py"
PACKAGES = ("torch", "executorch", "onnx", "onnxscript")


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> Path:
    """The folder that `build_programs.py` fills, kept in pytest's cache while the builder and its packages stay."""
    try:
        versions = "".join(version(package) for package in PACKAGES)
    except PackageNotFoundError as error:
        pytest.skip(f"{error}; pip install 'edgecl[export]' to build the programs")
    key = hashlib.sha256(BUILDER.read_bytes() + versions.encode()).hexdigest()[:16]
    assert pytestconfig.cache is not None
    home = pytestconfig.cache.mkdir("programs")
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest-xdist may want them at once
        folder = home / key
        if not folder.exists():
            shutil.rmtree(building := home / "building", ignore_errors=True)
            building.mkdir()
            built = subprocess.run([sys.executable, BUILDER, building], capture_output=True, text=True)
            assert built.returncode == 0, built.stderr
            building.rename(folder)
    return folder


@pytest.fixture
def vectors(programs: Path) -> Callable[[str, str], list[npt.NDArray[Any]]]:
    """Inputs ("in") and eager outputs ("out") of a method."""
    with np.load(programs / "vectors.npz") as file:
        arrays = dict(file)

    def of(method: str, side: str) -> list[npt.NDArray[Any]]:
        return [arrays[name] for name in arrays if name.startswith(f"{method}.{side}.")]

    return of
