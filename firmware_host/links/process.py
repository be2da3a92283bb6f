"""A child process whose stdin and stdout are the stream: an agent on this machine, or ssh to one elsewhere."""

import contextlib
import os
import select
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

from edgecl.channel import PIPE
from edgecl.streams import FdStream

_STDERR_BYTES: Final = 16 << 10
_ENDING_S: Final = 5.0
"""For a process that was told to end, and for one whose output has ended."""


class Process:
    """The stream of a process, which ends with it."""

    line = False
    base_baud = 0
    baud: int | None = None
    pace = PIPE

    def __init__(self, command: Sequence[str], *, stall_s: float) -> None:
        """Start it. Raises OSError."""
        self._silent = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        except OSError:
            self._errors.close()
            raise
        assert self._process.stdin and self._process.stdout
        self._stream = FdStream(self._process.stdout.fileno(), self._process.stdin.fileno(), stall_s=stall_s)

    def read(self, timeout_s: float | None) -> bytes:
        return self._stream.read(timeout_s)

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def set_baud(self, baud: int) -> None:
        raise AssertionError("a process has no speed")

    def close(self) -> None:
        process = self._process
        assert process.stdin and process.stdout
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        if self._ended(0.0 if self._silent else _ENDING_S) is None:
            process.kill()
            process.wait()
        self._errors.close()

    def give_up(self) -> None:
        """It does not answer, so it will not be waited for either."""
        self._silent = True

    def outcome(self) -> tuple[int | None, str]:
        """How it ended (None: it has not), and what it wrote on stderr last."""
        code = self._ended(0.0 if self._silent else _ENDING_S)
        self._errors.seek(max(0, self._errors.seek(0, 2) - _STDERR_BYTES))
        return code, self._errors.read().decode("utf-8", "replace")

    def _ended(self, timeout_s: float) -> int | None:
        with contextlib.suppress(AttributeError, OSError):  # where the system has it: no looking again and again
            watched = os.pidfd_open(self._process.pid)
            try:
                (poll := select.poll()).register(watched, select.POLLIN)
                poll.poll(timeout_s * 1000)
            finally:
                os.close(watched)
            timeout_s = 0.0
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
