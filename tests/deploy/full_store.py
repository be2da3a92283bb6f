"""Deploys on a disk that gets full: `full_store.py FIRST SECOND MOUNT`, as root of a mount namespace of its own.

In each state, and with no room or a little, deployers come to nothing or to an end; the bundle before is still the
current one, or the new one where it had become that. Once there is room, the deployment comes to its end. Prints a line
of JSON for each.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from edgecl import deployer, deployments
from edgecl.deployments import BEFORE_SWITCH, State
from edgecl.store import Store
from tests.deploy import forks
from tests.deploy.killed_deployments import kept, unsound
from tests.edgecl import stores
from tests.edgecl.full_disk import fill

SIZE: Final = "96m"
"""A deployment is refused where less than 64 MiB are free."""

ROOMS_KB: Final = (0, 24)
DEPLOYERS: Final = 2
"""That try while there is no room."""


class Found(msgspec.Struct, frozen=True):
    """What came of a state."""

    state: State
    room_kb: int
    codes: tuple[int, ...]
    """How the deployers ended while there was no room."""
    full: State
    """Where the deployment was then."""
    outcome: str
    reason: str
    current: str
    wrong: str


def tried(state: State, template: Path, mount: Path, room_kb: int) -> Found:
    """Fill the disk, deploy, make room, deploy."""
    store = forks.copied(template, mount / "tried")
    held, wrong = Store(store), []
    with forks.running(store) as service:
        ballast = fill(mount, room_kb)
        codes = [forks.ended(forks.forked(lambda: deployer.carry_on(store))) for _ in range(DEPLOYERS)]
        now = deployments.read(store).deployments[-1]
        wrong.append(unsound(held, now))
        if state in BEFORE_SWITCH and now.state in (*BEFORE_SWITCH, "CLEAN") and held.current != now.previous:
            wrong.append(f"{held.current} is current")
        ballast.unlink()
        forks.ended(forks.forked(lambda: deployer.carry_on(store)))
        done = deployments.read(store).deployments[-1]
        wrong.append(unsound(held, done))
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.bundle == held.current)
        service.feed(stores.noise(4, 3))
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples >= 4)
    current = "new" if held.current == done.bundle else "old"
    forks.removed(store)
    return Found(
        state=state,
        room_kb=room_kb,
        codes=tuple(codes),
        full=now.state,
        outcome=done.outcome,
        reason=done.reason,
        current=current,
        wrong="; ".join(one for one in wrong if one),
    )


def main(first: Path, second: Path, mount: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(mount)], check=True)
    store = mount / "store"
    forks.prepared(store, first, second)
    for state in kept(store, mount):
        for room_kb in ROOMS_KB:
            found = tried(state, mount / state, mount, room_kb)
            print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
