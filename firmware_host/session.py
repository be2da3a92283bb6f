"""One connection to an agent: the greeting, then requests and their answers, in order."""

import contextlib
import secrets
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from edgecl import __version__, errors, messages, smp
from edgecl.channel import Channel
from edgecl.errors import EdgeclError, LinkError
from edgecl.messages import Code, HelloAnswer
from edgecl.smp import Message
from firmware_host.links.link import Connection, Link

OUTSTANDING: Final = 64
"""Requests on their way at a time."""
LINE_PIECES: Final = 8
"""Pieces in a message of a transfer over a serial line."""

OPEN_S: Final = 1.2
"""For frames to come through on a line; a board waits a little longer before it goes back to its own speed."""
TRY_S: Final = 0.5
"""For an agent to answer at one speed, before another is tried; twice as long each round."""
_CONSOLE_RETRY_S: Final = 0.2
"""Beyond the time that the messages themselves take."""

LINE_SILENCE_S: Final = 30.0
"""After which the board may soon go back to the line's own speed: edgecl/line.py waits for twice that."""

A = TypeVar("A", bound=msgspec.Struct)

_KINDS: Final = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EdgeclError)
}


class LostError(LinkError):
    """The connection broke after the board had answered: what was under way can be taken up again."""


class Session:
    """An agent that has said hello.

    Any method raises LinkError; a LostError once the agent had answered. The session is of no use then.
    """

    def __init__(self, link: Link, *, raised: bool = True) -> None:
        """Connect. `raised`: go on at the higher speed that a line was given."""
        self._link = link
        self._stall_s = link.options.stall_s
        self._connection: Connection = link.open()
        self.broken = False
        self._asked: deque[tuple[Message, bytes]] = deque()
        self._sequence = 0
        self._channel = Channel(self._connection, self._connection.pace, stall_s=self._stall_s)
        try:
            with self._broken(LinkError):
                if self._connection.line:
                    self.hello = self._greet_line(self._connection.baud if raised else None)
                else:
                    self._channel.connect(_number(), timeout_s=link.options.connect_s)
                    self.hello = self._say_hello()
        except BaseException:
            self.close()
            raise
        self._heard = time.monotonic()

    @property
    def stale(self) -> bool:
        """A line at a raised speed has been silent for so long that the board may leave it."""
        return self._connection.line and time.monotonic() - self._heard > LINE_SILENCE_S

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._asked)

    @property
    def outstanding(self) -> int:
        """How many requests of a transfer may be."""
        return 1 if self._channel.framing == "console" else OUTSTANDING

    @property
    def data_bytes(self) -> int:
        """Of a file, in one message."""
        if self._channel.framing == "console":
            return messages.CONSOLE_DATA_BYTES
        return min(self.hello.data_bytes, self._channel.pace.piece_bytes * LINE_PIECES)

    def post(self, code: Code, body: msgspec.Struct) -> None:
        """Send a request."""
        operation, group, command = code
        self._sequence = (self._sequence + 1) % 256
        message = Message(operation, group, command, self._sequence, smp.pack(body))
        encoded = message.encode()
        with self._broken(LostError):
            self._channel.send(encoded)
        self._asked.append((message, encoded))

    def answer(self, kind: type[A]) -> A:
        """The answer to the request that has waited longest. Raises what the board raised, too."""
        asked, encoded = self._asked.popleft()
        with self._broken(LostError):
            try:
                message, content = self._received(asked, encoded, self._stall_s)
                self._heard = time.monotonic()
                if "rc" in content or "err" in content:
                    raise self._refusal(asked, message.body)
                return smp.convert(content, kind)
            except smp.MalformedError as error:
                self.broken = True
                raise LinkError(
                    f"{self._link.address}: what the agent answers is no answer: {error}; try again"
                ) from None

    def close(self) -> None:
        """Leave the board."""
        self._channel.close()
        self._connection.close()

    def _received(self, asked: Message, encoded: bytes, timeout_s: float) -> tuple[Message, dict[str, Any]]:
        """Over a console, whoever asks repeats what may have been lost. Raises MalformedError, TimeoutError."""
        if self._channel.framing == "frames":
            message = smp.decode(self._channel.receive())
            if not _answers(message, asked):
                raise smp.MalformedError(f"it is to {message.sequence} where {asked.sequence} was asked")
            return message, smp.mapping(message.body)
        end = time.monotonic() + timeout_s
        count = len(encoded) + messages.CONSOLE_DATA_BYTES
        retry_s = _CONSOLE_RETRY_S + 3 * self._channel.pace.seconds(count)
        while (left := end - time.monotonic()) > 0:
            retry_end = time.monotonic() + min(left, retry_s)
            with contextlib.suppress(TimeoutError):
                while True:
                    message = smp.decode(self._channel.receive(max(0.0, retry_end - time.monotonic())))
                    if _answers(message, asked):  # or else one that came twice
                        return message, smp.mapping(message.body)
            self._channel.send(encoded)
        raise TimeoutError

    def _refusal(self, asked: Message, body: bytes) -> EdgeclError:
        try:
            failure = smp.unpack(body, messages.Failure)
        except smp.MalformedError:
            plain = smp.unpack(body, messages.PlainFailure)
            if plain.rc == smp.UNSUPPORTED:
                return LinkError(
                    f"{self._link.address}: its agent does not know this request (group {asked.group}, command "
                    f"{asked.command}); bring it edgecl {__version__}: edgecl provision {self._link.address}"
                )
            return EdgeclError(f"{self._link.address}: {plain.rsn}")
        error = _KINDS.get(failure.kind, EdgeclError)(failure.edgecl)
        error.exit_code = failure.err.rc
        return error

    def _say_hello(self, baud: int | None = None, timeout_s: float | None = None) -> HelloAnswer:
        asked = Message(*messages.HELLO, self._sequence, _hello(baud))
        encoded = asked.encode()
        self._channel.send(encoded)
        try:
            message, content = self._received(asked, encoded, timeout_s or self._stall_s)
            if "rc" in content or "err" in content:
                raise self._refusal(asked, message.body)
            hello = smp.unpack(message.body, HelloAnswer)
        except smp.MalformedError as error:
            raise LinkError(f"{self._link.address}: what answers is no agent of edgecl: {error}") from None
        if not hello.oldest <= messages.PROTOCOL:
            raise LinkError(
                f"{self._link.address}: its agent (edgecl {hello.edgecl}) speaks protocol {hello.oldest} or later, "
                f"this edgecl {__version__} speaks {messages.PROTOCOL}; install edgecl {hello.edgecl} here"
            )
        return hello

    def _greet_line(self, baud: int | None) -> HelloAnswer:
        """Lines of text first, then frames, faster if that is wished; what does not come through is left.

        Raises TimeoutError: nothing answers.
        """
        base = self._connection.pace
        end, try_s = time.monotonic() + self._link.options.connect_s, TRY_S
        while time.monotonic() < end:
            self._channel.framing, self._channel.pace = "console", base
            with contextlib.suppress(TimeoutError):
                hello = self._say_hello(baud, timeout_s=try_s)
                if hello.baud and self._opened(hello.baud):
                    return self._say_hello()
                if hello.baud:  # it does not come through; the board goes back by itself
                    self._connection.set_baud(self._connection.base_baud)
                    self._channel.framing, self._channel.pace = "console", base
                    hello = self._say_hello(timeout_s=max(0.1, end - time.monotonic()))
                if self._opened(None):
                    return self._say_hello()
                self._channel.framing = "console"
                return hello
            if baud and self._opened(baud, try_s):  # where a host left it that has gone
                return self._say_hello()
            if baud:
                self._connection.set_baud(self._connection.base_baud)
            try_s *= 2
        raise TimeoutError

    def _opened(self, baud: int | None, timeout_s: float = OPEN_S) -> bool:
        """Whether frames come through, at another speed or as it is."""
        if baud:
            self._connection.set_baud(baud)
        self._channel.pace = self._connection.pace
        try:
            self._channel.connect(_number(), timeout_s=timeout_s)
        except TimeoutError:
            return False
        return True

    @contextlib.contextmanager
    def _broken(self, kind: type[LinkError]) -> Iterator[None]:
        """Turn the end of a connection into an error that says why."""
        try:
            yield
        except EOFError:
            raise kind(str(self._connection.failure("ended"))) from None
        except TimeoutError:
            raise kind(str(self._connection.failure("silent"))) from None


def _hello(baud: int | None) -> bytes:
    return smp.pack(messages.HelloRequest(protocol=messages.PROTOCOL, edgecl=__version__, baud=baud))


def _answers(message: Message, asked: Message) -> bool:
    return (message.operation, message.group, message.command, message.sequence) == (
        asked.operation | 1, asked.group, asked.command, asked.sequence
    )  # fmt: skip


def _number() -> int:
    return secrets.randbelow(0xFFFF) + 1
