"""An agent that is killed while it receives a bundle has harmed nothing, and the next one goes on."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import MakeBundle
from tests.deploy.forks import version_two

SCRIPT = Path(__file__).with_name("killed_agents.py")
EVERY = 1 if os.environ.get("EDGECL_SOAK") else 3


def test_what_is_received_survives_the_death_of_the_agent(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    second = version_two(make_bundle, tmp_path / "two.ecl")
    given = map(str, (looped, second, tmp_path, EVERY))
    done = subprocess.run([sys.executable, "-P", str(SCRIPT), *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) >= 30 / EVERY
