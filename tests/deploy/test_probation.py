"""A bundle that passes its trial and then does badly is rolled back by itself, for a reason that is told."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecl import answer, core, deployments
from edgecl.deployer import carry_on
from edgecl.manifest import Guard
from edgecl.service import Service
from edgecl.store import Store
from tests.conftest import MakeBundle
from tests.deploy import forks
from tests.edgecl import stores

PROBATION_S = 120.0
"""Long: what is wrong is to end it."""

Changed = Callable[[Service], object]


def with_the_second(service: Service, do: Callable[[int], object]) -> None:
    """Do something at each sample that the second bundle answers."""
    take, count = service.take, 0

    def taken(item: Any) -> None:
        nonlocal count
        if service.status().version == 2:
            count += 1
            do(count)
        take(item)

    service.take = taken  # type: ignore[method-assign]


def crashes(service: Service) -> None:
    def third(count: int) -> None:
        if count == 3:
            forks.die()

    with_the_second(service, third)


def is_slow(service: Service) -> None:
    plain = answer.answer_of

    def slow(*given: Any) -> Any:
        if service.status().version == 2:
            time.sleep(0.03)
        return plain(*given)

    vars(core)["answer_of"] = slow


def eats_memory(service: Service) -> None:
    eaten: list[bytes] = []
    with_the_second(service, lambda count: eaten.append(b"\1" * (8 << 20)) if count < 20 else None)


@contextlib.contextmanager
def kept_running(store: Path, changed: Changed) -> Iterator[None]:
    """A service that gets samples, and is started again when it ends."""
    ending = threading.Event()
    number = 0

    def keep(service: forks.Running) -> None:
        nonlocal number
        while not ending.is_set():
            try:
                service.feed(stores.noise(4, number))
                number += 1
                ending.wait(0.01)
            except BrokenPipeError:
                service.close()
                service = forks.Running(store, changed=changed)
        service.close()

    first = forks.Running(store, changed=changed)
    stores.until(lambda: stores.status(store), lambda now: now is not None and bool(now.bundle))
    thread = threading.Thread(target=keep, args=(first,))
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


GUARD = Guard(canary_every=0, canary_floor=0.0, entropy_floor=2.0, window=4)
"""More than the entropy of four classes can be: every update is taken back."""


@pytest.mark.parametrize(
    ("changed", "how", "reason"),
    [
        (crashes, {}, "the service ended again and again while the bundle was on probation"),
        (is_slow, {}, "an answer takes "),
        (eats_memory, {"memory_budget_bytes": 150 << 20}, "MB resident, the budget is 157.3 MB"),
        (lambda service: None, {"guard": GUARD}, "the guard took what it learned back "),
    ],
    ids=["crashes", "slow", "memory", "guard"],
)
def test_what_does_badly_is_rolled_back(
    changed: Changed, how: dict[str, Any], reason: str, looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    second = forks.version_two(make_bundle, tmp_path / "two.ecl", **how)
    begun = forks.prepared(store, looped, second, probation_s=PROBATION_S)
    before = forks.learned(store, begun.previous).learned.states[0].step
    with kept_running(store, changed):
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples > 20)
        assert forks.ended(forks.forked(lambda: carry_on(store))) == 0
        done = deployments.read(store).find(begun.number)
        answers = stores.until(
            lambda: stores.status(store), lambda now: now is not None and bool(now.bundle) and now.samples > 0
        )
    assert (done.outcome, Store(store).current) == ("rolled back", begun.previous)
    assert reason in done.reason
    assert stores.states(done)[-4:] == ["PROBATION", "ROLLBACK", "CLEAN", "END"]
    assert answers and answers.bundle == begun.previous
    assert forks.learned(store, begun.previous).learned.states[0].step >= before
