"""A run that is killed again and again leaves a sound state directory, and learns what it would have learned."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from edgecl.loop import Loop
from edgecl.settings import Settings

KILLS = 200


def test_a_run_survives_being_killed_at_random_moments(looped: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(2).integers(0, 256, (4000, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    with Loop(looped, tmp_path / "whole", Settings(sync=True, checkpoint_every=10_000)) as loop:
        for x in images:
            loop.predict(x)

    script = Path(__file__).with_name("killed_runs.py")
    paths = map(str, (script, looped, tmp_path / "images.npy", tmp_path / "killed"))
    killed = subprocess.run([sys.executable, "-P", *paths, str(KILLS), "20"], capture_output=True, text=True)
    assert killed.returncode == 0, killed.stdout + killed.stderr
    *rounds, end = killed.stdout.splitlines()
    assert end == f"sound {loop.state.digest}", "a run in pieces learns what a whole one does"
    assert len(rounds) == KILLS
    assert sum(each.isdecimal() for each in rounds) > KILLS / 2, "most kills came before anything was journalled"


def test_growth_merge_and_labels_are_on_the_disk_whole_or_not_at_all(looped: Path, tmp_path: Path) -> None:
    script = Path(__file__).parent / "killed_operations.py"
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(looped), str(tmp_path), "11"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= 15
