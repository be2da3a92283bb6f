"""Every learner on a random life of runs: compiled as a user would, replayed bit for bit, on one thread and on two.

Two learners always; with EDGECL_SOAK=1 all of them, and long.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from export import project
from export.build import build
from tests.export import projects
from tests.export.test_forms import FORMS
from tests.firmware_host.test_replay import LIVED, SOAK, verified

FREELY = ('memory = "200 MB"', 'memory = "0 MB"')
"""This process has torch in it, more than any budget allows."""

CASES = {
    "tent": ("tent", ""),
    "adaptor with forms": ("adaptor", FORMS),
    "source": ("source", ""),
    "norm": ("norm", ""),
    "ecotta": ("ecotta", ""),
    "ecotta-frozen": ("ecotta-frozen", ""),
    "of one's own": ("mine:Offset", ""),
}


@pytest.mark.parametrize("name", CASES if SOAK else list(CASES)[:2])
def test_a_learner_learns_the_same_again(tmp_path: Path, name: str) -> None:
    learner, more = CASES[name]
    folder = projects.write(tmp_path / "project", *projects.named(learner, FREELY))
    (folder / "edgecl.toml").write_text((folder / "edgecl.toml").read_text() + more)
    build(project.read(folder), tmp_path / "made.ecl").bundle.close()
    for seed in range(8, 28) if SOAK else (8, 9):
        board = tmp_path / str(seed)
        board.mkdir()
        command = [sys.executable, str(LIVED), str(tmp_path / "made.ecl"), str(board), str(seed)]
        lived = subprocess.run([*command, "8000" if SOAK else "400", "red", "green"], capture_output=True, text=True)
        assert lived.returncode == 0, lived.stderr
        found = verified(board)
        assert (found.outcome, found.gaps) == ("bit-equal", []), found
        assert found.updates > 0 or name == "source"
