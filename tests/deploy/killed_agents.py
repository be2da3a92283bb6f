"""Run by test_receiving.py: an agent that receives a bundle is killed at each step that can be seen from outside.

    killed_agents.py FIRST SECOND DIRECTORY EVERY

FIRST answers on a board; SECOND is sent, in parts. For each EVERY-th step an agent is killed there; the next one goes
on with what is there, as the host asks it to; or another host begins, and is not held up.
Prints the number of kills.
"""

import os
import sys
from pathlib import Path

from edgecl import deployer, deployer_start, deployments
from edgecl.board import Board
from edgecl.bundle import open_bundle
from edgecl.handlers import deploying
from edgecl.manifest import MANIFEST
from edgecl.orders import BeginRequest, NumberRequest
from edgecl.store import Store
from tests.deploy import forks
from tests.deploy.killed_deployments import STEPS
from tests.edgecl import stores

PART_BYTES = 4000


def send(store: Path, path: Path, by: str) -> int:
    """What a host does: everything from where the board has got to. The number of the deployment."""
    board = Board(store)
    with open_bundle(path) as bundle:
        files = {bundle.id: (bundle.directory / MANIFEST).read_bytes()}
        files |= {file.sha256: (bundle.directory / file.path).read_bytes() for file in bundle.manifest.files}
        request = BeginRequest(bundle=bundle.id, by=by)
    begun = None
    for digest, content in files.items():
        off = min(board.objects.held(digest), len(content) - 1)
        while off < len(content):
            off = board.objects.receive(digest, off, content[off : off + PART_BYTES], len(content))
        begun = begun or deploying.begin(board, request)
    assert begun
    with deployer_start.alone(store):  # so that no other process carries it on
        deploying.received(board, NumberRequest(number=begun.number))
    return begun.number


def dying(at: int) -> None:
    """From now on, this process dies at that step."""
    count = 0

    def saw(event: str, given: tuple[object, ...]) -> None:
        nonlocal count
        if event in STEPS or (event == "open" and int(str(given[2])) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            count += 1
            if count == at:
                forks.die()

    sys.addaudithook(saw)


def check(store: Path, old: str, new: str) -> None:
    """The board is as it was, but for what has been received."""
    held = Store(store)
    assert held.current == old
    held.open(old).close()
    now = deployments.read(store).deployments[-1]
    assert now.state in ("RECEIVE", "VERIFY") if now.bundle == new else now.bundle == old


def main(first: Path, second: Path, directory: Path, every: int) -> None:
    base = stores.made(directory / "base")
    stores.begun(base, first, state="STAGE", back=True)
    assert forks.ended(forks.forked(lambda: deployer.carry_on(base))) == 0
    old, new = Store(base).current, forks.identity(second)
    kills, at, died = 0, 1, True
    while died:
        store = forks.copied(base, directory / str(at))

        def sent(by: str, path: Path, at: int = 0, store: Path = store) -> int:
            def work() -> None:
                if at:
                    dying(at)
                send(store, path, by)

            return forks.ended(forks.forked(work))

        died = sent("one@here", second, at) < 0
        kills += died
        check(store, old, new)
        again = forks.copied(store, directory / "again")
        assert sent("one@here", second) == 0
        now = deployments.read(store).deployments[-1]
        assert (now.bundle, now.state) == (new, "VERIFY")
        assert not Store(store).missing(Store(store).manifest(new))
        if deployments.read(again).deployments[-1].state == "RECEIVE":  # what a dead host began is in nobody's way
            answer = deploying.begin(Board(again), BeginRequest(bundle=new, by="other@there"))
            left = deployments.read(again)
            assert left.find(answer.number).by == "other@there"
            assert left.find(answer.number - 1).outcome == "superseded"
        forks.removed(store)
        forks.removed(again)
        at += every
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
