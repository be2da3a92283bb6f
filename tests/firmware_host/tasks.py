"""Tasks for executors: functions of a module, as workers must be able to import them."""

import os
import signal
import time
from pathlib import Path
from typing import Final

from edgecl.errors import EXIT_REFUSED, EdgeclError, StoreError

PATIENCE_S: Final = 60.0
"""After which a test fails, instead of waiting on."""


class StrangeError(EdgeclError):
    """One that cannot be pickled."""

    exit_code = EXIT_REFUSED

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what} {number}")


def double(number: int) -> int:
    return 2 * number


def first_is_last(task: tuple[Path, int]) -> int:
    """The first of four ends when the others have."""
    folder, number = task
    last = time.monotonic() + PATIENCE_S
    while number == 0 and not (folder / "3").exists() and time.monotonic() < last:
        time.sleep(0.01)
    (folder / str(number)).touch()
    return number


def refuse_odd(number: int) -> int:
    if number % 2:
        raise StoreError(f"{number}: odd; give an even one")
    return number


def refuse_strangely(number: int) -> int:
    raise StrangeError("strange", number)


def bug(number: int) -> int:
    return 1 // (number - 2)


def unpicklable(number: int) -> object:
    return lambda: number


def dies(task: tuple[Path, int, int]) -> int:
    """A task that is killed as often as it says, and counts that in files."""
    folder, number, times = task
    marks = len(list(folder.glob(f"{number}-*")))
    (folder / f"{number}-{marks}").touch()
    if marks < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def large(number: int) -> bytes:
    return bytes(1 << 20)


def process(number: int) -> tuple[int, str]:
    return os.getpid(), os.environ.get("OPENBLAS_NUM_THREADS", "")


def told(folder: Path) -> None:
    """Say which process it is."""
    (folder / f"{os.getpid()}.pid").touch()


def waits(folder: Path) -> None:
    """Stays until it is ended."""
    told(folder)
    last = time.monotonic() + PATIENCE_S
    while time.monotonic() < last:
        time.sleep(0.05)


def waits_but_first(task: tuple[Path, int]) -> int:
    folder, number = task
    if number:
        waits(folder)
    return number
