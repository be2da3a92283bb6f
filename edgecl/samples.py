"""The newest samples, kept as their sources gave them so that labels may come later: a ring of journal segments.

`samples/<boot>-<n>.mcap` are segments of `/sample` records, each an eighth of the quota. As one is begun, the oldest go
until those before it are within the quota: the ring takes an eighth more at most. What goes is told, to be journalled.
"""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from edgecl import journal, recovery
from edgecl.errors import JournalError

PARTS: Final = 8
"""Segments that the quota is divided in."""
LEAST_BYTES: Final = 1 << 16
"""Of a segment."""


class Samples:
    """The ring of one state directory. Threads may share it."""

    def __init__(self, directory: Path, *, quota_bytes: int, boot: str, clock: journal.Clock) -> None:
        """Go on with the ring in a directory. A quota of 0 keeps nothing more; what is there stays.

        Raises JournalError.
        """
        self._directory, self._quota_bytes = directory, quota_bytes
        self.losses = journal.recover(directory)
        """Segments that a crash had cut off."""
        self._journal = None
        if quota_bytes:
            size = max(LEAST_BYTES, quota_bytes // PARTS)
            self._journal = journal.Journal(directory, boot=boot, clock=clock, segment_bytes=size)
        self._segments = 0

    def keep(
        self, seq: int, position: int, x: npt.NDArray[Any], y: int | None, domain: int, *, learned: bool = False
    ) -> Sequence[journal.Dropped]:
        """Keep a sample that was answered, or `learned` from with its label instead; tell what had to go for it.

        Raises JournalError.
        """
        if not self._journal:
            return ()
        self._journal.append(
            journal.Sample(
                seq=seq,
                position=position,
                y=y,
                dtype=x.dtype.name,
                shape=x.shape,
                x=np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes(),
                domain=domain,
                learned=learned,
            )
        )
        if self._journal.number != self._segments:
            self._segments = self._journal.number
            return self._prune()
        return ()

    def find(self, seqs: Collection[int]) -> dict[int, journal.Sample]:
        """Those of these samples that were answered and are kept. Raises JournalError."""
        wanted = set(seqs)
        if self._journal:
            self._journal.sync()
        if not self._directory.is_dir():
            return {}
        return {
            record.seq: record
            for record in journal.read(self._directory)
            if isinstance(record, journal.Sample) and record.seq in wanted and not record.learned
        }

    def sync(self) -> None:
        """Make what is kept durable. Raises JournalError."""
        if self._journal:
            self._journal.sync()

    def cut(self) -> None:
        """Seal the segment that is being written; the next sample begins another."""
        self.close()

    def abandon(self) -> None:
        """Let go of the ring as a crash would."""
        if self._journal:
            self._journal.abandon()

    def close(self) -> None:
        """Seal the ring."""
        if self._journal:
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prune(self) -> list[journal.Dropped]:
        sizes = []
        for path in journal.segments(self._directory):
            with contextlib.suppress(FileNotFoundError):  # a host has just acknowledged it
                sizes.append((path, path.stat().st_size))
        total = sum(size for _, size in sizes)
        dropped = []
        for path, size in sizes[:-1]:
            if total <= self._quota_bytes:
                break
            with contextlib.suppress(OSError):
                with path.open("rb") as file:
                    records = recovery.count(file)
                path.unlink()
                dropped.append(journal.Dropped(file=path.name, bytes=size, records=records))
            total -= size
        return dropped


def array(record: journal.Sample) -> npt.NDArray[Any]:
    """The sample that a record holds. Raises JournalError: it holds none."""
    try:
        flat = np.frombuffer(record.x, np.dtype(record.dtype).newbyteorder("<"))
        return flat.reshape(tuple(record.shape)).astype(record.dtype)
    except (TypeError, ValueError) as error:
        raise JournalError(f"sample {record.seq}: {error}; it cannot be learned from") from None
