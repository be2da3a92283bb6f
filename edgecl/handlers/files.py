"""Files, by SMP's file commands: objects are received, and they, journals, samples and what was learned are given.

Names are relative to the store, and no others than those of SERVED. No link is followed.
"""

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgecl.board import Board
from edgecl.errors import RequestError, StoreError
from edgecl.messages import (
    CONSOLE_DATA_BYTES,
    DATA_BYTES,
    DownloadAnswer,
    DownloadRequest,
    HashAnswer,
    HashesAnswer,
    HashKind,
    HashRequest,
    Missing,
    Nothing,
    StatusAnswer,
    StatusRequest,
    UploadAnswer,
    UploadRequest,
    WantedAnswer,
    WantedRequest,
)

_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
OBJECT: Final = re.compile(r"objects/([0-9a-f]{64})")
SERVED: Final = (
    OBJECT,
    re.compile(rf"(journal|samples)/{_NAME}\.mcap"),
    re.compile(rf"learned(/{_NAME}){{2,4}}"),
)
_READ_BYTES: Final = 1 << 20


def upload(board: Board, request: UploadRequest) -> UploadAnswer:
    """Take a part of an object. Raises RequestError, StoreError, BundleError."""
    found = OBJECT.fullmatch(request.name)
    if not found:
        raise RequestError(f"{request.name!r}: not the name of an object; send to objects/<sha256>")
    return UploadAnswer(off=board.objects.receive(found[1], request.off, request.data, request.len))


def download(board: Board, request: DownloadRequest) -> DownloadAnswer:
    """Give a part of a file. Raises RequestError, StoreError."""
    fits = CONSOLE_DATA_BYTES if board.console else DATA_BYTES
    most = min(fits, request.most or fits)
    with _opened(board, request.name) as file:
        data = os.pread(file, most, request.off)
        size = os.fstat(file).st_size if request.off == 0 else None
    return DownloadAnswer(off=request.off, data=data, len=size)


def status(board: Board, request: StatusRequest) -> StatusAnswer:
    """How long a file is. Raises RequestError, StoreError."""
    with _opened(board, request.name) as file:
        return StatusAnswer(len=os.fstat(file).st_size)


def hashed(board: Board, request: HashRequest) -> HashAnswer:
    """The hash of a part of a file. Raises RequestError, StoreError."""
    kind, digest, crc, at = request.type or "sha256", hashlib.sha256(), 0, request.off
    with _opened(board, request.name) as file:
        end = os.fstat(file).st_size if request.len is None else request.off + request.len
        while at < end and (piece := os.pread(file, min(_READ_BYTES, end - at), at)):
            at += len(piece)
            if kind == "crc32":
                crc = zlib.crc32(piece, crc)
            else:
                digest.update(piece)
    output = crc if kind == "crc32" else digest.digest()
    return HashAnswer(type=kind, off=request.off, len=at - request.off, output=output)


def hashes(board: Board, request: Nothing) -> HashesAnswer:
    """The hashes there are."""
    return HashesAnswer(types={"sha256": HashKind(format=1, size=32), "crc32": HashKind(format=0, size=4)})


def wanted(board: Board, request: WantedRequest) -> WantedAnswer:
    """Which objects are missing, and how much of each is there. Raises StoreError."""
    objects = board.objects
    return WantedAnswer(
        missing=tuple(
            Missing(sha256=wish.sha256, held=objects.held(wish.sha256))
            for wish in request.objects
            if objects.size(wish.sha256) is None
        )
    )


@contextmanager
def _opened(board: Board, name: str) -> Iterator[int]:
    """A file of the store, for reading. Raises RequestError: there is none; StoreError: it cannot be read."""
    if not any(form.fullmatch(name) for form in SERVED):
        raise RequestError(f"{name!r}: no file that is given away; see docs/formats/protocol.md for those that are")
    files: list[int] = []
    try:
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC
            files.append(os.open(board.store, flags | os.O_DIRECTORY))
            *folders, last = name.split("/")
            for folder in folders:
                files.append(os.open(folder, flags | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=files[-1]))
            files.append(os.open(last, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=files[-1]))
            if not stat.S_ISREG(os.fstat(files[-1]).st_mode):
                raise RequestError(f"{name}: not a file; ask for one")
            yield files[-1]
        except FileNotFoundError:
            raise RequestError(f"{name}: there is no such file on the board; see what it has") from None
        except OSError as error:
            raise StoreError(f"{board.store / name}: {error.strerror}; repair the state directory") from None
    finally:
        for file in files:
            os.close(file)
