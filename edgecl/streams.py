"""Streams of bytes over file descriptors: the pipes of a process, a terminal, a serial line.

Writing never waits for a reader that itself waits to be read: what arrives meanwhile is kept.
"""

import contextlib
import fcntl
import os
import select
import threading
import time
from typing import Final, Protocol

PIPE_BYTES: Final = 1 << 20
"""What is asked of the system for a pipe: fewer turns between its ends. As much as any user may have on Linux."""
_PIECE_BYTES: Final = 1 << 18


class ByteStream(Protocol):
    """Bytes in order, both ways."""

    def read(self, timeout_s: float | None) -> bytes:
        """What has arrived, at least one byte; none at the end of the stream. Raises TimeoutError."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of it. Raises BrokenPipeError: the other side has gone; TimeoutError: it takes nothing any more."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class FdStream:
    """A stream that reads one file descriptor and writes another, or the same."""

    def __init__(self, reading: int, writing: int, *, stall_s: float) -> None:
        """`stall_s`: how long a write waits for the other side to take something."""
        self._reading, self._writing, self._stall_s = reading, writing, stall_s
        self._arrived = bytearray()
        self._ended = False
        self._lock = threading.Lock()
        self._flags = {fd: fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (reading, writing)}
        for fd, flags in self._flags.items():
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
            with contextlib.suppress(OSError, AttributeError):  # no pipe, too many of them, or not Linux
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def read(self, timeout_s: float | None) -> bytes:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            with self._lock:
                if self._arrived:
                    taken, self._arrived = bytes(self._arrived), bytearray()
                    return taken
                if not self._ended and (found := self._found()):
                    return found
            if self._ended:
                return b""
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._wait(left, writing=False)

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        deadline = time.monotonic() + self._stall_s
        while left:
            try:
                left = left[os.write(self._writing, left) :]
                deadline = time.monotonic() + self._stall_s
                continue
            except BlockingIOError:
                pass
            except OSError as error:  # also EIO, of a terminal that was hung up
                raise BrokenPipeError(error.errno, error.strerror) from None
            if time.monotonic() >= deadline:
                raise TimeoutError
            if not self._ended:
                with self._lock:
                    self._arrived += self._found()
            self._wait(deadline - time.monotonic(), writing=True)

    def close(self) -> None:
        for fd, flags in self._flags.items():
            with contextlib.suppress(OSError):  # may be closed already
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def _found(self) -> bytes:
        """What can be read at once."""
        try:
            found = os.read(self._reading, _PIECE_BYTES)
        except BlockingIOError:
            return b""
        except OSError:  # as above
            found = b""
        self._ended = not found
        return found

    def _wait(self, timeout_s: float | None, *, writing: bool) -> None:
        """For room to write, or for bytes to read."""
        poll = select.poll()
        if not self._ended:
            poll.register(self._reading, select.POLLIN)
        if writing:
            poll.register(self._writing, select.POLLOUT | (select.POLLIN if self._writing == self._reading else 0))
        poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
