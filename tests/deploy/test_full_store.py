"""A full disk keeps a deployment waiting, or has it refused; the board answers with what it had, or has."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.conftest import MakeBundle
from tests.deploy.forks import version_two
from tests.deploy.full_store import ROOMS_KB, Found
from tests.edgecl.test_full_disk import NAMESPACE

SCRIPT = Path(__file__).with_name("full_store.py")


def test_a_deployment_survives_a_full_disk(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    try:
        tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", mount], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"a small disk to fill needs {error.filename}")
    if tried.returncode:
        pytest.skip(f"a small disk to fill cannot be made here: {tried.stderr.strip()}")
    second = version_two(make_bundle, tmp_path / "two.ecl")
    command = [*NAMESPACE, sys.executable, "-P", *map(str, (SCRIPT, looped, second, mount))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [msgspec.json.decode(line, type=Found) for line in done.stdout.splitlines()]
    print(*found, sep="\n")
    assert {(one.state, one.room_kb) for one in found} == {
        (state, room_kb)
        for state in (
            "VERIFY", "STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "COMMIT", "ROLLBACK", "CLEAN",
        )
        for room_kb in ROOMS_KB
    }  # fmt: skip
    for one in found:
        assert not one.wrong, one
        assert one.outcome in ("committed", "refused", "rolled back"), one
        assert (one.current == "new") == (one.outcome == "committed"), one
        if one.room_kb == 0:
            assert one.codes == (1, 1) and one.full == one.state, f"{one}: it was to wait"
            assert one.outcome == ("rolled back" if one.state == "ROLLBACK" else "committed"), one
