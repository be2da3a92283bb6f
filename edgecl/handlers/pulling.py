"""Requests about what a host pulls: journals, samples, learned states, the log; and what it asks of the service."""

import hashlib
import os
import re
import socket
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from edgecl import disk
from edgecl.board import Board
from edgecl.errors import RequestError, StoreError
from edgecl.orders import (
    LOG_BYTES,
    MAX_LISTED,
    AcknowledgeAnswer,
    AcknowledgeRequest,
    AskAnswer,
    AskRequest,
    ListAnswer,
    Listed,
    ListRequest,
    LogAnswer,
    LogRequest,
)

SOCKET: Final = "socket"
LOG: Final = "log/edgecl.log"
TAIL_BYTES: Final = 4 << 10
"""Of the log, where no offset is given."""

MCAP_END: Final = b"\x89MCAP0\r\n"
"""Last bytes of a segment that is sealed."""

MAX_LINE_BYTES: Final = 1 << 20
WAIT_S: Final = 120.0
"""For the service's answer: labels are learned before it comes."""

SEGMENT: Final = re.compile(r"(journal|samples)/[A-Za-z0-9]{1,64}-[0-9]{1,12}\.mcap")


def ask(board: Board, request: AskRequest) -> AskAnswer:
    """Ask the service what the host wants to know of it. Raises RequestError: none runs."""
    if len(request.line) > MAX_LINE_BYTES or b"\n" in request.line:
        raise RequestError("a request to the service is one line; ask for less at once")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        folder = os.open(board.store, os.O_RDONLY | os.O_DIRECTORY)
        try:
            connection.settimeout(WAIT_S)
            connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")  # the name of a socket has 107 bytes at most
            connection.sendall(request.line + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(MAX_LINE_BYTES)
        except (FileNotFoundError, ConnectionRefusedError):
            raise RequestError(f"{board.store}: no service runs here; start it: systemctl start edgecl") from None
        except OSError as error:
            raise RequestError(f"{board.store}: the service does not answer: {error}; see edgecl logs") from None
        finally:
            os.close(folder)
    if not line.endswith(b"\n"):
        raise RequestError(f"{board.store}: the service has gone; ask again")
    return AskAnswer(line=line.rstrip(b"\n"))


def listing(board: Board, request: ListRequest) -> ListAnswer:
    """What there is to pull. Raises StoreError."""
    root = board.store / request.folder
    found = []
    try:
        for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
            name = str(path.relative_to(board.store))
            if name > request.after and not path.name.startswith("."):
                try:
                    found.append(Listed(name=name, size=path.stat().st_size, sealed=_sealed(path)))
                except FileNotFoundError:
                    continue  # a ring has gone on
            if len(found) == MAX_LISTED:
                break
    except OSError as error:
        raise StoreError(f"{root}: {error.strerror}; repair the store") from None
    return ListAnswer(files=tuple(found))


def acknowledge(board: Board, request: AcknowledgeRequest) -> AcknowledgeAnswer:
    """Delete sealed segments that the host has, byte for byte. Raises StoreError, JournalError.

    The newest ones stay as far as the numbers of segments and samples go on from them.
    """
    from edgecl import journal  # late, as it brings protobuf, which the agent does without otherwise

    deleted = 0
    try:
        needed = {path for folder in ("journal", "samples") for path in journal.needed(board.store / folder)}
        for kept in request.files:
            path = board.store / kept.name
            if not SEGMENT.fullmatch(kept.name) or path.is_symlink() or not path.is_file() or not _sealed(path):
                continue
            if path in needed:
                continue
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest == kept.sha256:
                path.unlink()
                deleted += 1
        for folder in {(board.store / kept.name).parent for kept in request.files if SEGMENT.fullmatch(kept.name)}:
            if folder.is_dir():
                disk.sync_directory(folder)
    except OSError as error:
        raise StoreError(f"{board.store}: {error.strerror}; repair the store") from None
    return AcknowledgeAnswer(deleted=deleted)


def log(board: Board, request: LogRequest) -> LogAnswer:
    """What the service said; what is left of a log that was begun anew meanwhile comes before the new one.

    Raises StoreError, RequestError: nothing yet.
    """
    path = board.store / LOG
    try:
        if request.off is not None and (found := _older(path, request.file, request.off)):
            return found
        with path.open("rb") as file:
            size, number = os.fstat(file.fileno()).st_size, _number(file)
            off = request.off
            if off is None:
                off = max(0, size - TAIL_BYTES)
                file.seek(off)
                off += len(file.readline()) if off else 0
            elif request.file != number or off > size:
                off = 0
            file.seek(off)
            data = file.read(LOG_BYTES)
    except FileNotFoundError:
        if request.off is not None:  # it is being begun anew this moment
            return LogAnswer(data=b"", off=request.off, file=request.file)
        raise RequestError(f"{path}: nothing has been said yet; is the service running?") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; repair the store") from None
    return LogAnswer(data=data, off=off + len(data), file=number)


def _older(path: Path, asked: int, off: int) -> LogAnswer | None:
    """What the log before says behind an offset, if the host had got to that one, or to one that is gone."""
    with suppress(FileNotFoundError), path.open("rb") as newest, path.with_name(f"{path.name}.1").open("rb") as file:
        number = _number(file)
        if asked in (0, _number(newest)):
            return None
        file.seek(off if asked == number else 0)
        if data := file.read(LOG_BYTES):
            return LogAnswer(data=data, off=file.tell(), file=number)
    return None


def _number(file: BinaryIO) -> int:
    """Of a log, by its place on the disk and its first line: a place is soon used again."""
    file.seek(0)
    return (os.fstat(file.fileno()).st_ino & 0x7FFFFFFF) << 32 | zlib.crc32(file.readline())


def _sealed(path: Path) -> bool:
    if path.suffix != ".mcap":
        return True  # written once, and renamed
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - len(MCAP_END)))
        return size > 2 * len(MCAP_END) and file.read() == MCAP_END
