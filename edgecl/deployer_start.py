"""Starts the process that carries a deployment on (`edgecl/deployer.py`), where none does; only one may at a time."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgecl import deployments
from edgecl.errors import StoreError

LOCK: Final = "deployer.lock"


def begin(directory: Path) -> None:
    """Start a deployer that outlives its caller, if a deployment is under way that has all its files.

    It is handed the lock, so whoever looks while it is still starting sees that one is there.
    """
    found = deployments.read(directory).under_way
    if not found or found.state == "RECEIVE":
        return
    with alone(directory) as lock:
        if lock is not None:
            subprocess.Popen(
                [sys.executable, "-P", "-m", "edgecl.deployer", str(directory), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[lock],
            )


@contextmanager
def alone(directory: Path) -> Iterator[int | None]:
    """The file of the lock, which this process has while the block runs; None where another one carries on."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; give the directory of a store") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def taken(directory: Path) -> bool:
    """Whether a process carries a deployment on. Raises StoreError."""
    with alone(directory) as lock:
        return lock is None
