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
    """Start a deployer that outlives its caller, if a deployment is under way that has all its files."""
    found = deployments.read(directory).under_way
    if found and found.state != "RECEIVE" and not taken(directory):
        subprocess.Popen(
            [sys.executable, "-P", "-m", "edgecl.deployer", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


@contextmanager
def alone(directory: Path) -> Iterator[bool]:
    """Whether this process is the one that carries deployments on, while the block runs."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; give the directory of a store") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def taken(directory: Path) -> bool:
    """Whether a process carries a deployment on. Raises StoreError."""
    with alone(directory) as mine:
        return not mine
