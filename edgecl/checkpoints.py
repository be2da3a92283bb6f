"""The state directory: checkpoints `learned/<lineage>/<n>.safetensors`, newest few kept, and the journal beside them.

One process at a time owns a state directory (flock on `lock`). A checkpoint is a state file (`edgecl/state.py`), which
also tells the place in the source to go on from; it is written under a temporary name, so what has its name is whole.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecl import disk, state
from edgecl.errors import BundleError, StoreError
from edgecl.manifest import Layout
from edgecl.state import Place, State

KEEP: Final = 5
"""Checkpoints kept: enough to go behind one that turned out bad, few enough for an SD card."""


@dataclass(frozen=True)
class Resumed:
    """Where an earlier run left off."""

    path: Path
    state: State
    place: Place
    passed_over: tuple[str, ...]
    """Newer checkpoints that could not be read, and why."""


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Own a state directory, which is made where it is missing. Raises StoreError: another process owns it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; give another --state") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                f"{directory}: another process is using it; stop that one, or give another --state"
            ) from None
        yield
    finally:
        os.close(lock)


class Checkpoints:
    """The checkpoints of one lineage."""

    def __init__(self, directory: Path, lineage: str) -> None:
        self._directory = directory / "learned" / lineage

    def newest(self, layout: Layout) -> Resumed | None:
        """The newest that can be read; None where there is none.

        Raises BundleError: the newest was written for another bundle. StoreError: there are some, and none can be read.
        """
        passed_over: list[str] = []
        for number in reversed(self._numbers()):
            try:
                found, place = state.load(self._path(number), layout)
                return Resumed(self._path(number), found, place, tuple(passed_over))
            except BundleError:
                raise
            except StoreError as error:
                passed_over.append(str(error))
        if passed_over:
            raise StoreError(f"{passed_over[0]} (and no older checkpoint can be read)")
        return None

    def write(self, made: State, place: Place) -> tuple[int, Path]:
        """Write the next checkpoint and delete the oldest. Raises StoreError."""
        numbers = self._numbers()
        path = self._path(numbers[-1] + 1 if numbers else 1)
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            disk.remove(new)
            disk.write_new(new, [state.dump(made, place)])
            new.rename(path)
            disk.sync_directory(self._directory)
            for number in numbers[: -KEEP + 1] if len(numbers) >= KEEP else []:
                self._path(number).unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                disk.remove(new)
            raise StoreError(f"{path}: {error.strerror}; make room, or give another --state") from None
        return int(path.stem), path

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.safetensors"

    def _numbers(self) -> list[int]:
        try:
            return sorted(
                int(file.stem) for file in self._directory.glob("[0-9]*.safetensors") if file.stem.isdecimal()
            )
        except OSError as error:
            raise StoreError(f"{self._directory}: {error.strerror}; give another --state") from None
