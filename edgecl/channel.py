"""A reliable, ordered channel of messages over a stream of bytes that may lose, change or add some.

Messages travel in pieces, each in a frame (edgecl/frames.py), a window of them at a time. The receiver takes pieces in
their order only, and tells which it expects; what is lost is sent again with all that follows (go-back-N): at once when
the receiver sees a gap, or after a while without word. Both ends use this class. One side begins a session with
`connect`; a new session replaces the one before, so a host that went away leaves nothing behind.

On a clean stream both sides agree on plain frames (edgecl/plain.py): nothing is acknowledged there, nor sent again.

A side that is asked in the lines of edgecl/console.py answers in them: one message at a time, and whoever asks repeats
what got lost.
"""

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

from edgecl import console, frames, plain
from edgecl.frames import SEQUENCES, Frame
from edgecl.smp import MAX_MESSAGE_BYTES
from edgecl.streams import ByteStream

STALL_S: Final = 30.0
"""Without a byte for so long while something is awaited, the other side is taken for gone."""

ALIVE_EVERY_S: Final = 2.0
_LONGEST_RETRY_S: Final = 4.0

OPEN_RETRY_S: Final = 0.3
"""On a line, where the first OPEN may be lost."""

DAMAGED: Final = 3
"""Frames damaged in a row after which the line is taken for one of another speed."""
DAMAGED_OPEN: Final = 16
"""The same in a session, which once worked at this speed."""


Framing = Literal["frames", "console"]


@dataclass(frozen=True)
class Pace:
    """How much is on its way at a time, and how soon it is sent again."""

    piece_bytes: int
    window: int
    """Pieces sent and not yet acknowledged; less than half of the sequences."""
    retry_s: float
    acknowledged: int = 1
    """Pieces that may arrive before they are acknowledged, where no message carries that along."""
    baud: int | None = None
    """Of a serial line."""
    clean: bool = False
    """The stream loses and changes nothing."""

    def seconds(self, count: int) -> float:
        """That so many bytes take on a line."""
        return 10 * count / self.baud if self.baud else 0.0


PIPE: Final = Pace(piece_bytes=frames.MAX_PAYLOAD_BYTES, window=32, retry_s=math.inf, acknowledged=16, clean=True)
"""For streams that lose nothing, so nothing is sent again. The window is for sides that know no plain frames."""


def line_pace(baud: int) -> Pace:
    """For a serial line: pieces short enough that few are hit, a window that covers the way there and back."""
    pace = Pace(piece_bytes=1024, window=8, retry_s=0.15, baud=baud)
    return replace(pace, retry_s=pace.retry_s + 2 * pace.seconds(pace.window * pace.piece_bytes))


class Channel:
    """One side of a channel.

    Any method raises EOFError: the stream has ended; TimeoutError: the other side is silent or takes nothing.
    """

    def __init__(
        self,
        stream: ByteStream,
        pace: Pace,
        *,
        serves: bool = False,
        stall_s: float = STALL_S,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`serves`: this side answers, and lets the other begin sessions. `lost` is called when a session has ended,
        or none comes through.
        """
        self.pace = pace
        self.framing: Framing = "frames"
        """Of the message received last, in which the next is sent."""
        self.version = 0
        """Of the frames that the other side makes."""
        self.repeated = 0
        """How often pieces were sent again."""
        self._stream, self._serves, self._stall_s, self._lost = stream, serves, stall_s, lost
        self._arrived = bytearray()
        self._inbox: deque[tuple[Framing, bytes]] = deque()
        self._writing = threading.Lock()
        self._busy = False
        self._plain = False
        self._begin(None)

    def _begin(self, session: int | None) -> None:
        self._session = session
        self._opened = False
        self._heard = time.monotonic()
        self._damaged = 0
        self._following = 0  # of the next piece to send
        self._sent: deque[tuple[int, bytes]] = deque()  # not acknowledged yet
        self._retry_s, self._retry_at = self.pace.retry_s, 0.0
        self._expected = 0
        self._told: int | None = 0  # the `expected` that the other side was told last
        self._gap: int | None = None  # how far ahead the last piece was, where one before it is missing
        self._partial = bytearray()

    def connect(self, session: int, *, timeout_s: float) -> None:
        """Begin a session, whose number should be another each time."""
        self._begin(session)
        self._inbox.clear()
        self.framing = "frames"
        deadline, retry_at = time.monotonic() + timeout_s, 0.0
        while not self._opened:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError
            if now >= retry_at:
                self._open(frames.OPEN, session, offers=self.pace.clean)
                retry_at = now + (OPEN_RETRY_S if self.pace.baud else self.pace.retry_s)
            self._take(min(retry_at, deadline) - now)

    def send(self, message: bytes) -> None:
        """Send a message. It has arrived when the answer to it has."""
        if self.framing == "console":
            self._put(console.encode(message))
            return
        session, size = self._session, self.pace.piece_bytes
        if self._plain:
            if session is not None:
                self._put(plain.encode(frames.LAST, session, message))
            return
        for at in range(0, len(message), size):
            while len(self._sent) >= self.pace.window:
                self._step(None, idle=False)
            if session is None or self._session != session:
                return  # whoever asked has gone
            kind = frames.LAST if at + size >= len(message) else frames.PIECE
            frame = Frame(kind, session, self._following, self._expected, message[at : at + size])
            self._following = (self._following + 1) % SEQUENCES
            self._told = self._expected
            if not self._sent:
                self._heard = time.monotonic()
                self._wait_anew(self.pace.retry_s)
            self._sent.append((frame.sequence, frame.encode()))
            self._put(self._sent[-1][1])

    def receive(self, timeout_s: float | None = None, *, idle: bool = False) -> bytes:
        """The next message. `idle`: nothing is awaited, and silence is as it should be."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._sent:
            self._heard = time.monotonic()
        while not self._inbox:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._step(left, idle=idle)
        self.framing, message = self._inbox.popleft()
        return message

    @contextmanager
    def kept_alive(self, every_s: float = ALIVE_EVERY_S) -> Iterator[Callable[[bool], None]]:
        """While the block runs, tell the other side that this one is at work: whenever it is, which is what the block
        says by what it is given.
        """
        over = threading.Event()

        def tell() -> None:
            was_busy = False
            while not over.wait(every_s):
                if was_busy and self._busy and self.framing == "frames":
                    try:
                        self._control(frames.ALIVE)
                    except OSError:
                        return
                was_busy = self._busy

        def busy(is_busy: bool) -> None:
            self._busy = is_busy

        threading.Thread(target=tell, daemon=True).start()
        try:
            yield busy
        finally:
            over.set()

    def close(self) -> None:
        """Tell the other side that the session is over, as far as it still listens."""
        with contextlib.suppress(OSError, EOFError):
            if self._session is not None and self.framing == "frames":
                self._control(frames.CLOSE)
        self._begin(None)

    def _step(self, timeout_s: float | None, *, idle: bool) -> None:
        """Wait for something to happen, and do what is due."""
        now = time.monotonic()
        repeats = bool(self._sent) and self.pace.retry_s < math.inf
        awaited = not idle or repeats
        wait = math.inf if timeout_s is None else timeout_s
        if awaited:
            wait = min(wait, self._heard + self._stall_s - now)
        if repeats:
            wait = min(wait, self._retry_at - now)
        self._take(max(0.0, wait) if wait < math.inf else None)
        now = time.monotonic()
        if awaited and now >= self._heard + self._stall_s:
            if not idle:
                raise TimeoutError
            self._end()  # of a host that has gone; another may come
        if repeats and self._sent and now >= self._retry_at:
            self._repeat()
            self._wait_anew(min(2 * self._retry_s, max(self.pace.retry_s, _LONGEST_RETRY_S)))

    def _take(self, timeout_s: float | None) -> None:
        """Handle what arrives within a time, if anything does."""
        try:
            data = self._stream.read(timeout_s)
        except TimeoutError:
            return
        if not data:
            raise EOFError
        arrived, start = self._arrived, 0
        arrived += data
        while not self._plain and (end := arrived.find(0, start)) >= 0:
            if end > start:
                self._handle(bytes(arrived[start:end]))
            start = end + 1
        del arrived[:start]
        if self._plain:
            self._take_plain()
            return
        if arrived.endswith(b"\n"):  # lines of a console have no zeros behind them
            del arrived[: self._scan(arrived)]
        if len(arrived) > frames.MAX_ENCODED_BYTES:
            arrived.clear()
        if self._opened and (self._told is None or (self._expected - self._told) % SEQUENCES >= self.pace.acknowledged):
            self._control(frames.ACK)

    def _take_plain(self) -> None:
        arrived, start = self._arrived, 0
        while len(arrived) - start >= plain.HEADER_BYTES:
            header = plain.decode_header(arrived, start)
            if not header:
                raise EOFError  # something else writes here
            kind, session, length = header
            begin = start + plain.HEADER_BYTES
            if len(arrived) < begin + length:
                break
            start = begin + length
            with memoryview(arrived) as view:
                frame = Frame(kind, session, self._expected, self._expected, bytes(view[begin:start]))
            self._understand(frame)
        del arrived[:start]

    def _scan(self, text: bytes | bytearray) -> int:
        messages, used = console.scan(text)
        self._inbox.extend(("console", message) for message in messages)
        if messages:
            self._heard = time.monotonic()
        return used

    def _handle(self, encoded: bytes) -> None:
        """What lay between two zeros."""
        frame = frames.decode(encoded)
        if frame is None:
            if self._scan(encoded):
                return
            self._damaged += 1
            if self._damaged >= (DAMAGED_OPEN if self._opened else DAMAGED):
                self._damaged = 0
                if self._serves:
                    self._end()
            if self._opened and self._gap is None:
                self._control(frames.NAK)
                self._gap = 0
            return
        self._damaged = 0
        self._understand(frame)

    def _understand(self, frame: Frame) -> None:
        if frame.kind == frames.OPEN and self._serves:
            self._answer_open(frame)
        elif frame.session != self._session:
            pass  # of a session that is over
        elif frame.kind == frames.OPENED:
            self._opened, self._heard = True, time.monotonic()
            self.version = frame.payload[0] if frame.payload else 0
            self._plain = self._plain or (self.pace.clean and _offers(frame))
        elif frame.kind == frames.CLOSE and self._serves:
            self._end()
        elif self._opened:
            self._heard = time.monotonic()
            self._acknowledge(frame.expected)
            if frame.kind in (frames.PIECE, frames.LAST):
                self._accept(frame)
            elif frame.kind == frames.NAK:
                self._repeat()

    def _answer_open(self, frame: Frame) -> None:
        if frame.session != self._session:  # or else it came twice
            self._begin(frame.session)
            self._inbox.clear()
            self.framing = "frames"
            self._opened = True
        agreed = self.pace.clean and _offers(frame)
        self._open(frames.OPENED, frame.session, offers=agreed)
        self._plain = self._plain or agreed

    def _accept(self, frame: Frame) -> None:
        ahead = (frame.sequence - self._expected) % SEQUENCES
        if ahead == 0:
            self._expected = (self._expected + 1) % SEQUENCES
            self._gap = None
            if len(self._partial) + len(frame.payload) > MAX_MESSAGE_BYTES:
                self._end()  # no side that keeps to the protocol sends that
            elif frame.kind == frames.PIECE:
                self._partial += frame.payload
            else:
                self._inbox.append(("frames", bytes(self._partial) + frame.payload))
                self._partial.clear()
        elif ahead < SEQUENCES // 2:
            if self._gap is None or ahead <= self._gap:  # the first, or what was sent again has a gap again
                self._control(frames.NAK)
            self._gap = ahead
        else:
            self._told = None  # what was acknowledged came again: the acknowledgement was lost

    def _acknowledge(self, expected: int) -> None:
        if not self._sent or (expected - self._sent[0][0]) % SEQUENCES > len(self._sent):
            return  # an old one
        while self._sent and self._sent[0][0] != expected:
            self._sent.popleft()
            self._wait_anew(self.pace.retry_s)

    def _repeat(self) -> None:
        self.repeated += bool(self._sent)
        for _, encoded in self._sent:
            self._put(encoded)
        self._wait_anew(self._retry_s)

    def _wait_anew(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._retry_at = time.monotonic() + retry_s

    def _end(self) -> None:
        self._begin(None)
        self._lost()

    def _control(self, kind: int) -> None:
        self._told = self._expected
        session = self._session or 0
        self._put(plain.encode(kind, session) if self._plain else Frame(kind, session, 0, self._expected).encode())

    def _open(self, kind: int, session: int, *, offers: bool) -> None:
        payload = bytes([frames.VERSION, plain.OFFERED] if offers else [frames.VERSION])
        self._put(plain.encode(kind, session, payload) if self._plain else Frame(kind, session, 0, 0, payload).encode())

    def _put(self, data: bytes) -> None:
        with self._writing:
            try:
                self._stream.write(data)
            except BrokenPipeError:
                raise EOFError from None


def _offers(frame: Frame) -> bool:
    return len(frame.payload) > 1 and bool(frame.payload[1] & plain.OFFERED)
