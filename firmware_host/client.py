"""The host's side of the protocol, over any link: typed requests, and transfers that resume.

A transfer that loses its connection connects again by itself and goes on where it was, a few times in a row; so does
one that is started again later. Any other request that loses its connection raises: only its caller knows whether
asking twice is harmless. The next request connects again.
"""

import contextlib
import hashlib
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from edgecl import __version__, disk, errors, messages, smp
from edgecl.channel import Channel
from edgecl.errors import BundleError, EdgeclError, LinkError, StoreError
from edgecl.messages import Code, HelloAnswer, Missing, Wish
from edgecl.smp import Message
from firmware_host.links.link import Connection, Link

OUTSTANDING: Final = 16
"""Requests of a transfer on their way at a time."""
PAUSES_S: Final = (0.2, 0.5, 1.0, 3.0)
"""Before connecting again, where nothing got through in between; then it is given up."""
_READ_BYTES: Final = 1 << 20
_LINE_PIECES: Final = 8
"""Pieces in a message of a transfer over a serial line."""

A = TypeVar("A", bound=msgspec.Struct)
R = TypeVar("R")

Progress = Callable[[int, int], None]
"""Bytes that are there, of how many."""

_KINDS: Final = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EdgeclError)
}


class LostError(LinkError):
    """The connection broke after the board had answered: what was under way can be taken up again."""


@dataclass(frozen=True)
class Source:
    """An object to send: a file, or its bytes."""

    sha256: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


class Client:
    """A connection to the agent of one board, opened by the first request or by `with`.

    Any method raises LinkError: the board cannot be reached; and what the board raises, as the same error.
    """

    def __init__(self, link: Link, *, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self.link = link
        self._pauses_s = pauses_s
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._hello: HelloAnswer | None = None
        self._sequence = 0
        self._asked: deque[Message] = deque()
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
        if self._hello is None:
            self._connection = self.link.open()
            try:
                self._greet(self._connection)
            except BaseException:
                self.close()
                raise
        assert self._hello
        return self._hello

    def close(self) -> None:
        """Leave the board."""
        channel, connection = self._channel, self._connection
        self._channel = self._connection = self._hello = None
        self._asked.clear()
        if channel:
            channel.close()
        if connection:
            connection.close()

    def request(self, code: Code, body: msgspec.Struct, kind: type[A]) -> A:
        """Ask one thing."""
        self.connect()
        self._post(code, body)
        return self._answer(kind)

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
        """Send objects one behind the other; as `upload`."""
        sizes = {source.sha256: _size(source) for source in sources}
        total = sum(sizes.values())
        held: dict[str, int] = {}
        travelled = 0
        again = True

        def told(sha256: str, off: int, count: int) -> None:
            nonlocal travelled
            travelled += count
            self._moved += count
            held[sha256] = off
            if progress:
                progress(sum(held.values()), total)

        def work() -> None:
            nonlocal again
            whole = {sha256 for sha256, off in held.items() if off == sizes[sha256]}
            try:
                self._send([source for source in sources if source.sha256 not in whole], sizes, told)
            except BundleError:
                if not again:
                    raise
                again = False  # what an earlier transfer had left was no good; the board has thrown it away
                self.close()
                work()

        self._resumed(work)
        return travelled

    def download(self, name: str, into: Path, progress: Progress | None = None) -> int:
        """Fetch a file of the board, whole or not at all; `<into>.part` keeps what has come of it. Its size.

        Raises StoreError: it cannot be written here, or the file on the board changed meanwhile.
        """
        return self._resumed(lambda: self._fetch(name, into, progress))

    def _greet(self, connection: Connection) -> None:
        options = self.link.options
        self._channel = Channel(connection, connection.pace, stall_s=options.stall_s)
        with self._breaking(connection, LinkError):
            self._channel.connect(secrets.randbelow(0xFFFF) + 1, timeout_s=options.connect_s)
        self._hello = self._say_hello(None)

    def _say_hello(self, baud: int | None) -> HelloAnswer:
        hello = messages.HelloRequest(protocol=messages.PROTOCOL, edgecl=__version__, baud=baud)
        self._post(messages.HELLO, hello)
        answer = self._answer(HelloAnswer)
        if not answer.oldest <= messages.PROTOCOL:
            raise LinkError(
                f"{self.link.address}: its agent (edgecl {answer.edgecl}) speaks protocol {answer.oldest} or later, "
                f"this edgecl {__version__} speaks {messages.PROTOCOL}; install edgecl {answer.edgecl} here"
            )
        return answer

    def _post(self, code: Code, body: msgspec.Struct) -> None:
        assert self._channel and self._connection
        operation, group, command = code
        self._sequence = (self._sequence + 1) % 256
        message = Message(operation, group, command, self._sequence, smp.pack(body))
        with self._breaking(self._connection, LostError):
            self._channel.send(message.encode())
        self._asked.append(message)

    def _answer(self, kind: type[A]) -> A:
        """The answer to the request that has waited longest."""
        assert self._channel and self._connection
        asked = self._asked.popleft()
        with self._breaking(self._connection, LostError):
            data = self._channel.receive()
        try:
            message = smp.decode(data)
            if (message.operation, message.sequence) != (asked.operation | 1, asked.sequence):
                raise smp.MalformedError(f"an answer to {message.sequence} where {asked.sequence} was asked")
            content = smp.mapping(message.body)
            if "rc" in content or "err" in content:
                raise self._refusal(asked, message.body, content)
            return smp.unpack(message.body, kind)
        except smp.MalformedError as error:
            self.close()
            raise LinkError(f"{self.link.address}: the agent's answer is none: {error}; try again") from None

    def _refusal(self, asked: Message, body: bytes, content: dict[object, object]) -> EdgeclError:
        if "err" in content:
            failure = smp.unpack(body, messages.Failure)
            error = _KINDS.get(failure.kind, EdgeclError)(failure.edgecl)
            error.exit_code = failure.err.rc
            return error
        plain = smp.unpack(body, messages.PlainFailure)
        if plain.rc == smp.UNSUPPORTED:
            return LinkError(
                f"{self.link.address}: its agent does not know this request (group {asked.group}, command "
                f"{asked.command}); bring it to edgecl {__version__}: edgecl provision {self.link.address}"
            )
        return EdgeclError(f"{self.link.address}: {plain.rsn}")

    @contextlib.contextmanager
    def _breaking(self, connection: Connection, kind: type[LinkError]) -> Iterator[None]:
        """Turn the end of a connection into an error that says why."""
        try:
            yield
        except EOFError:
            self._break(connection, "ended", kind)
        except TimeoutError:
            self._break(connection, "silent", kind)

    def _break(self, connection: Connection, found: str, kind: type[LinkError]) -> None:
        failure = connection.failure(found)
        self.close()
        raise kind(str(failure)) from None

    def _resumed(self, work: Callable[[], R]) -> R:
        """Do it, again after each lost connection as long as something gets through."""
        self.connect()
        failed = 0
        while True:
            before = self._moved
            try:
                self.connect()
                return work()
            except LinkError as error:
                if not isinstance(error, LostError) and not failed:
                    raise
                failed = 1 if self._moved > before else failed + 1
                if failed > len(self._pauses_s):
                    raise
                time.sleep(self._pauses_s[failed - 1])
            except BaseException:
                self._abandon()
                raise

    def _abandon(self) -> None:
        """Answers that nobody waits for any more go with the connection."""
        if self._asked:
            self.close()

    def _data_bytes(self) -> int:
        assert self._channel and self._hello
        if self._channel.framing == "console":
            return messages.CONSOLE_DATA_BYTES
        return min(self._hello.data_bytes, self._channel.pace.piece_bytes * _LINE_PIECES)

    def _most(self) -> int:
        assert self._channel
        return 1 if self._channel.framing == "console" else OUTSTANDING

    def _send(self, sources: Sequence[Source], sizes: dict[str, int], told: Callable[[str, int, int], None]) -> None:
        """Each from where the board has got to; `told` gets the new offset, and the bytes that travelled for it."""
        starts = {one.sha256: one.held for one in self.wanted(Wish(sha256=s.sha256, size=s.size) for s in sources)}
        for source in sources:
            if source.sha256 not in starts:
                told(source.sha256, sizes[source.sha256], 0)
        waiting: deque[tuple[str, int, int]] = deque()
        for source in sources:
            if source.sha256 in starts:
                self._send_one(source, sizes[source.sha256], starts[source.sha256], waiting, told)
        while waiting:
            self._sent_part(waiting, told)

    def _send_one(
        self,
        source: Source,
        size: int,
        start: int,
        waiting: deque[tuple[str, int, int]],
        told: Callable[[str, int, int], None],
    ) -> None:
        count, off, first = self._data_bytes(), min(start, size), True
        with contextlib.ExitStack() as stack:
            read = _reader(source, stack)
            while first or off < size:
                while len(waiting) >= self._most():
                    self._sent_part(waiting, told)
                data = read(off, min(count, size - off))
                self._post(messages.UPLOAD, messages.UploadRequest(
                    name=f"objects/{source.sha256}", off=off, data=data, len=size if first else None
                ))  # fmt: skip
                waiting.append((source.sha256, off + len(data), len(data)))
                off, first = off + len(data), False

    def _sent_part(self, waiting: deque[tuple[str, int, int]], told: Callable[[str, int, int], None]) -> None:
        sha256, end, count = waiting.popleft()
        off = self._answer(messages.UploadAnswer).off
        if off < end:  # another host sent it too, and what it had sent was thrown away
            self.close()
            raise LostError(f"{self.link.address}: another host sends object {sha256} too; try again")
        told(sha256, off if not waiting or waiting[0][0] != sha256 else end, count)

    def _fetch(self, name: str, into: Path, progress: Progress | None) -> int:
        size = self.request(messages.STATUS, messages.StatusRequest(name=name), messages.StatusAnswer).len
        part = into.with_name(into.name + ".part")
        try:
            digest, start = hashlib.sha256(), 0
            with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b") as file:
                while start < size and (piece := file.read(min(_READ_BYTES, size - start))):
                    digest.update(piece)
                    start += len(piece)
                file.seek(start)
                file.truncate()
                for piece in self._parts(name, start, size):
                    file.write(piece)
                    digest.update(piece)
                    self._moved += len(piece)
                    start += len(piece)
                    if progress:
                        progress(start, size)
                file.flush()
                os.fsync(file.fileno())
            if digest.digest() != self._hash(name, size):
                part.unlink()
                raise StoreError(f"{name}: it changed on the board while it came; fetch it again")
            part.rename(into)
            disk.sync_directory(into.parent)
        except OSError as error:
            raise StoreError(f"{into}: {error.strerror or error}; give another destination") from None
        return size

    def _parts(self, name: str, start: int, size: int) -> Iterator[bytes]:
        count, asked = self._data_bytes(), start
        waiting: deque[int] = deque()
        while start < size:
            while asked < size and len(waiting) < self._most():
                most = min(count, size - asked)
                self._post(messages.DOWNLOAD, messages.DownloadRequest(name=name, off=asked, most=most))
                waiting.append(most)
                asked += most
            data = self._answer(messages.DownloadAnswer).data
            if len(data) != waiting.popleft():
                self._abandon()
                raise StoreError(f"{name}: it got shorter on the board while it came; fetch it again")
            start += len(data)
            yield data

    def _hash(self, name: str, size: int) -> bytes | int:
        if name.startswith("objects/"):
            return bytes.fromhex(name.removeprefix("objects/"))
        asked = messages.HashRequest(name=name, len=size)
        return self.request(messages.HASH, asked, messages.HashAnswer).output


def _size(source: Source) -> int:
    try:
        return source.size
    except OSError as error:
        raise StoreError(f"{source.content!s}: {error.strerror}; give a file that can be read") from None


def _reader(source: Source, stack: contextlib.ExitStack) -> Callable[[int, int], bytes]:
    content = source.content
    if isinstance(content, bytes):
        return lambda off, count: content[off : off + count]
    path = content
    file = stack.enter_context(path.open("rb"))

    def read(off: int, count: int) -> bytes:
        data = os.pread(file.fileno(), count, off)
        if len(data) != count:
            raise StoreError(f"{path}: it got shorter while it was sent; send it again")
        return data

    return read
