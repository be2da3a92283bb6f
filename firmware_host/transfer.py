"""Files over one session, several requests on their way at a time."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecl import messages
from edgecl.errors import StoreError
from firmware_host.session import LostError, Session


@dataclass(frozen=True)
class Source:
    """An object to send: a file, or its bytes."""

    sha256: str
    content: Path | bytes

    def size(self) -> int:
        """In bytes. Raises StoreError."""
        if isinstance(self.content, bytes):
            return len(self.content)
        try:
            return self.content.stat().st_size
        except OSError as error:
            raise StoreError(f"{self.content}: {error.strerror}; give a file that can be read") from None


Told = Callable[[str, int, int], None]
"""Of an object: how much of it is there now, and how many bytes travelled for that."""


@dataclass(frozen=True)
class _Part:
    sha256: str
    end: int
    count: int


def send(session: Session, sources: Sequence[Source], starts: Mapping[str, int], told: Told) -> None:
    """Send each object from where the board has got to.

    Raises StoreError: the board has no room, or a file cannot be read. BundleError: the bytes of an object are others.
    """
    waiting: deque[_Part] = deque()

    def arrived() -> None:
        part = waiting.popleft()
        off = session.answer(messages.UploadAnswer).off
        if off < part.end:
            raise LostError(f"object {part.sha256}: another host sends it too, and it was thrown away; try again")
        told(part.sha256, off, part.count)

    for source in sources:
        size, off = source.size(), starts[source.sha256]
        with _reading(source) as read:
            first = True
            while first or off < size:
                while len(waiting) >= session.outstanding:
                    arrived()
                data = read(off, min(session.data_bytes, size - off))
                whole = size if first else None
                name = f"objects/{source.sha256}"
                session.post(messages.UPLOAD, messages.UploadRequest(name=name, off=off, data=data, len=whole))
                off, first = off + len(data), False
                waiting.append(_Part(source.sha256, off, len(data)))
    while waiting:
        arrived()


def parts(session: Session, name: str, start: int, size: int) -> Iterator[bytes]:
    """The bytes of a file of the board from one offset to another. Raises StoreError: it has fewer."""
    asked, waiting = start, deque[int]()
    while start < size:
        while asked < size and len(waiting) < session.outstanding:
            most = min(session.data_bytes, size - asked)
            session.post(messages.DOWNLOAD, messages.DownloadRequest(name=name, off=asked, most=most))
            waiting.append(most)
            asked += most
        data = session.answer(messages.DownloadAnswer).data
        if len(data) != waiting.popleft():
            raise StoreError(f"{name}: it got shorter on the board while it came; fetch it again")
        start += len(data)
        yield data


@contextlib.contextmanager
def _reading(source: Source) -> Iterator[Callable[[int, int], bytes]]:
    content = source.content
    if isinstance(content, bytes):
        yield lambda off, count: content[off : off + count]
        return
    try:
        file = os.open(content, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{content}: {error.strerror}; give a file that can be read") from None

    def read(off: int, count: int) -> bytes:
        data = os.pread(file, count, off)
        if len(data) != count:
            raise StoreError(f"{content}: it got shorter while it was sent; send it again")
        return data

    try:
        yield read
    finally:
        os.close(file)
