"""Writing that survives a power cut: temporary name, fsync the file, rename, fsync the directory."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

EARLY_BYTES: Final = 16 << 20
"""Written before the medium is asked to begin; a file that is smaller waits for its fsync alone."""


def write_new(path: Path, pieces: Iterable[bytes], *, durable: bool = True) -> None:
    """Write a file that does not exist yet, and its bytes to the medium. The name is durable once its directory is.

    Raises OSError.
    """
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def replace(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file, in place of the one that may have this name. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    remove(new)
    write_new(new, [content], durable=durable)
    new.rename(path)
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_directory(path: Path, *, above: int = 0) -> None:
    """Make a directory where there is none, with those above it, and make its name durable, and those of so many above.

    Those of directories that are there too: whoever made them may have been killed before. Raises OSError.
    """
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(path.parents[: above + 1]):
        sync_directory(folder)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; nothing may be there. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_bytes(path: Path | int) -> int:
    """What a user may still write on the file system of a directory, or of an open file. Raises OSError."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class EarlySync:
    """Brings a file to the medium while it is still being written, so that its fsync at the end finds little to do."""

    def __init__(self, file: int) -> None:
        self._file, self._written = file, 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, count: int) -> None:
        """So many bytes were written."""
        self._written += count
        if self._written >= EARLY_BYTES and not (self._thread and self._thread.is_alive()):
            self._written = 0
            self._thread = threading.Thread(target=self._sync, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for what was begun; the fsync comes after that. Raises OSError: the system tells each failure once."""
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error

    def _sync(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._error = error


def used_bytes(directory: Path) -> int:
    """Of the files in a directory, which may come and go meanwhile; 0 where there is none."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_size
    return total
