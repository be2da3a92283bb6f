"""Deployments that are interrupted at random times leave every board with the old bundle or the new one, in order.

With EDGECL_INTERRUPTIONS and EDGECL_SEED more of them, and others; EDGECL_TALLY names a file for what came of them.
"""

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.conftest import MakeBundle
from tests.deploy.interrupted import Tally
from tests.firmware_host import sshd

SCRIPT = Path(__file__).with_name("interrupted.py")
COUNTS = {"local": 8, "ssh": 4}
BOARDS = 4
"""At most; each has one deployment before, which tells how long they take."""
SEED = "7"
PADDING = 4_000_000
"""Bytes."""


def padded(make_bundle: MakeBundle, path: Path, version: int) -> Path:
    """A bundle that takes a while to send: its program has bytes behind it, which are like no other's."""
    padding = random.Random(version).randbytes(PADDING)
    return make_bundle(path, version=version, damage=lambda program: program + padding)


@pytest.mark.parametrize("way", COUNTS)
def test_no_interruption_harms_a_board(way: str, make_bundle: MakeBundle, tmp_path: Path) -> None:
    if way == "ssh" and not (sshd.SSHD and shutil.which("ssh")):
        pytest.skip("sshd and ssh are needed: apt install openssh-server openssh-client")
    count = int(os.environ.get("EDGECL_INTERRUPTIONS", COUNTS[way]))
    bundles = [padded(make_bundle, tmp_path / f"{version}.ecl", version) for version in (1, 2, 3)]
    given = map(str, (way, count, os.environ.get("EDGECL_SEED", SEED), min(BOARDS, count // 2), tmp_path, *bundles))
    done = subprocess.run([sys.executable, "-P", str(SCRIPT), *given], capture_output=True, text=True)
    found = [msgspec.json.decode(line, type=Tally) for line in done.stdout.splitlines()]
    if where := os.environ.get("EDGECL_TALLY"):
        Path(where).write_bytes(msgspec.json.encode(found))
    print(Counter((one.victim, one.signal, one.state, one.outcome) for one in found))
    assert done.returncode == 0, done.stderr
    assert sum(not one.late for one in found) == count
    assert not [one for one in found if one.wrong]
    assert {one.outcome for one in found} <= {"committed", "refused", "rolled back"}
