"""A disk that is full ends a run in a line; what is on it can be read, and the run goes on once there is room."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecl.loop import Loop
from edgecl.settings import Settings

NAMESPACE = ("unshare", "--map-root-user", "--mount")


def test_a_run_survives_a_full_disk(looped: Path, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", mount], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"a small disk to fill needs {error.filename}")
    if tried.returncode:
        pytest.skip(f"a small disk to fill cannot be made here: {tried.stderr.strip()}")

    images = np.random.default_rng(8).integers(0, 256, (6000, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", x=images)
    with Loop(looped, tmp_path / "whole", Settings(sync=True)) as loop:
        for x in images:
            loop.predict(x)
    script = Path(__file__).with_name("full_disk.py")
    paths = map(str, (script, looped, tmp_path / "s.npz", mount))
    done = subprocess.run([*NAMESPACE, sys.executable, "-P", *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *said, digest = done.stdout.splitlines()
    assert digest == loop.state.digest
    assert all("No space left on device" in line or "the disk is full" in line for line in said), said
