"""The host's side of the protocol, over any link: typed requests, and transfers that resume.

A transfer that loses its connection connects again by itself and goes on where it was, a few times in a row; so does
one that is started again later. Any other request that loses its connection raises: only its caller knows whether
asking twice is harmless. The next request connects again.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from edgecl import disk, messages
from edgecl.errors import BundleError, LinkError, StoreError
from edgecl.messages import Code, HelloAnswer, Missing, Wish
from firmware_host import transfer
from firmware_host.links.link import Link
from firmware_host.session import LostError, Session
from firmware_host.transfer import Source

__all__ = ["Client", "LostError", "Progress", "Source"]

PAUSES_S: Final = (0.2, 0.5, 1.0, 3.0)
"""Before connecting again, where nothing got through in between; then it is given up."""
_READ_BYTES: Final = 1 << 20

A = TypeVar("A", bound=msgspec.Struct)
R = TypeVar("R")

Progress = Callable[[int, int], None]
"""Bytes that are there, of how many."""


class Client:
    """A connection to the agent of one board, opened by the first request or by `with`.

    Any method raises LinkError: the board cannot be reached; and what the board raises, as the same error.
    """

    def __init__(self, link: Link, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self.link = link
        self._pauses_s = pauses_s
        self._session: Session | None = None
        self._moved = 0

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self) -> HelloAnswer:
        """Connect, where that is still to do; what the agent said of itself."""
        return self._connected().hello

    def close(self) -> None:
        """Leave the board."""
        session, self._session = self._session, None
        if session:
            session.close()

    def request(self, code: Code, body: msgspec.Struct, kind: type[A]) -> A:
        """Ask one thing."""
        with self._used() as session:
            session.post(code, body)
            return session.answer(kind)

    def wanted(self, objects: Iterable[Wish]) -> tuple[Missing, ...]:
        """Which of these objects the board does not have, and how much of each it has."""
        wishes = tuple(objects)
        missing: list[Missing] = []
        for at in range(0, len(wishes), messages.MAX_WANTED):
            asked = messages.WantedRequest(objects=wishes[at : at + messages.MAX_WANTED])
            missing += self.request(messages.WANTED, asked, messages.WantedAnswer).missing
        return tuple(missing)

    def upload(self, content: Path | bytes, sha256: str, progress: Progress | None = None) -> int:
        """Send an object, as far as it is not there; the number of bytes that travelled.

        Raises StoreError: the board has no room, or the file cannot be read. BundleError: these bytes are others.
        """
        return self.upload_all([Source(sha256, content)], progress)

    def upload_all(self, sources: Sequence[Source], progress: Progress | None = None) -> int:
        """Send objects, one behind the other; as `upload`."""
        sizes = {source.sha256: source.size() for source in sources}
        total, travelled = sum(sizes.values()), 0
        held: dict[str, int] = {}

        def told(sha256: str, off: int, count: int) -> None:
            nonlocal travelled
            travelled += count
            self._moved += count
            held[sha256] = off
            if progress:
                progress(sum(held.values()), total)

        def work() -> None:
            missing = self.wanted(Wish(sha256=name, size=size) for name, size in sizes.items())
            starts = {one.sha256: min(one.held, sizes[one.sha256]) for one in missing}
            for name in sizes.keys() - starts.keys() - held.keys():
                told(name, sizes[name], 0)
            try:
                with self._used() as session:
                    transfer.send(session, [source for source in sources if source.sha256 in starts], starts, told)
            except BundleError:
                if not any(starts.values()):
                    raise
                work()  # what an earlier transfer had left was no good; the board has thrown it away

        self._resumed(work)
        return travelled

    def download(self, name: str, into: Path, progress: Progress | None = None) -> int:
        """Fetch a file of the board, whole or not at all; its size. `<into>.part` keeps what has come of it.

        Raises StoreError: it cannot be written here, or the file on the board changed meanwhile.
        """

        def work() -> int:
            size = self.request(messages.STATUS, messages.StatusRequest(name=name), messages.StatusAnswer).len
            part = into.with_name(into.name + ".part")
            if self._fetch(name, part, size, progress):
                part.unlink()  # what an earlier transfer had left was of another file
                if self._fetch(name, part, size, progress):
                    raise StoreError(f"{name}: it changes on the board while it comes; fetch it when it is finished")
            part.rename(into)
            disk.sync_directory(into.parent)
            return size

        try:
            return self._resumed(work)
        except OSError as error:
            raise StoreError(f"{into}: {error.strerror or error}; give another destination") from None

    def _fetch(self, name: str, part: Path, size: int, progress: Progress | None) -> bool:
        """Complete a part; whether its bytes are others than those of the file."""
        digest, there = hashlib.sha256(), 0
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
            while there < size and (piece := file.read(min(_READ_BYTES, size - there))):
                digest.update(piece)
                there += len(piece)
            file.seek(there)
            file.truncate()
            syncing = disk.EarlySync(file.fileno())
            with self._used() as session, contextlib.closing(syncing):
                for piece in transfer.parts(session, name, there, size):
                    file.write(piece)
                    syncing.wrote(len(piece))
                    digest.update(piece)
                    there += len(piece)
                    self._moved += len(piece)
                    if progress:
                        progress(there, size)
            file.flush()
            os.fsync(file.fileno())
        if name.startswith("objects/"):
            return name != f"objects/{digest.hexdigest()}"
        asked = messages.HashRequest(name=name, len=size)
        return self.request(messages.HASH, asked, messages.HashAnswer).output != digest.digest()

    def _connected(self) -> Session:
        if self._session and self._session.stale:
            self.close()
        if not self._session:
            self._session = Session(self.link)
        return self._session

    @contextlib.contextmanager
    def _used(self) -> Iterator[Session]:
        """The session; one that broke, or where answers are left that nobody waits for, is closed."""
        session = self._connected()
        try:
            yield session
        except BaseException as error:
            if isinstance(error, LostError) or session.broken or session.waiting:
                self.close()
            raise

    def _resumed(self, work: Callable[[], R]) -> R:
        """Do it, again after each lost connection as long as something gets through."""
        failed = 0
        while True:
            before = self._moved
            try:
                return work()
            except LinkError as error:
                if not isinstance(error, LostError) and not failed:
                    raise
                failed = 1 if self._moved > before else failed + 1
                if failed > len(self._pauses_s):
                    raise
                time.sleep(self._pauses_s[failed - 1])
