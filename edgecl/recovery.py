"""Read one segment of a journal as far as it is whole, and repair one that was not sealed. Damage never raises."""

import fcntl
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeVar

import zstandard

from edgecl import disk
from edgecl.errors import JournalError
from edgecl.segment import (
    CHANNEL,
    CHUNK,
    DATA_END,
    FOOTER,
    FOOTER_HEAD,
    HEADER,
    INDEX_ENTRY,
    MAGIC,
    MAX_CHUNK_BYTES,
    MESSAGE,
    MESSAGE_FIELDS,
    MESSAGE_INDEX,
    RECORD,
    SCHEMA,
    STATISTICS,
    VERSION,
    Channel,
    Message,
    Writer,
    disk_error,
)

_END_BYTES: Final = FOOTER_HEAD.size + 4 + len(MAGIC)
"""What ends a sealed segment: the footer with its checksum, and the magic again."""

_HEAD: Final = struct.Struct(RECORD.format + MESSAGE_FIELDS.format[1:])
"""In front of a message's data, all of it."""

Parsed = TypeVar("Parsed")

_MAX_SUMMARY_BYTES: Final = 16 << 20
"""The summary of a full segment is under 1 MB; it grows with the size of segments."""


class Chunk(NamedTuple):
    """A whole chunk."""

    offset: int
    messages: list[Message]


class Stop(NamedTuple):
    """Where and why reading ended."""

    offset: int
    """End of the last whole record of the file."""
    bytes_lost: int
    """What stands behind it and may have held messages."""
    sealed: bool
    """Whether the segment is whole: nothing missing, nothing damaged."""
    reason: str


def scan(file: BinaryIO) -> Iterator[Chunk | Stop]:
    """The whole chunks from the start on, then one Stop. Holds one chunk in memory."""
    for offset, found in walk(file, _messages):
        yield found if isinstance(found, Stop) else Chunk(offset, found)


def walk(
    file: BinaryIO, parse: Callable[[bytes, dict[int, Channel]], Parsed]
) -> Iterator[tuple[int, Parsed] | tuple[int, Stop]]:
    """As `scan`, with chunks as `parse` makes them of what stands in one, compressed as it is, and of the channels that
    were declared before. It adds those that the chunk declares.
    """
    size, good = os.fstat(file.fileno()).st_size, 0
    channels: dict[int, Channel] = {}
    try:
        if file.read(len(MAGIC)) != MAGIC:
            raise _DamagedError("it does not start like an MCAP file")
        while (good := file.tell()) < size:
            opcode, length = RECORD.unpack(file.read(RECORD.size))
            if length > size - file.tell():
                raise _DamagedError("the last record is cut off")
            if opcode == DATA_END and length == 4:
                file.seek(length, os.SEEK_CUR)
                whole = _is_summary(file.tell(), file.read(min(size - file.tell(), _MAX_SUMMARY_BYTES)))
                yield size, Stop(size, 0, whole, "" if whole else "the summary is damaged; no record is missing")
                return
            if length > MAX_CHUNK_BYTES:
                raise _DamagedError(f"a record of {length} bytes")
            body = file.read(length)
            if opcode == CHUNK:
                yield good, parse(body, channels)
            elif not (opcode == HEADER and good == len(MAGIC)) and not (opcode == MESSAGE_INDEX and _is_index(body)):
                raise _DamagedError("no record starts here")
    except (_DamagedError, struct.error, zstandard.ZstdError, UnicodeDecodeError, OSError) as error:
        yield good, Stop(good, size - good, False, str(error))
    else:
        yield good, Stop(good, 0, False, "not sealed: still being written, or cut off between two chunks")


def backwards(file: BinaryIO) -> Iterator[Message]:
    """The messages of a sealed segment from the last to the first, chunk by chunk; damaged chunks are passed over."""
    size, chunks = os.fstat(file.fileno()).st_size, []
    channels: dict[int, Channel] = {}
    file.seek(len(MAGIC))
    try:
        while (offset := file.tell()) < size - len(MAGIC):
            opcode, length = RECORD.unpack(file.read(RECORD.size))
            if opcode == CHUNK:
                chunks.append((offset + RECORD.size, length))
            elif opcode == CHANNEL:  # in the summary; in a chunk they stand with the first message of their topic
                number, _ = struct.unpack_from("<HH", body := file.read(min(length, MAX_CHUNK_BYTES)))
                channels[number] = Channel(_read_text(body, 4)[0], "", b"")
            file.seek(offset + RECORD.size + length)
    except (struct.error, UnicodeDecodeError, OSError, OverflowError, ValueError):
        pass  # a damaged place: what stands before it can still be read
    for offset, length in reversed(chunks):
        try:
            file.seek(offset)
            messages = _messages(file.read(min(length, MAX_CHUNK_BYTES)), channels)
        except (_DamagedError, struct.error, zstandard.ZstdError, UnicodeDecodeError, OSError):
            continue
        yield from reversed(messages)


def count(file: BinaryIO) -> int:
    """The number of messages in a segment: as its summary tells, or else of those that can be read."""
    size = os.fstat(file.fileno()).st_size
    if _ends_sealed(file):
        file.seek(size - _END_BYTES)
        _, _, start, _ = FOOTER_HEAD.unpack(file.read(FOOTER_HEAD.size))
        file.seek(min(start, size))
        summary = file.read(_MAX_SUMMARY_BYTES)
        at = 0
        while _is_summary(start, summary) and at < len(summary) - _END_BYTES:
            opcode, length = RECORD.unpack_from(summary, at)
            if opcode == STATISTICS:
                return int.from_bytes(summary[at + RECORD.size :][:8], "little")
            at += RECORD.size + length
    file.seek(0)
    return sum(len(found.messages) for found in scan(file) if isinstance(found, Chunk))


def repair(path: Path) -> tuple[Stop, int] | None:
    """Replace a segment that was not sealed by its whole part, sealed: what was lost and how many messages were kept.
    None where it is sealed. The repaired segment is written beside the other and renamed.

    Raises JournalError: another process is writing the segment, or the repaired one cannot be written.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None if _ends_sealed(file) else _repair(file, path, path.with_name(f".{path.name}.new"))
    except BlockingIOError:
        raise JournalError(f"{path}: another process is writing it; stop that one first") from None
    except OSError as error:
        raise disk_error(path, error) from None


def _repair(file: BinaryIO, path: Path, new: Path) -> tuple[Stop, int]:
    disk.remove(new)  # a crash may have left it
    writer, kept, stop = Writer(new, durable=False), 0, Stop(0, 0, False, "")
    try:
        for found in scan(file):
            if isinstance(found, Stop):
                stop = found
            else:
                for message in found.messages:
                    writer.add(*message)
                kept += len(found.messages)
        writer.seal()
        new.rename(path)
        disk.sync_directory(path.parent)
    finally:
        writer.close()
        disk.remove(new)
    return stop, kept


class _DamagedError(Exception):
    """The file is not as a Writer writes it."""


def _ends_sealed(file: BinaryIO) -> bool:
    """Whether the file ends as a sealed segment does. Leaves it at its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    end = file.read()
    file.seek(0)
    return end.startswith(RECORD.pack(FOOTER, 20)) and end.endswith(MAGIC)


def _messages(body: bytes, channels: dict[int, Channel]) -> list[Message]:
    """The messages of a chunk. Channels that it declares are added to those known."""
    raw = inflated(body)
    return [
        Message(channels[number], log_time_ns, sequence, raw[start:stop])
        for number, sequence, log_time_ns, start, stop in frames(raw, channels)
    ]


Frame = tuple[int, int, int, int, int]
"""Channel, sequence and log time of a message, and where its data starts and stops in the records of its chunk."""


def frames(raw: bytes, channels: dict[int, Channel]) -> list[Frame]:
    """The messages in the records of a chunk. Channels that it declares are added to those known.

    Raises what `walk` takes for damage.
    """
    schemas: dict[int, tuple[str, bytes]] = {}
    found: list[Frame] = []
    head, size = _HEAD.unpack_from, len(raw)
    at, last = 0, size - _HEAD.size
    while at < size:
        if at <= last:
            opcode, length, number, sequence, log_time_ns, _ = head(raw, at)
        else:
            (opcode, length), number = RECORD.unpack_from(raw, at), None
        start = at + RECORD.size
        at = start + length
        if at > size:
            raise _DamagedError("a record reaches beyond its chunk")
        if opcode == MESSAGE:
            if length < MESSAGE_FIELDS.size:
                raise _DamagedError("a message is too short")
            if number not in channels:
                raise _DamagedError("a message on an undeclared channel")
            found.append((number, sequence, log_time_ns, start + MESSAGE_FIELDS.size, at))
        elif opcode == SCHEMA:
            record = raw[start:at]
            name, place = _read_text(record, 2)
            _, place = _read_text(record, place)
            schemas[int.from_bytes(record[:2], "little")] = name, record[place + 4 :]
        elif opcode == CHANNEL:
            record = raw[start:at]
            number, schema = struct.unpack_from("<HH", record)
            topic, place = _read_text(record, 4)
            name, described = schemas.get(schema, ("", b""))
            channels[number] = Channel(topic, name, described, _version(record, _read_text(record, place)[1]))
    return found


def _version(channel: bytes, at: int) -> int:
    """What the metadata of a channel say of the version of its schema; 0 where they do not."""
    end = at + 4 + struct.unpack_from("<I", channel, at)[0]
    at += 4
    while at < end:
        key, at = _read_text(channel, at)
        value, at = _read_text(channel, at)
        if key == VERSION and value.isascii() and value.isdigit():
            return int(value[:9])
    return 0


def inflated(chunk: bytes) -> bytes:
    """The records in a chunk, which its checksum vouches for. Raises what `walk` takes for damage."""
    size, crc = struct.unpack_from("<QI", chunk, 16)
    data = chunk[_read_text(chunk, 28)[1] + 8 :]
    if size > MAX_CHUNK_BYTES or zstandard.get_frame_parameters(data).content_size != size:
        raise _DamagedError("a chunk of more bytes than it says, or than are allowed")
    raw = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK_BYTES).decompress(data)
    if zlib.crc32(raw) != crc:
        raise _DamagedError("a chunk whose checksum differs")
    return raw


def _is_index(body: bytes) -> bool:
    """Whether a message index is consistent: it has no checksum, and a damaged opcode could turn a chunk into one."""
    (length,) = struct.unpack_from("<I", body, 2)
    return bool(length == len(body) - 6 and length % INDEX_ENTRY.size == 0)


def _is_summary(start: int, summary: bytes) -> bool:
    """Whether this is all that stands behind a DataEnd in a sealed segment."""
    end = summary[-_END_BYTES:]
    return (
        len(end) == _END_BYTES
        and FOOTER_HEAD.unpack_from(end)[:3] == (FOOTER, 20, start)
        and end[FOOTER_HEAD.size :] == struct.pack("<I", zlib.crc32(summary[: -4 - len(MAGIC)])) + MAGIC
    )


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    """The text at an offset, and the offset behind it."""
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length].decode(), at + 4 + length
