"""Read one segment of a journal as far as it is whole, and repair one that was not sealed. Damage never raises."""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

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
    Channel,
    Message,
    Writer,
    disk_error,
)

_END_BYTES: Final = FOOTER_HEAD.size + 4 + len(MAGIC)
"""What ends a sealed segment: the footer with its checksum, and the magic again."""

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
                yield Stop(size, 0, whole, "" if whole else "the summary is damaged; no record is missing")
                return
            if length > MAX_CHUNK_BYTES:
                raise _DamagedError(f"a record of {length} bytes")
            body = file.read(length)
            if opcode == CHUNK:
                yield Chunk(good, _messages(body, channels))
            elif not (opcode == HEADER and good == len(MAGIC)) and not (opcode == MESSAGE_INDEX and _is_index(body)):
                raise _DamagedError("no record starts here")
    except (_DamagedError, struct.error, zstandard.ZstdError, UnicodeDecodeError, OSError) as error:
        yield Stop(good, size - good, False, str(error))
    else:
        yield Stop(good, 0, False, "not sealed: still being written, or cut off between two chunks")


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
    except (struct.error, UnicodeDecodeError, OSError, OverflowError):
        pass  # a damaged place: what stands before it can still be read
    for offset, length in reversed(chunks):
        try:
            file.seek(offset)
            messages = _messages(file.read(min(length, MAX_CHUNK_BYTES)), channels)
        except (_DamagedError, struct.error, zstandard.ZstdError, UnicodeDecodeError, OSError):
            continue
        yield from reversed(messages)


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
    raw = _inflated(body)
    schemas: dict[int, tuple[str, bytes]] = {}
    found: list[Message] = []
    at = 0
    while at < len(raw):
        opcode, length = RECORD.unpack_from(raw, at)
        record = raw[at + RECORD.size : at + RECORD.size + length]
        if len(record) != length:
            raise _DamagedError("a record reaches beyond its chunk")
        at += RECORD.size + length
        if opcode == SCHEMA:
            name, place = _read_text(record, 2)
            _, place = _read_text(record, place)
            schemas[int.from_bytes(record[:2], "little")] = name, record[place + 4 :]
        elif opcode == CHANNEL:
            number, schema = struct.unpack_from("<HH", record)
            channels[number] = Channel(_read_text(record, 4)[0], *schemas.get(schema, ("", b"")))
        elif opcode == MESSAGE:
            number, sequence, log_time_ns, _ = MESSAGE_FIELDS.unpack_from(record)
            if number not in channels:
                raise _DamagedError("a message on an undeclared channel")
            found.append(Message(channels[number], log_time_ns, sequence, record[MESSAGE_FIELDS.size :]))
    return found


def _inflated(chunk: bytes) -> bytes:
    """The records in a chunk, which its checksum vouches for."""
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
