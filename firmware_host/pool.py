"""The executor of one machine: processes of its own, each with one thread, replaced when they die.

`concurrent.futures` gives up all tasks when one worker dies; so the pool is written here. A worker is a fresh
interpreter (spawn): it has nothing of this process but what it is sent, so a caller may have threads and open files.
Parent and worker talk through one pipe. A worker whose parent is gone ends, too.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from multiprocessing.connection import Connection, wait
from typing import Any, Final, TypeVar

from firmware_host.executor import THREADS, Done, Ledger, Progress, TaskBugError, answer

T = TypeVar("T")
R = TypeVar("R")

PATIENCE_S: Final = 5.0
"""For a worker that was told to end, until it is killed."""


class _Ready(Enum):
    READY = 0


_READY: Final = _Ready.READY
"""A worker says first that it has begun."""

_CONTEXT: Final = multiprocessing.get_context("spawn")


class Pool:
    """Workers that live until it is closed, and keep what they have loaded from one task to the next."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._idle: list[_Worker] = []

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
        busy: dict[_Worker, int] = {}
        try:
            while True:
                while len(busy) < self.workers and (found := ledger.next()):
                    number, task = found
                    busy[self._begin(pickle.dumps((function, task)))] = number
                if not busy:
                    return
                for worker in _heard(busy):
                    try:
                        result = worker.hear()
                    except EOFError:
                        yield from ledger.died(busy.pop(worker), worker.ending())
                        continue
                    if result is _READY:
                        continue
                    number = busy.pop(worker)
                    self._idle.append(worker)
                    if isinstance(result, TaskBugError):
                        raise result
                    yield from ledger.ended(number, result)
        finally:
            _end(busy)

    def close(self) -> None:
        _end(self._idle)
        self._idle = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _begin(self, order: bytes) -> "_Worker":
        """A worker that does this task: one that is idle, if it still lives."""
        while self._idle:
            worker = self._idle.pop()
            with contextlib.suppress(OSError):
                worker.send(order)
                return worker
            worker.ending()
        worker = _Worker()
        with contextlib.suppress(OSError):  # it has died already, which is heard
            worker.send(order)
        return worker


class _Worker:
    """One process, seen from here."""

    def __init__(self) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs,), name="edgecl-worker", daemon=True)
        with _one_thread(), _without_interrupts():
            self._process.start()
        theirs.close()
        self._started = False

    def send(self, order: bytes) -> None:
        """Raises OSError: it has died."""
        self.pipe.send_bytes(order)

    def hear(self) -> Any:
        """What it says; first of all that it is _READY. Raises EOFError: it has died."""
        try:
            said = pickle.loads(self.pipe.recv_bytes())
        except OSError:
            raise EOFError from None
        self._started = True
        return said

    def ending(self) -> str:
        """How it died. Raises RuntimeError: it never lived."""
        self.pipe.close()
        self._process.join()
        code = self._process.exitcode or 0
        if code > 0 and not self._started:
            raise RuntimeError(f"a worker did not start: exit code {code}")
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """Ask it to end, whatever it does."""
        self.pipe.close()
        self._process.terminate()

    def end(self) -> None:
        """Wait until it has."""
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _heard(busy: Iterable[_Worker]) -> list[_Worker]:
    """Those that have a result, or have died."""
    pipes: dict[object, _Worker] = {worker.pipe: worker for worker in busy}
    return [pipes[pipe] for pipe in wait([worker.pipe for worker in busy])]


def _end(workers: Iterable[_Worker]) -> None:
    ending = list(workers)
    for worker in ending:
        worker.stop()
    for worker in ending:
        worker.end()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Of the libraries that a worker loads as it starts."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C is for the parent, which ends its workers: a process begins with the signals that are blocked here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: "Connection[Any, Any]") -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what is open is cleaned up
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone, or wants no more
        pipe.send_bytes(pickle.dumps(_READY))
        while True:
            pipe.send_bytes(_done(pipe.recv_bytes()))


def _end_with_parent() -> None:
    """A task is not gone on with when nobody waits for it any more."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _done(order: bytes) -> bytes:
    try:
        function, task = pickle.loads(order)
    except Exception:  # it is of a module that this process does not find
        return pickle.dumps(TaskBugError(f"in a worker:\n\n{traceback.format_exc()}"))
    return answer(function, task)
