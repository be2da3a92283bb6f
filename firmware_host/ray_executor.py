"""The executor of many machines: tasks of Ray, on the cluster that RAY_ADDRESS names, or on this machine alone.

Ray starts workers, one thread and one core each, and keeps them from task to task. That a worker died is learned from
Ray, and counted here, as the pool does it. Paths in tasks are opened where the task runs: on several machines they lie
on a file system that all have.
"""

import contextlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from edgecl.errors import EdgeclError
from firmware_host.executor import THREADS, Done, Ledger, Progress, TaskBugError, answer

T = TypeVar("T")
R = TypeVar("R")


class RayExecutor:
    """Connects to Ray, and lets go of it when it is closed; a Ray that was there before stays."""

    def __init__(self, workers: int) -> None:
        """Raises EdgeclError: Ray is not installed, or cannot be reached."""
        try:
            import ray
        except ImportError:
            raise EdgeclError("the executor ray needs ray: pip install 'edgecl[ray]'") from None
        self.workers = workers
        self._ray = ray
        self._mine = not ray.is_initialized()
        if self._mine:
            _connect(ray, workers)
        self._run: Any = ray.remote(num_cpus=1, max_retries=0)(answer)
        self._died: tuple[type[Exception], ...] = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.LocalRayletDiedError,
        )

    def map(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        ordered: bool = False,
        progress: Progress = lambda ended: None,
    ) -> Iterator[Done[T, R]]:
        """See `Executor`. Raises TaskBugError."""
        ledger: Ledger[T, R] = Ledger(tasks, workers=self.workers, ordered=ordered, progress=progress)
        busy: dict[Any, int] = {}
        try:
            while True:
                while len(busy) < self.workers and (found := ledger.next()):
                    number, task = found
                    busy[self._run.remote(function, task)] = number
                if not busy:
                    return
                for reference in self._ray.wait(list(busy), num_returns=1)[0]:
                    number = busy.pop(reference)
                    try:
                        result = pickle.loads(self._ray.get(reference))
                    except self._died as error:
                        yield from ledger.died(number, type(error).__name__)
                        continue
                    if isinstance(result, TaskBugError):
                        raise result
                    yield from ledger.ended(number, result)
        finally:
            for reference in busy:
                with contextlib.suppress(Exception):  # it has ended meanwhile
                    self._ray.cancel(reference, force=True)

    def close(self) -> None:
        if self._mine:
            self._ray.shutdown()
        self._mine = False

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _connect(ray: Any, workers: int) -> None:
    """Raises EdgeclError."""
    for name in THREADS:
        os.environ.setdefault(name, "1")  # a Ray that starts here has its workers begin with these
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise EdgeclError(f"Ray cannot be reached: {line}; see RAY_ADDRESS, or take the executor pool") from None
