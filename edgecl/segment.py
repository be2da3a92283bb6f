"""Write one segment of a journal: an MCAP file that grows chunk by chunk and is sealed with a summary.

MCAP is specified at https://mcap.dev/spec; docs/formats/journal.md says what edgecl uses of it. The writer is our own,
because it must survive a full disk, and because importing the `mcap` package costs 5 MB. Tests read with that package.
"""

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import zstandard

from edgecl import disk
from edgecl.errors import JournalError

CHUNK_BYTES: Final = 64 << 10
"""A chunk that reaches this size is written without waiting for a sync."""

MAX_RECORD_BYTES: Final = 16 << 20
"""A larger record is refused, so that a reader may refuse a larger chunk. A 2048 x 2048 colour picture has 12 MiB."""

MAX_CHUNK_BYTES: Final = MAX_RECORD_BYTES + (1 << 20)
"""A chunk holds less than CHUNK_BYTES, or one record; readers take no more into memory."""

LEVEL: Final = 3
"""zstd level. On chunks of 50 records 9 gains nothing, and 15 gains 4 % for ten times the time."""

MAGIC: Final = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, SUMMARY_OFFSET, DATA_END = 0x0B, 0x0E, 0x0F
"""Opcodes of MCAP records."""

RECORD: Final = struct.Struct("<BQ")
"""In front of every record: opcode, bytes that follow."""

MESSAGE_FIELDS: Final = struct.Struct("<HIQQ")
"""In front of a message's data: channel, sequence, log time, publish time."""

INDEX_ENTRY: Final = struct.Struct("<QQ")
"""In a message index: log time, offset in the chunk."""

FOOTER_HEAD: Final = struct.Struct("<BQQQ")
"""A footer up to its checksum: opcode, 20, start of the summary, start of the summary offsets."""

_NEVER_NS: Final = (1 << 64) - 1


class Channel(NamedTuple):
    """A topic and the type of its records."""

    topic: str
    type: str
    schema: bytes
    """Serialised FileDescriptorSet with the type in it."""


class Message(NamedTuple):
    """One record, still encoded."""

    channel: Channel
    log_time_ns: int
    sequence: int
    data: bytes


class Writer:
    """A new segment. What is not flushed is lost with the process; what is not synced, in a power cut.

    Every method that writes raises JournalError. The file then ends with its last whole chunk, nothing that was added
    is forgotten, and the call may be repeated once there is room.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """With `durable`, the name lasts; the content does once it has been synced."""
        self._path = path
        self._size = 0
        self._chunk = bytearray()
        self._indexes: dict[int, bytearray] = {}
        self._chunk_ns = (_NEVER_NS, 0)
        self._zstd = zstandard.ZstdCompressor(level=LEVEL)
        self._ids: dict[str, int] = {}
        self._schemas, self._channels, self._chunks = bytearray(), bytearray(), bytearray()
        self._chunk_count = 0
        self._counts: dict[int, int] = {}
        self._segment_ns = (_NEVER_NS, 0)
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise disk_error(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)  # tells `repair` that the segment is in use
            self._write(MAGIC + _record(HEADER, _text(""), _text("edgecl")))
            if durable:
                disk.sync_directory(path.parent)
        except BaseException:
            self.close()
            path.unlink(missing_ok=True)
            raise

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def add(self, channel: Channel, log_time_ns: int, sequence: int, data: bytes) -> None:
        """Add a message to the chunk; a chunk that would grow too large is written first."""
        if self._chunk and len(self._chunk) + len(data) > CHUNK_BYTES:
            self.flush()
        number = self._ids.get(channel.topic) or self._register(channel)
        offset = len(self._chunk)
        self._chunk += RECORD.pack(MESSAGE, MESSAGE_FIELDS.size + len(data))
        self._chunk += MESSAGE_FIELDS.pack(number, sequence & 0xFFFFFFFF, log_time_ns, log_time_ns)
        self._chunk += data
        self._indexes.setdefault(number, bytearray()).extend(INDEX_ENTRY.pack(log_time_ns, offset))
        self._chunk_ns = min(self._chunk_ns[0], log_time_ns), max(self._chunk_ns[1], log_time_ns)

    def flush(self) -> None:
        """Write the chunk."""
        if not self._chunk:
            return
        compressed = self._zstd.compress(self._chunk)
        head = struct.pack("<QQQI", *self._chunk_ns, len(self._chunk), zlib.crc32(self._chunk))
        chunk = _record(CHUNK, head, _text("zstd"), struct.pack("<Q", len(compressed)), compressed)
        offsets, indexes = bytearray(), bytearray()
        start = self._size
        for number, entries in self._indexes.items():
            offsets += struct.pack("<HQ", number, start + len(chunk) + len(indexes))
            indexes += _record(MESSAGE_INDEX, struct.pack("<HI", number, len(entries)), entries)
        self._write(chunk + indexes)
        self._chunks += _record(
            CHUNK_INDEX,
            struct.pack("<QQQQI", *self._chunk_ns, start, len(chunk), len(offsets)),
            offsets,
            struct.pack("<Q", len(indexes)),
            _text("zstd"),
            struct.pack("<QQ", len(compressed), len(self._chunk)),
        )
        self._chunk_count += 1
        for number, entries in self._indexes.items():
            self._counts[number] = self._counts.get(number, 0) + len(entries) // INDEX_ENTRY.size
        self._segment_ns = min(self._segment_ns[0], self._chunk_ns[0]), max(self._segment_ns[1], self._chunk_ns[1])
        self._chunk, self._indexes, self._chunk_ns = bytearray(), {}, (_NEVER_NS, 0)

    def sync(self) -> None:
        """Write the chunk, and everything to the medium."""
        self.flush()
        self.settler()()

    def settler(self) -> Callable[[], None]:
        """What waits for the medium to have everything written until now: any thread may call it, once, while others
        write on, and even after the file was closed.
        """
        try:
            file = os.dup(self._file)
        except OSError as error:
            raise disk_error(self._path, error) from None

        def settle() -> None:
            try:
                os.fdatasync(file)
            except OSError as error:
                raise disk_error(self._path, error) from None
            finally:
                os.close(file)

        return settle

    def seal(self) -> None:
        """Write the chunk and the summary, everything to the medium, and close the file."""
        self.flush()
        data_end = _record(DATA_END, struct.pack("<I", 0))
        first_ns, last_ns = self._segment_ns if self._counts else (0, 0)
        counts = b"".join(struct.pack("<HQ", number, count) for number, count in self._counts.items())
        statistics = _record(
            STATISTICS,
            struct.pack("<QHIII", sum(self._counts.values()), len(self._ids), len(self._ids), 0, 0),
            struct.pack("<IQQI", self._chunk_count, first_ns, last_ns, len(counts)),
            counts,
        )
        start = self._size + len(data_end)
        summary, offsets = bytearray(), bytearray()
        for opcode, group in (
            (SCHEMA, self._schemas),
            (CHANNEL, self._channels),
            (STATISTICS, statistics),
            (CHUNK_INDEX, self._chunks),
        ):
            if group:
                place = struct.pack("<BQQ", opcode, start + len(summary), len(group))
                offsets += _record(SUMMARY_OFFSET, place)
                summary += group
        footer = FOOTER_HEAD.pack(FOOTER, 20, start, start + len(summary))
        checked = summary + offsets + footer
        self._write(data_end + checked + struct.pack("<I", zlib.crc32(checked)) + MAGIC)
        try:
            self.sync()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file as it is: without the chunk, and without a summary."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1  # the number may be another file's by now

    def _register(self, channel: Channel) -> int:
        number = self._ids[channel.topic] = len(self._ids) + 1
        schema = _record(
            SCHEMA,
            struct.pack("<H", number),
            _text(channel.type),
            _text("protobuf"),
            struct.pack("<I", len(channel.schema)),
            channel.schema,
        )
        topic = _record(
            CHANNEL, struct.pack("<HH", number, number), _text(channel.topic), _text("protobuf"), struct.pack("<I", 0)
        )
        self._chunk += schema + topic
        self._schemas += schema
        self._channels += topic
        return number

    def _write(self, data: bytes | bytearray) -> None:
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, view[done:], self._size + done)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise disk_error(self._path, error) from None
        self._size += done


def _record(opcode: int, *parts: bytes | bytearray) -> bytes:
    return RECORD.pack(opcode, sum(map(len, parts))) + b"".join(parts)


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


def disk_error(path: Path, error: OSError) -> JournalError:
    """What to raise when writing a segment failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        status = os.statvfs(path.parent)
        free = status.f_bavail * status.f_frsize
        return JournalError(f"{path}: the disk is full, {free} bytes are free; remove old segments or other files")
    return JournalError(f"{path}: {error.strerror or error}; give a directory that can be written")
