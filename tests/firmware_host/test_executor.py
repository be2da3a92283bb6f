"""Executors: whichever it is, the results are the same, whatever becomes of workers."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecl.errors import StoreError
from firmware_host.executor import AHEAD, Done, Executor, ExecutorError, Here, TaskBugError, WorkerError, open_executor
from tests.firmware_host import tasks

WORKERS = 2


@pytest.fixture(scope="module", params=["pool", "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    with open_executor(request.param, WORKERS) as opened:
        yield opened


def results(found: Iterator[Done[Any, Any]]) -> list[Any]:
    return [done.result for done in found]


def test_results_are_those_of_one_process(executor: Executor) -> None:
    here = [(done.number, done.task, done.result) for done in Here().map(tasks.double, range(20))]
    found = [(done.number, done.task, done.result) for done in executor.map(tasks.double, range(20))]
    assert sorted(found) == here


def test_results_come_in_the_order_of_the_tasks_or_as_they_end(executor: Executor, tmp_path: Path) -> None:
    waiting = [(tmp_path, number) for number in range(4)]
    as_they_end = [done.number for done in executor.map(tasks.first_is_last, waiting)]
    assert sorted(as_they_end) == [0, 1, 2, 3] and as_they_end[0] != 0
    for mark in tmp_path.iterdir():
        mark.unlink()
    ended: list[int] = []
    found = executor.map(tasks.first_is_last, waiting, ordered=True, progress=ended.append)
    assert [done.number for done in found] == [0, 1, 2, 3]
    assert ended == [1, 2, 3, 4]


@pytest.mark.parametrize("ordered", [False, True], ids=["as they end", "in order"])
def test_no_more_tasks_are_taken_than_there_are_workers(executor: Executor, ordered: bool) -> None:
    taken = given = most = 0

    def source() -> Iterator[int]:
        nonlocal taken, most
        for number in range(30):
            taken += 1
            most = max(most, taken - given)
            yield number

    for done in executor.map(tasks.large, source(), ordered=ordered):
        given += 1
        assert isinstance(done.result, bytes) and len(done.result) == 1 << 20
    assert (taken, given) == (30, 30)
    assert WORKERS <= most <= WORKERS * (AHEAD if ordered else 1)


def test_what_a_task_refuses_is_its_result(executor: Executor) -> None:
    found = results(executor.map(tasks.refuse_odd, range(4), ordered=True))
    assert found[::2] == [0, 2]
    for error in found[1::2]:
        assert isinstance(error, StoreError) and "odd; give an even one" in str(error)
    (worse,) = results(executor.map(tasks.refuse_strangely, [1]))
    assert str(worse) == "strange 1" and worse.exit_code == 5, "an error that cannot be pickled arrives as its message"


@pytest.mark.parametrize("task", [tasks.bug, tasks.unpicklable])
def test_a_bug_is_raised_where_it_is_called(executor: Executor, task: Any) -> None:
    with pytest.raises(TaskBugError, match="Traceback"):
        list(executor.map(task, range(3)))
    assert results(executor.map(tasks.double, [4])) == [8], "it goes on"


def test_a_worker_that_is_killed_costs_nothing_but_time(executor: Executor, tmp_path: Path) -> None:
    given = [(tmp_path, number, times) for number, times in enumerate([0, 1, 0, 2, 0])]
    assert results(executor.map(tasks.dies, given, ordered=True)) == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.iterdir())) == 5 + 3


def test_a_task_that_kills_its_workers_is_told_and_the_others_go_on(executor: Executor, tmp_path: Path) -> None:
    given = [(tmp_path, number, times) for number, times in enumerate([0, 99, 0])]
    one, error, three = results(executor.map(tasks.dies, given, ordered=True))
    assert (one, three) == (0, 2)
    assert isinstance(error, WorkerError) and "3 processes died of it" in str(error) and "\n" not in str(error)
    assert len(list(tmp_path.glob("1-*"))) == 3


def test_workers_are_processes_of_one_thread_and_stay(executor: Executor) -> None:
    found = results(executor.map(tasks.process, range(8))) + results(executor.map(tasks.process, range(8)))
    assert {threads for _, threads in found} == {"1"}
    assert os.getpid() not in {process for process, _ in found}
    assert len({process for process, _ in found}) <= WORKERS + 2  # Ray may begin one that it has no use for


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_what_is_under_way(executor: Executor, interruptible: None, tmp_path: Path) -> None:
    def interrupt() -> None:
        until(lambda: len(list(tmp_path.glob("*.pid"))) >= WORKERS)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        list(executor.map(tasks.waits, [tmp_path] * 9))
    working = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(working) == WORKERS
    until(lambda: not any(map(alive, working)))
    assert results(executor.map(tasks.double, [4])) == [8], "it goes on"


def killed_when(condition: Callable[[], bool]) -> None:
    until(condition)
    os.kill(os.getpid(), signal.SIGKILL)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is sure to come."""
    last = time.monotonic() + tasks.PATIENCE_S
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.02)


def alive(process: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def test_leaving_the_results_ends_what_is_under_way(tmp_path: Path) -> None:
    with open_executor("pool", 2) as pool:
        for done in pool.map(tasks.waits_but_first, [(tmp_path, number) for number in range(9)]):
            assert done.number == 0
            break
        assert results(pool.map(tasks.double, [4])) == [8]
    for path in tmp_path.glob("*.pid"):
        assert not alive(int(path.stem))


def test_a_worker_that_died_between_two_tasks_is_replaced() -> None:
    with open_executor("pool", 2) as pool:
        before = {process for process, _ in results(pool.map(tasks.process, range(8)))}
        for process in before:
            os.kill(process, signal.SIGKILL)
        after = {process for process, _ in results(pool.map(tasks.process, range(8)))}
    assert not before & after


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """However that ends: nothing of it may go on learning behind somebody's back."""
    parent = os.fork()
    if not parent:
        try:
            with open_executor("pool", 2) as pool:
                threading.Thread(target=killed_when, args=(lambda: len(list(tmp_path.glob("*.pid"))) == 2,)).start()
                list(pool.map(tasks.waits, [tmp_path] * 2))
        finally:
            os._exit(1)
    os.waitpid(parent, 0)
    until(lambda: not any(alive(int(path.stem)) for path in tmp_path.glob("*.pid")))


def test_one_worker_is_this_process() -> None:
    with open_executor("pool", 1) as one:
        assert results(one.map(tasks.process, [0]))[0][0] == os.getpid()


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(ExecutorError, match="choose pool or ray"):
        open_executor("threads", 2)
    with pytest.raises(ExecutorError, match="give 1 or more"):
        open_executor("pool", 0)
