"""Runs a bundle on a disk that gets full: `full_disk.py BUNDLE STREAM MOUNT`, as root of a mount namespace of its own.

For every amount of room that is left, the run must end in one line, leave what can be read, and go on once there is
room. Prints a line of what was said for each, and in the end the digest of the last state.
"""

import os
import subprocess
import sys
from pathlib import Path

from edgecl import journal
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints
from edgecl.errors import EXIT_FAILED
from edgecl.journal import Update

ROOMS_KB = (0, 4, 8, 12, 16, 24, 32, 40, 48, 64, 96)
SIZE_KB = 1024


def edgecl(bundle: Path, stream: Path, where: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgecl", "run", str(bundle), "--source", f"npz:{stream}"]
    return subprocess.run(
        [*command, "--state", str(where), "--checkpoint-every", "20", *more], capture_output=True, text=True
    )


def fill(mount: Path, room_kb: int) -> Path:
    """A file that leaves so much room."""
    status = os.statvfs(mount)
    ballast = mount / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - room_kb * 1024)))
    return ballast


def check(where: Path, bundle: Path) -> None:
    """What is there can be read, and the journal names the states."""
    found = list(journal.read(where / "journal"))
    with open_bundle(bundle) as opened:
        named = {record.digest for record in found if isinstance(record, Update)}
        for path in where.glob("learned/*/[0-9]*.json"):
            for kept in Checkpoints(path.parent).load(path, opened.manifest.layout).learned.states.values():
                assert kept.digest in named


def main(bundle: Path, stream: Path, mount: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "none", str(mount)], check=True)
    where = mount / "state"
    first = edgecl(bundle, stream, where, "--limit", "10")
    assert first.returncode == 0, first.stderr
    for room_kb in ROOMS_KB:
        ballast = fill(mount, room_kb)
        full = edgecl(bundle, stream, where)
        print(full.returncode, full.stderr.splitlines()[-1], flush=True)
        assert full.returncode == EXIT_FAILED, full.stderr + full.stdout
        assert "Traceback" not in full.stderr, full.stderr
        check(where, bundle)
        ballast.unlink()
    last = edgecl(bundle, stream, where)
    assert last.returncode == 0, last.stderr
    check(where, bundle)
    newest = max(where.glob("learned/*/[0-9]*.json"))
    with open_bundle(bundle) as opened:
        print(Checkpoints(newest.parent).load(newest, opened.manifest.layout).learned.states[0].digest)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
