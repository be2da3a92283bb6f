"""Looks at each device again and again, in a thread of its own that keeps its connection.

A device that cannot be reached is tried again after a pause, which grows. What is asked of it (a pause, a snapshot)
is done by the same thread, between two looks: a connection is used by one thread at a time.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgecl import orders
from edgecl.errors import EdgeclError, RequestError
from edgecl.orders import LogAnswer, LogRequest
from edgecl.requests import Pause, Request, Resume, Snapshot, Status
from firmware_host import service
from firmware_host.client import Client
from firmware_host.fleet import Device
from firmware_host.status import Standing, standing

EVERY_S: Final = 2.0
PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a device that is gone is tried again; the last one again and again."""
LOG_LINES: Final = 8

Asked = Pause | Resume | Snapshot


@dataclass(frozen=True)
class Look:
    """What was seen of a device at a moment."""

    device: str
    at_s: float
    """By the clock of this computer that never goes back."""
    standing: Standing | None
    """None where it cannot be reached; `error` says why, then."""
    error: str = ""
    tries: int = 0
    """In vain, one behind the other."""
    pause_s: float = 0.0
    """Until it is tried again."""
    log: tuple[str, ...] = ()
    """The last lines of its service, where they were wanted."""


@dataclass(frozen=True)
class Done:
    """What became of something that was asked."""

    device: str
    said: str
    failed: bool = False


Sink = Callable[[Look | Done], object]


class Watcher:
    """Of one device. Whoever makes it starts it, and stops it."""

    def __init__(
        self, device: Device, sink: Sink, *, every_s: float = EVERY_S, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        """`sink` is called in the thread of the watcher."""
        self.device, self._sink, self._every_s, self._pauses_s = device, sink, every_s, pauses_s
        self._jobs: queue.Queue[Asked | None] = queue.Queue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{device.name}", daemon=True)
        self.log = False
        """Whether the log is wanted."""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A look that is under way ends by itself."""
        self._ending.set()
        self._jobs.put(None)

    def look(self) -> None:
        """Look at once, also where a pause is on."""
        self._jobs.put(None)

    def ask(self, request: Asked) -> None:
        """Do this, and look again."""
        self._jobs.put(request)

    def _run(self) -> None:
        tries = 0
        client: Client | None = None
        while not self._ending.is_set():
            try:
                if client is None:
                    client = Client(self.device.link())
                now = standing(client, self.device.name)
                found = Look(self.device.name, time.monotonic(), now, log=self._tail(client))
                tries, wait_s = 0, self._every_s
            except EdgeclError as error:
                tries += 1
                wait_s = self._pauses_s[min(tries, len(self._pauses_s)) - 1]
                found = Look(self.device.name, time.monotonic(), None, str(error), tries, wait_s)
                client = self._closed(client)
            if not self._ending.is_set():
                self._sink(found)
                self._wait(wait_s, client)
        self._closed(client)

    def _wait(self, seconds: float, client: Client | None) -> None:
        """Until it is time to look again, or something was asked, and is done."""
        try:
            job = self._jobs.get(timeout=seconds)
        except queue.Empty:
            return
        if job is None or self._ending.is_set():
            return
        try:
            if client is None:
                raise RequestError("it cannot be reached")
            now: Status = service.ask(client, job, Status)
            self._sink(Done(self.device.name, _said(job, now)))
        except EdgeclError as error:
            self._sink(Done(self.device.name, str(error), failed=True))

    def _tail(self, client: Client) -> tuple[str, ...]:
        if not self.log:
            return ()
        try:
            answer = client.request(orders.LOG, LogRequest(), LogAnswer)
        except RequestError:
            return ()
        except EdgeclError:
            if not client.connect():
                raise
            return ()  # a service that writes no log
        return tuple(line.decode("utf-8", "replace") for line in answer.data.splitlines()[-LOG_LINES:])

    @staticmethod
    def _closed(client: Client | None) -> None:
        if client is not None:
            with contextlib.suppress(EdgeclError, OSError):
                client.close()


def _said(request: Request, now: Status) -> str:
    match request:
        case Pause():
            return f"answers and does not learn, at step {now.step}"
        case Resume():
            return f"answers and learns, from step {now.step} on"
        case _:
            return f"checkpoint {now.checkpoint} at step {now.step}"
