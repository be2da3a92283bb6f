"""One background thread that runs jobs in their order, of which at most one waits while another runs."""

import queue
import threading
from collections.abc import Callable
from typing import Final

Job = Callable[[], object]


class Worker:
    """Runs jobs behind its caller's back. After the first failure it runs no more, and calls raise that failure."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Job, bool] | None] = queue.SimpleQueue()
        self._room: Final = threading.Semaphore(2)  # one runs, one waits
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what made a job fail."""
        if self._failure:
            raise self._failure

    def offer(self, job: Job) -> bool:
        """Run a job when those before it are done. While one runs and one waits, say False instead."""
        self.check()
        if not self._room.acquire(blocking=False):
            return False
        self._jobs.put((job, True))
        return True

    def insist(self, job: Job) -> None:
        """Run a job when those before it are done, however many; the caller is to `pause` once it holds no lock."""
        self.check()
        self._jobs.put((job, True))

    def pause(self) -> None:
        """Wait, for each job that was insisted on, until no more than one waits while another runs."""
        self._room.acquire()

    def also(self, job: Job) -> None:
        """Run a small job that takes nobody's turn."""
        self.check()
        self._jobs.put((job, False))

    def drain(self) -> None:
        """Wait until every job is done."""
        done = threading.Event()
        self._jobs.put((done.set, False))
        done.wait()
        self.check()

    def close(self) -> None:
        """Do the jobs that are left, and end the thread. It raises nothing; `check` does."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while item := self._jobs.get():
            job, took_room = item
            try:
                if not self._failure or not took_room:
                    job()
            except BaseException as error:
                self._failure = self._failure or error
            finally:
                if took_room:
                    self._room.release()
