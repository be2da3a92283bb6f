"""Runs one function over many tasks, one a device: here, in processes, or on a cluster, always with the same results.

`EXECUTORS` is the table. Whichever it is:

* a task is taken from its iterable only when a worker is free, and a result waits only for those in front of it;
* an EdgeclError is the result of its task, and the others go on; any other exception is a bug, and is raised with the
  traceback of the worker;
* a worker that dies is replaced, and its task done again; a task that DEATHS workers died of has a WorkerError for a
  result;
* leaving the loop over the results, by Ctrl-C too, ends what is under way.
"""

import os
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from edgecl.errors import EXIT_USAGE, EdgeclError

T = TypeVar("T")
R = TypeVar("R")

DEATHS: Final = 3
"""Workers that a task may cost. One may be the kernel's choice when memory is short; three are the task's doing."""

AHEAD: Final = 2
"""Tasks for each worker that may be finished or under way before one that is still awaited."""

THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that keep a worker to one thread: there is a worker for each core."""

Progress = Callable[[int], object]
"""Gets how many tasks have ended, as each does."""


class WorkerError(EdgeclError):
    """The process that did a task died, and so did those that did it again."""


class ExecutorError(EdgeclError):
    """There is no such executor: name another."""

    exit_code = EXIT_USAGE


class TaskBugError(Exception):
    """A task raised what no task should. The message has the traceback of the worker."""


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """One task and what came of it."""

    number: int
    """Of the task, from 0."""
    task: T
    result: R | EdgeclError


class Executor(Protocol):
    """Several workers. Close it, or use `with`; one `map` runs at a time."""

    workers: int

    def map(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        ordered: bool = False,
        progress: Progress = lambda ended: None,
    ) -> Iterator[Done[T, R]]:
        """What a pure function gives for each task, as they end, or in the order of the tasks.

        The function, tasks and results are pickled: the function is one of a module. No more tasks are under way than
        there are workers; with `ordered`, no more than AHEAD times as many are finished or under way.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...

    def __enter__(self) -> "Executor": ...

    def __exit__(self, *error: object) -> None: ...


class Here:
    """This process, a task after the other. Nothing is pickled, and nobody survives a crash."""

    workers = 1

    def map(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        ordered: bool = False,
        progress: Progress = lambda ended: None,
    ) -> Iterator[Done[T, R]]:
        for number, task in enumerate(tasks):
            try:
                result: R | EdgeclError = function(task)
            except EdgeclError as error:
                result = error
            progress(number + 1)
            yield Done(number, task, result)

    def close(self) -> None:
        pass

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        pass


Attempt = tuple[int, Any]
"""Number of a task, and the task."""


class Ledger(Generic[T, R]):
    """Which tasks are to be done next, and whose results may be given: what executors with workers have in common."""

    def __init__(self, tasks: Iterable[T], *, workers: int, ordered: bool, progress: Progress) -> None:
        self._left = enumerate(tasks)
        self._again: list[tuple[int, T]] = []
        self._ordered, self._most, self._progress = ordered, workers * AHEAD, progress
        self._under_way: dict[int, T] = {}
        self._held: dict[int, Done[T, R]] = {}
        self._deaths: dict[int, int] = {}
        self._following = self._ended = 0
        self._dry = False

    def next(self) -> tuple[int, T] | None:
        """A task to begin now; None where none may."""
        if self._again:
            number, task = self._again.pop()
        elif self._dry or (self._ordered and len(self._under_way) + len(self._held) >= self._most):
            return None
        else:
            found = next(self._left, None)
            if found is None:
                self._dry = True
                return None
            number, task = found
        self._under_way[number] = task
        return number, task

    def ended(self, number: int, result: R | EdgeclError) -> Iterator[Done[T, R]]:
        """A task has its result; what may be given now."""
        self._deaths.pop(number, None)
        self._held[number] = Done(number, self._under_way.pop(number), result)
        self._ended += 1
        self._progress(self._ended)
        if not self._ordered:
            yield self._held.pop(number)
        while self._following in self._held:
            self._following += 1
            yield self._held.pop(self._following - 1)

    def died(self, number: int, how: str) -> Iterator[Done[T, R]]:
        """The worker of a task has died: it is done again, or told as what it is."""
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] < DEATHS:
            self._again.append((number, self._under_way.pop(number)))
            return
        error = WorkerError(
            f"{DEATHS} processes died of it, the last by {how}; look for want of memory, or leave it out"
        )
        yield from self.ended(number, error)


def answer(function: Callable[[T], R], task: T) -> bytes:
    """In a worker: what a function gives for a task, pickled; of a bug, a TaskBugError."""
    try:
        try:
            return pickle.dumps(function(task))
        except EdgeclError as error:
            return pickle.dumps(_portable(error))
    except Exception:
        return pickle.dumps(TaskBugError(f"in a worker:\n\n{traceback.format_exc()}"))


def _portable(error: EdgeclError) -> EdgeclError:
    """An error that arrives as it is; one that cannot be pickled arrives as its message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        plain = EdgeclError(str(error))
        plain.exit_code = error.exit_code
        return plain
    return error


def cores() -> int:
    """Of this machine, that this process may use."""
    return len(os.sched_getaffinity(0))


def _here_or_pool(workers: int) -> AbstractContextManager[Executor]:
    if workers == 1:
        return Here()
    from firmware_host.pool import Pool

    return Pool(workers)


def _ray(workers: int) -> AbstractContextManager[Executor]:
    from firmware_host.ray_executor import RayExecutor

    return RayExecutor(workers)


EXECUTORS: Final[dict[str, Callable[[int], AbstractContextManager[Executor]]]] = {
    "pool": _here_or_pool,  # processes of this machine; with one worker, this one
    "ray": _ray,  # the cluster that RAY_ADDRESS names, or this machine
}


def open_executor(name: str, workers: int) -> AbstractContextManager[Executor]:
    """One of EXECUTORS; workers end with its `with` block. Raises ExecutorError."""
    if name not in EXECUTORS:
        raise ExecutorError(f"executor {name}: unknown; choose {' or '.join(EXECUTORS)}")
    if workers < 1:
        raise ExecutorError(f"{workers} workers: give 1 or more")
    return EXECUTORS[name](workers)
