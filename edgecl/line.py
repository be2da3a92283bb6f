"""The terminal that an agent runs on, where it does: raw, and at another speed as long as a host wants it.

The speed goes back to what it was when the host closes its session, says nothing for a while, or does not come through
at the new one.
"""

import contextlib
import os
import termios
import time
import tty
from typing import Final

from edgecl.channel import Pace, line_pace

SPEEDS: Final = {
    int(name[1:]): getattr(termios, name)
    for name in ("B9600", "B19200", "B38400", "B57600", "B115200", "B230400", "B460800", "B500000", "B576000",
                 "B921600", "B1000000", "B1500000", "B2000000", "B3000000", "B4000000")
    if hasattr(termios, name)
}  # fmt: skip
"""Baud -> what the system calls it."""

NEGOTIATION_S: Final = 2.0
"""Time for a host to come through at a new speed."""
SILENCE_S: Final = 60.0
"""At another speed than the line's own; the host knows, and asks anew after half of that."""

SETTLE_S: Final = 0.05
"""For bytes that the system calls sent, and that are still in the adapter."""

_INPUT, _OUTPUT = 4, 5  # where the speeds are in the attributes of a terminal


class Line:
    """A terminal, raw until it is closed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd)
        tty.setraw(fd)
        self._own = next((baud for baud, code in SPEEDS.items() if code == self._before[_OUTPUT]), 115200)
        self.baud = self._own
        self._asked: int | None = None
        self._unconfirmed = False

    @property
    def pace(self) -> Pace:
        return line_pace(self.baud)

    @property
    def silence_s(self) -> float | None:
        """After which to `revert`."""
        if self._unconfirmed:
            return NEGOTIATION_S
        return SILENCE_S if self.baud != self._own else None

    def ask(self, baud: int) -> int | None:
        """Whether it can go on at a speed, once `answered` is called: the speed, or None."""
        self._asked = baud if baud in SPEEDS and baud != self.baud else None
        return self._asked

    def answered(self) -> None:
        """Go to the speed asked for, when all that was written is out."""
        if self._asked:
            self._set(self._asked)
            self._asked, self._unconfirmed = None, True

    def heard(self) -> None:
        """A host came through."""
        self._unconfirmed = False

    def revert(self) -> None:
        """Go back to the line's own speed."""
        self._asked, self._unconfirmed = None, False
        if self.baud != self._own:
            self._set(self._own)

    def close(self) -> None:
        with contextlib.suppress(termios.error, OSError):  # a terminal that was hung up
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    def _set(self, baud: int) -> None:
        with contextlib.suppress(termios.error):  # as above: reading tells
            termios.tcdrain(self._fd)
            time.sleep(SETTLE_S)
            attributes = termios.tcgetattr(self._fd)
            attributes[_INPUT] = attributes[_OUTPUT] = SPEEDS[baud]
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        self.baud = baud


def opened(fd: int) -> Line | None:
    """The line that a file descriptor is; None where it is no terminal."""
    return Line(fd) if os.isatty(fd) else None
