"""Run by test_kill_matrix.py: a deployment is killed in each state, before, in and after what the state does.

    killed_deployments.py FIRST SECOND DIRECTORY EVERY

FIRST answers on a board, and has learned; SECOND is deployed. The store is kept as it was when each state was
entered, and each cell begins with a copy of it and a service. A deployer is killed there, by itself and without
warning, once or each time that it comes there; others go on until the deployment is over. Prints a line of JSON a cell.

`before` and `after` mean the state's handler; a number means that many-th step that can be seen from outside, such as
a file that is opened to be written, a rename or a process that is started: the first, a middle one, and the last, or
each EVERY-th where that is not 0.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from edgecl import deployer, deployments
from edgecl.checkpoints import Resumed
from edgecl.deployer import Deployer
from edgecl.deployments import Deployment, State
from edgecl.store import Store
from tests.deploy import forks
from tests.edgecl import stores

STEPS: Final = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "subprocess.Popen", "time.sleep", "socket.connect",
}  # fmt: skip
"""Audit events that are steps; each is raised before it is done."""

ENDLESS: Final = 12
"""Deployers, one after another, that must be enough for any deployment."""

AFTER: Final = 8
"""Samples that are answered when all is over."""


class Cell(msgspec.Struct, frozen=True):
    """A place to be killed at, and what came of it."""

    state: State
    where: str
    again: bool
    kills: int = 0
    attempts: tuple[int, ...] = ()
    """That the record told after each kill."""
    trace: tuple[str, ...] = ()
    outcome: str = ""
    reason: str = ""
    current: str = ""
    learned: str = ""
    """State of the newest checkpoint of the bundle that answers."""
    answered: int = 0
    step: int = 0
    wrong: str = ""
    """What else was not as it should be."""


class Steps:
    """Counts the steps of one state, from its handler on to the next state; at one of them the process dies."""

    def __init__(self, state: State, at: int | None) -> None:
        self.count = 0
        self._at, self._counting = at, False
        plain = deployer.HANDLERS[state]

        def counted(it: Deployer, now: Deployment) -> Any:
            self._counting = True
            return plain(it, now)

        deployer.HANDLERS[state] = counted
        sys.addaudithook(self._saw)
        communicate = subprocess.Popen.communicate

        def waiting(*given: Any, **named: Any) -> Any:
            self._step()
            return communicate(*given, **named)

        subprocess.Popen.communicate = waiting  # type: ignore[method-assign]

    def over(self) -> None:
        """What follows belongs to another state."""
        self._counting = False

    def _saw(self, event: str, given: tuple[Any, ...]) -> None:
        if event in STEPS or (event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            self._step()

    def _step(self) -> None:
        if self._counting:
            self.count += 1
            if self.count == self._at:
                forks.die()


def dying(state: State, where: str) -> None:
    """From now on, this process dies there."""
    if where.isdecimal():
        Steps(state, int(where))
        return
    plain = deployer.HANDLERS[state]

    def dies(it: Deployer, now: Deployment) -> Any:
        if where == "after":
            plain(it, now)
        forks.die()

    deployer.HANDLERS[state] = dies


def kept(store: Path, directory: Path) -> dict[State, int]:
    """Carry a deployment through, and keep the store as it was at each state; how many steps each has."""
    counts: dict[State, int] = {}
    with forks.running(store):
        while (now := deployments.read(store).under_way) is not None:
            forks.copied(store, directory / now.state)
            if now.state == "PROBATION":
                forks.copied(store, directory / "ROLLBACK")
            counts[now.state] = counted(store, now.state)
    back = directory / "ROLLBACK"
    with deployments.changing(back) as change:  # given up on probation
        there = change.control.deployments[-1]
        change.write(change.control.put(msgspec.structs.replace(there, attempts=deployer.ATTEMPTS)))
    with forks.running(back):
        assert forks.ended(forks.forked(lambda: Deployer(back).step())) == 0
    assert deployments.read(back).deployments[-1].state == "ROLLBACK"
    with forks.running(forks.copied(back, directory / "back")):
        counts["ROLLBACK"] = counted(directory / "back", "ROLLBACK")
    return counts


def counted(store: Path, state: State) -> int:
    """The steps of a state, which is gone through in a child."""
    end, begin = os.pipe()

    def work() -> None:
        steps = Steps(state, None)
        Deployer(store).step()
        steps.over()
        os.write(begin, steps.count.to_bytes(4, "little"))

    assert forks.ended(forks.forked(work)) == 0
    count = int.from_bytes(os.read(end, 4), "little")
    os.close(end)
    os.close(begin)
    return count


def cells(counts: dict[State, int], every: int) -> Iterator[Cell]:
    """All of them."""
    for state, count in counts.items():
        steps = range(1, count + 1, every) if every else sorted({1, (count + 1) // 2, count} - {0})
        for where in ("before", "after", *map(str, steps)):
            yield Cell(state, where, False)
            if not where.isdecimal() or every or where == str((count + 1) // 2):
                yield Cell(state, where, True)


def tried(cell: Cell, template: Path, store: Path, first: Resumed) -> Cell:
    """Be killed there, and go on."""
    forks.copied(template, store)
    held = Store(store)
    kills, attempts, wrong = 0, [], []
    with forks.running(store) as service:
        for begun in range(ENDLESS):
            deadly = begun == 0 or cell.again

            def carry(deadly: bool = deadly) -> None:
                if deadly:
                    dying(cell.state, cell.where)
                deployer.carry_on(store)

            code = forks.ended(forks.forked(carry))
            now = deployments.read(store).deployments[-1]
            if problem := unsound(held, now):
                wrong.append(f"after {code} of deployer {begun + 1}: {problem}")
            if code == 0:
                break
            kills += 1
            attempts.append(now.attempts)
        done = deployments.read(store).deployments[-1]
        found = forks.learned(store, held.current).learned
        if done.over:
            stores.until(lambda: stores.status(store), lambda now: now is not None and now.bundle == held.current)
            service.feed(stores.noise(AFTER, 9))
            stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples >= AFTER)
            status = stores.status(store)
            assert status
            if status.bundle != held.current:
                wrong.append(f"{status.bundle} answers")
            answered, step = status.samples, status.step - first.learned.states[0].step
        else:
            answered = step = 0
        left = sorted(path.name for path in store.glob("bundles/*") if path.name not in (done.bundle, done.previous))
        wrong += [f"{name} is left over" for name in left]
    return msgspec.structs.replace(
        cell,
        kills=kills,
        attempts=tuple(attempts),
        trace=tuple(stores.states(done)),
        outcome=done.outcome,
        reason=done.reason,
        current="new" if held.current == done.bundle else "old" if held.current == done.previous else held.current,
        learned="kept" if found.states[0].digest == first.learned.states[0].digest else found.states[0].digest,
        answered=answered,
        step=step,
        wrong="; ".join(wrong),
    )


def unsound(held: Store, now: Deployment) -> str:
    """What is wrong with a store as a deployer left it; empty for nothing."""
    if held.current not in (now.bundle, now.previous):
        return f"{held.current!r} is current"
    try:
        held.open(held.current).close()
        forks.learned(held.directory, now.previous)
        if held.current == now.bundle:
            forks.learned(held.directory, now.bundle)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(first: Path, second: Path, directory: Path, every: int) -> None:
    store = directory / "store"
    begun = forks.prepared(store, first, second)
    known = forks.learned(store, begun.previous)
    assert known.learned.states[0].step, "nothing had been learned"
    todo = list(cells(kept(store, directory), every))
    workers = os.cpu_count() or 1

    def work(which: int) -> None:
        for place, cell in list(enumerate(todo))[which::workers]:
            own = directory / str(place)
            os.write(1, msgspec.json.encode(tried(cell, directory / cell.state, own, known)) + b"\n")
            forks.removed(own)

    children = [forks.forked(partial(work, which)) for which in range(workers)]
    assert [forks.ended(child) for child in children] == [0] * workers


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
