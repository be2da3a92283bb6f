"""Results of devices that were done, so that they are not done again: a file with a line of JSON for each.

A line is written when its device is done, and is on the disk then. A last line that a crash cut off is passed over.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from edgecl.errors import StoreError

R = TypeVar("R")


class _Line(msgspec.Struct, frozen=True):
    mark: str
    result: Any


class ResultsFile:
    """One such file, open to be added to."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError: it cannot be written, or it is another file."""
        self._path = path
        self._known: dict[str, msgspec.Raw] = {}
        try:
            text = path.read_bytes() if path.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.splitlines():
                found = msgspec.json.decode(line, type=_Known)
                self._known[found.mark] = found.result
            self._file = path.open("ab")
            self._file.truncate(len(whole))
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; give another file for results") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StoreError(f"{path}: not a file of results; give another one") from None

    def find(self, mark: str, kind: type[R]) -> R | None:
        """The result of this mark; None where it was not done, or by an edgecl that told it otherwise."""
        raw = self._known.get(mark)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.DecodeError:
            return None

    def add(self, mark: str, result: object) -> None:
        """Raises StoreError."""
        try:
            self._file.write(msgspec.json.encode(_Line(mark, result)) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}; make room") from None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Known(msgspec.Struct, frozen=True):
    mark: str
    result: msgspec.Raw
