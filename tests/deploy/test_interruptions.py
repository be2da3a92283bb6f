"""Deployments that are interrupted at random times leave every board with the old bundle or the new one, in order."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec

from tests.conftest import MakeBundle
from tests.deploy.forks import version_two
from tests.deploy.interrupted import Tally

SCRIPT = Path(__file__).with_name("interrupted.py")
SOAK = bool(os.environ.get("EDGECL_SOAK"))
COUNT = 500 if SOAK else 12
SEED = 7
BOARDS = 4


def test_no_interruption_harms_a_board(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    second = version_two(make_bundle, tmp_path / "two.ecl")
    given = map(str, (COUNT, SEED, BOARDS, tmp_path, looped, second))
    done = subprocess.run([sys.executable, "-P", str(SCRIPT), *given], capture_output=True, text=True)
    found = [msgspec.json.decode(line, type=Tally) for line in done.stdout.splitlines()]
    if where := os.environ.get("EDGECL_TALLY"):
        Path(where).write_bytes(msgspec.json.encode(found))
    print(Counter((one.victim, one.signal, one.state, one.outcome) for one in found))
    assert done.returncode == 0, done.stderr
    assert len(found) == COUNT
    assert not [one for one in found if one.wrong]
    assert {one.outcome for one in found} <= {"committed", "refused", "rolled back"}
