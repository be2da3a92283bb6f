"""The journal of a run: append records, read them back, recover after a crash. See docs/formats/journal.md.

A journal is a directory of segments `<boot>-<n>.mcap`, MCAP files with one topic a record type. The records are the
messages of `edgecl/journal.proto`, whose module is generated in the root of the repository by

    python -m grpc_tools.protoc -I. --python_out=. --mypy_out=. edgecl/journal.proto

Records are gathered into chunks in memory. A crash of the process loses those appended since the last `sync` (or since
a chunk filled up); a power cut loses no more than that, on a medium that honours flushes. So the loop calls `sync`
before it writes a checkpoint: what a checkpoint has learned is always in the journal.
"""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from google.protobuf.message import DecodeError

from edgecl import disk, recovery, segment
from edgecl.errors import JournalError
from edgecl.journal_pb2 import (
    Boot,
    Checkpoint,
    Class,
    ClockSet,
    Damaged,
    Domain,
    Dropped,
    End,
    Gap,
    Guard,
    Kept,
    Label,
    Loss,
    Prediction,
    Run,
    Sample,
    Score,
    Setting,
    Shift,
    Stamp,
    Update,
)
from edgecl.schema import schema_of
from edgecl.topics import TOPICS, VERSION, Record

__all__ = [
    "TOPICS",
    "VERSION",
    "Boot",
    "Checkpoint",
    "Class",
    "Clock",
    "ClockSet",
    "Damaged",
    "Domain",
    "Dropped",
    "End",
    "Gap",
    "Guard",
    "Journal",
    "Kept",
    "Label",
    "Loss",
    "Prediction",
    "Record",
    "Run",
    "Sample",
    "Score",
    "Setting",
    "Shift",
    "Stamp",
    "Torn",
    "Update",
    "next_seq",
    "read",
    "recover",
    "segments",
]

SEGMENT_BYTES: Final = 8 << 20
"""A segment that has this size is sealed and the next one begun: small enough to pull whole over a slow link."""

SEGMENT_NS: Final = 15 * 60 * 10**9
"""A segment is sealed when it is so old, so that what a quiet board has seen can be pulled all the same."""

RESERVE: Final = 16
"""The last so-manieth part of a quota is left to records that are rare and must not be missing."""

LOOK_NS: Final = 10**9
"""Between two looks whether a full journal has been pulled."""


@dataclass(frozen=True)
class Torn:
    """A segment is not whole. What stands before `offset` was read, what stands behind it cannot be."""

    file: Path
    offset: int
    bytes_lost: int
    """0 where no record is known to be missing: cut off between chunks, still being written, or a damaged summary."""
    reason: str


class Clock(Protocol):
    """Where a record's times come from."""

    def monotonic_ns(self) -> int: ...
    def wall_ns(self) -> int: ...
    def quality(self) -> Stamp.Quality.ValueType: ...


class Journal:
    """Appends the records of one run. Threads may share it, and an append does not wait for another thread's sync.

    Every method may raise JournalError; the journal stays readable up to the last chunk written. When the disk was
    full, nothing appended before is forgotten: `append` and `sync` may be called again once there is room.
    """

    def __init__(
        self,
        directory: Path,
        *,
        boot: str,
        clock: Clock,
        segment_bytes: int = SEGMENT_BYTES,
        segment_ns: int = SEGMENT_NS,
        quota_bytes: int = 0,
    ) -> None:
        """Continue the journal in a directory, which `recover` has seen to, with a new segment.

        `boot` names this boot of the board: letters and digits, such as the kernel's boot_id without its hyphens.
        Nothing is appended beyond a quota, if one is given: whoever has the segments must delete them.
        """
        if not re.fullmatch(_BOOT, boot):
            raise JournalError(f"{boot!r} cannot name a boot; give 1 to 64 letters and digits")
        self._directory = directory
        try:
            disk.make_directory(directory)
            before = _segments(directory)
            self._sealed_bytes = sum(path.stat().st_size for _, path in before)
        except OSError as error:
            raise segment.disk_error(directory, error) from None
        self._number = before[-1][0] if before else 0
        self.new_boot = not any(path.name.startswith(f"{boot}-") for _, path in before)
        """Whether the journal has nothing of this boot yet."""
        self._boot = boot
        self._clock = clock
        self._segment_bytes, self._segment_ns = segment_bytes, segment_ns
        self._quota_bytes, self._looked_ns = quota_bytes, 0
        self._segment: segment.Writer | None = None
        self._begun_ns = 0
        self._sequence = 0
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """Of the newest segment."""
        return self._number

    @property
    def full(self) -> bool:
        """Whether there is room for rare records alone, because no host has taken the segments. Threads may ask."""
        if not self._quota_bytes:
            return False
        with self._lock:
            return not self._room(self._quota_bytes - self._quota_bytes // RESERVE)

    def append(self, record: Record) -> None:
        """Stamp a record and add it to the chunk in memory."""
        with self._lock:
            if self._quota_bytes and not self._room(self._quota_bytes):
                raise JournalError(
                    f"{self._directory}: no host has taken the {self._quota_bytes} bytes that a journal may have; "
                    "pull them: edgecl pull"
                )
            self._append(record)

    def _room(self, limit_bytes: int) -> bool:
        """Whether the journal is smaller. Segments that somebody else deleted are noticed within LOOK_NS."""
        if self._bytes() < limit_bytes:
            return True
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns >= LOOK_NS or not self._looked_ns:
            self._looked_ns = now_ns
            written = self._segment.path if self._segment else None
            total = 0
            with contextlib.suppress(OSError):  # deleted meanwhile: seen at the next look
                for _, path in _segments(self._directory):
                    total += path.stat().st_size if path != written else 0
                self._sealed_bytes = total
        return self._bytes() < limit_bytes

    def _bytes(self) -> int:
        return self._sealed_bytes + (self._segment.size + self._segment.pending if self._segment else 0)

    def _append(self, record: Record) -> None:
        stamp = record.stamp
        stamp.boot = self._boot
        stamp.sequence = self._sequence
        stamp.monotonic_ns = self._clock.monotonic_ns()
        stamp.wall_ns = self._clock.wall_ns()
        stamp.quality = self._clock.quality()
        data = record.SerializeToString()
        if len(data) > segment.MAX_RECORD_BYTES:
            raise JournalError(
                f"a {type(record).__name__} of {len(data)} bytes, more than the limit of {segment.MAX_RECORD_BYTES}; "
                "keep smaller samples"
            )
        if self._segment and (
            self._segment.size + self._segment.pending >= self._segment_bytes
            or stamp.monotonic_ns - self._begun_ns >= self._segment_ns
        ):
            self._seal(self._segment)
        if not self._segment:
            self._segment = segment.Writer(self._directory / f"{self._boot}-{self._number + 1}.mcap")
            self._number += 1
            self._begun_ns = stamp.monotonic_ns
        self._segment.add(_CHANNELS[type(record)], stamp.wall_ns, stamp.sequence, data)
        self._sequence += 1

    def _seal(self, done: segment.Writer) -> None:
        done.seal()
        self._sealed_bytes += done.size
        self._segment = None

    def sync(self) -> None:
        """Make everything appended so far durable."""
        with self._lock:
            if not self._segment:
                return
            self._segment.flush()
            settle = self._segment.settler()
        settle()

    def close(self) -> None:
        """Make everything durable and seal the segment. A journal that cannot do that is closed as it is."""
        with self._lock:
            if self._segment:
                try:
                    self._seal(self._segment)
                except JournalError:
                    self._segment.close()
                    raise
                finally:
                    self._segment = None

    def abandon(self) -> None:
        """Let go of the segment as a crash would: without the chunk in memory, and not sealed."""
        with self._lock:
            if self._segment:
                self._segment.close()
            self._segment = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> Iterator[Record | Torn]:
    """The records of a journal or of one segment, in the order in which they were appended.

    A segment that is not whole gives the records before the damage, exactly, and then a Torn; reading goes on with the
    next segment. Topics that this edgecl does not know are left out. No more than one chunk is held in memory.

    Raises JournalError: nothing is there, it cannot be read, a later edgecl has given its fields another meaning, or
    one file was named and it is not MCAP at all.
    """
    try:
        if path.is_dir():
            for _, part in _segments(path):
                yield from _read_segment(part)
        else:
            with path.open("rb") as file:
                start = file.read(len(segment.MAGIC))
            if not segment.MAGIC.startswith(start):
                raise JournalError(f"{path}: not a journal; give a journal's directory or one of its .mcap files")
            yield from _read_segment(path)
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror or error}; give a journal that can be read") from None


def recover(directory: Path) -> list[Loss]:
    """Repair what a crash left: every segment that was not sealed keeps its whole part and is sealed.

    Call it before the Journal of a new run, and append what it gives: each Loss is one segment that was repaired. The
    repaired segment is written beside the other and renamed, so a crash in here loses nothing.

    Raises JournalError: a segment cannot be read or written, or another process is writing it.
    """
    losses = []
    try:
        for _, path in _segments(directory) if directory.is_dir() else ():
            if repaired := recovery.repair(path):
                stop, kept = repaired
                losses.append(Loss(file=path.name, bytes_lost=stop.bytes_lost, records_kept=kept))
    except OSError as error:
        raise segment.disk_error(directory, error) from None
    return losses


def next_seq(directory: Path) -> int:
    """The number of the next sample: one more than the last that the journal knows, which `recover` has seen to.

    Raises JournalError: a segment cannot be read.
    """
    learned = -1  # with labels, so without a prediction
    try:
        for _, path in reversed(_segments(directory)) if directory.is_dir() else ():
            with path.open("rb") as file:
                for message in recovery.backwards(file):
                    if message.channel.topic == "/update":
                        learned = max(learned, Update.FromString(message.data).last_seq)
                    elif message.channel.topic == "/prediction":
                        return max(learned, Prediction.FromString(message.data).seq) + 1
                    elif message.channel.topic == "/gap" and (gap := Gap.FromString(message.data)).samples:
                        return max(learned, gap.last_seq) + 1
                    elif message.channel.topic == "/sample":
                        return max(learned, Sample.FromString(message.data).seq) + 1
    except OSError as error:
        raise segment.disk_error(directory, error) from None
    return learned + 1


def needed(directory: Path) -> list[Path]:
    """The newest segments, back to one that tells the number of a sample: what `next_seq` and a Journal go on from.

    Raises JournalError: a segment cannot be read.
    """
    found: list[Path] = []
    try:
        for _, path in reversed(_segments(directory)) if directory.is_dir() else ():
            found.append(path)
            with path.open("rb") as file:
                if any(message.channel.topic in ("/prediction", "/sample") for message in recovery.backwards(file)):
                    break
    except OSError as error:
        raise segment.disk_error(directory, error) from None
    return found


def segments(directory: Path) -> list[Path]:
    """The segments of a journal, in the order in which they were written. Raises OSError."""
    return [path for _, path in _segments(directory)]


def _read_segment(path: Path) -> Iterator[Record | Torn]:
    with path.open("rb") as file:
        for found in recovery.scan(file):
            if isinstance(found, recovery.Stop):
                if not found.sealed:
                    yield Torn(path, found.offset, found.bytes_lost, found.reason)
                return
            if any(message.channel.version > VERSION for message in found.messages):
                version = max(message.channel.version for message in found.messages)
                raise JournalError(
                    f"{path}: written in version {version} of the journal, this edgecl reads up to {VERSION}; "
                    "update edgecl"
                )
            try:
                records = [
                    TOPICS[message.channel.topic].FromString(message.data)
                    for message in found.messages
                    if message.channel.topic in TOPICS
                ]
            except DecodeError:
                size = path.stat().st_size
                yield Torn(path, found.offset, size - found.offset, "a record that does not follow its schema")
                return
            yield from records


def _segments(directory: Path) -> list[tuple[int, Path]]:
    """Number and path of each segment, in the order of their numbers."""
    found = ((_SEGMENT.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


_BOOT: Final = "[A-Za-z0-9]{1,64}"
_SEGMENT: Final = re.compile(rf"{_BOOT}-([0-9]{{1,12}})\.mcap")
_CHANNELS: Final = {
    record: segment.Channel(topic, record.DESCRIPTOR.full_name, schema_of(record.DESCRIPTOR), VERSION)
    for topic, record in TOPICS.items()
}
