"""Every learner on a random life of runs: compiled as a user would, replayed bit for bit, on one thread and on two.

One learner always, with forms to choose from; with EDGECL_SOAK=1 all of them, often and long.
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


@pytest.fixture(scope="module", params=CASES if SOAK else ["adaptor with forms"])
def learner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a learner, and a bundle with it."""
    learner, more = CASES[request.param]
    folder = projects.write(tmp_path_factory.mktemp("project") / "project", *projects.named(learner, FREELY))
    (folder / "edgecl.toml").write_text((folder / "edgecl.toml").read_text() + more)
    build(project.read(folder), folder / "made.ecl").bundle.close()
    return learner, folder / "made.ecl"


@pytest.mark.parametrize("seed", range(8, 28) if SOAK else (8, 9))
def test_a_learner_learns_the_same_again(learner: tuple[str, Path], tmp_path: Path, seed: int) -> None:
    name, bundle = learner
    samples = "8000" if SOAK else "400"
    command = [sys.executable, str(LIVED), str(bundle), str(tmp_path), str(seed), samples, "red", "green"]
    lived = subprocess.run(command, capture_output=True, text=True)
    assert lived.returncode == 0, lived.stderr
    found = verified(tmp_path)
    assert (found.outcome, found.gaps) == ("bit-equal", []), found
    assert found.updates > 0 or name == "source"
