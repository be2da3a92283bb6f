"""The channel: every message arrives once and in order, over a stream that loses, changes and adds bytes."""

import queue
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl import console, frames, plain
from edgecl.channel import PIPE, Channel, Pace, line_pace
from edgecl.frames import Frame

FAST = Pace(piece_bytes=64, window=8, retry_s=0.03)
Change = Callable[[bytes], bytes]


class Pipe:
    """One end of a stream in memory; what is written goes through `change` on its way."""

    def __init__(self, incoming: "queue.Queue[bytes]", outgoing: "queue.Queue[bytes]", change: Change) -> None:
        self._incoming, self._outgoing, self._change = incoming, outgoing, change
        self.written = bytearray()

    def read(self, timeout_s: float | None) -> bytes:
        try:
            return self._incoming.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None

    def write(self, data: bytes) -> None:
        self.written += data
        if changed := self._change(data):
            self._outgoing.put(changed)

    def close(self) -> None:
        self._outgoing.put(b"")


def pipes(change: Change = bytes) -> tuple[Pipe, Pipe]:
    one: queue.Queue[bytes] = queue.Queue()
    other: queue.Queue[bytes] = queue.Queue()
    return Pipe(one, other, change), Pipe(other, one, change)


@contextmanager
def echoing(stream: Pipe, pace: Pace = FAST, **options: float) -> Iterator[Channel]:
    """The side that answers: with the same message."""
    channel = Channel(stream, pace, serves=True, **options)  # type: ignore[arg-type]

    def echo() -> None:
        try:
            while True:
                channel.send(channel.receive(idle=True))
        except (EOFError, TimeoutError):
            pass

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        yield channel
    finally:
        stream._incoming.put(b"")
        thread.join()


def damage(seed: int, rate: float) -> Change:
    """Bytes are changed, lost and doubled, now and then with a line of text between."""
    chance = random.Random(seed)

    def change(data: bytes) -> bytes:
        found = bytearray()
        for byte in data:
            lot = chance.random()
            if lot < rate:
                found.append(byte ^ 1 << chance.randrange(8))
            elif lot < 2 * rate:
                continue
            elif lot < 3 * rate:
                found += bytes([byte, byte])
            elif lot < 3.3 * rate:
                found += b"kernel: 0\n" + bytes([byte])
            else:
                found.append(byte)
        return bytes(found)

    return change


@pytest.mark.parametrize("seed", range(6))
def test_everything_arrives_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)
    host, board = pipes(damage(seed, 1e-3))
    messages = [chance.randbytes(chance.choice((0, 1, 63, 64, 65, 500, 3000)) + 1) for _ in range(60)]
    with echoing(board) as answers:
        channel = Channel(host, FAST)
        channel.connect(seed + 1, timeout_s=30)
        got = []
        for number, message in enumerate(messages):
            channel.send(message)
            if number >= 5:
                got.append(channel.receive(30))
        got += [channel.receive(30) for _ in range(5)]
        assert got == messages
        assert channel.repeated + answers.repeated > 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=12), st.integers(0, 1 << 30))
def test_any_messages_over_any_damage(messages: list[bytes], seed: int) -> None:
    host, board = pipes(damage(seed, 2e-3))
    with echoing(board):
        channel = Channel(host, FAST)
        channel.connect(1, timeout_s=30)
        for message in messages:
            channel.send(message)
        assert [channel.receive(30) for _ in messages] == messages


def test_sequences_go_round() -> None:
    host, board = pipes()
    with echoing(board) as other:
        channel = Channel(host, FAST)
        channel.connect(1, timeout_s=5)
        channel._following = other._expected = frames.SEQUENCES - 3
        channel._expected = other._following = frames.SEQUENCES - 2
        for number in range(12):
            channel.send(b"%d" % number)
            assert channel.receive(5) == b"%d" % number


def test_a_new_session_replaces_the_one_before() -> None:
    host, board = pipes()
    with echoing(board):
        first = Channel(host, FAST)
        first.connect(1, timeout_s=5)
        first.send(bytes(1000))  # and goes, without its answer
        second = Channel(host, FAST)
        second.connect(2, timeout_s=5)
        second.send(b"new")
        assert second.receive(5) == b"new"


def test_an_open_that_comes_twice_begins_one_session() -> None:
    host, board = pipes(lambda data: data * 2)
    with echoing(board):
        channel = Channel(host, FAST)
        channel.connect(1, timeout_s=5)
        for number in range(20):
            channel.send(b"%d" % number)
            assert channel.receive(5) == b"%d" % number


def test_an_echo_of_its_own_bytes_is_no_answer() -> None:
    mirror: queue.Queue[bytes] = queue.Queue()
    with pytest.raises(TimeoutError):
        Channel(Pipe(mirror, mirror, bytes), FAST).connect(1, timeout_s=0.05)


def test_who_is_asked_in_lines_answers_in_lines() -> None:
    host, board = pipes()
    with echoing(board):
        channel = Channel(host, FAST)
        channel.framing = "console"
        channel.send(b"in lines")
        assert channel.receive(5) == b"in lines" and channel.framing == "console"
        channel.connect(3, timeout_s=5)
        channel.send(b"in frames")
        assert channel.receive(5) == b"in frames"
        host._outgoing.put(b"noise without a zero " + console.encode(b"lines again"))
        assert channel.receive(5) == b"lines again"


def test_silence_ends_waiting_but_not_idling() -> None:
    host, board = pipes()
    with echoing(board, stall_s=0.05) as answers:
        channel = Channel(host, FAST, stall_s=0.05)
        with pytest.raises(TimeoutError):
            channel.receive()
        with pytest.raises(TimeoutError):
            channel.receive(0.1, idle=True)  # for its own timeout alone
        channel.connect(1, timeout_s=5)
        channel.send(b"still there")
        assert channel.receive(5) == b"still there"
        assert answers._session == 1


def test_what_takes_long_is_waited_for_while_it_says_so() -> None:
    host, board = pipes()
    other = Channel(board, FAST, serves=True)
    told = threading.Event()

    def count(data: bytes) -> bytes:
        frame = frames.decode(data[1:-1])
        if frame and frame.kind == frames.ALIVE:
            alive.append(frame)
            if len(alive) == 5:
                told.set()
        return data

    alive: list[Frame] = []
    board._change = count

    def answer() -> None:
        with other.kept_alive(0.01) as busy:
            message = other.receive(idle=True)
            busy(True)
            told.wait()
            busy(False)
            other.send(message)

    thread = threading.Thread(target=answer)
    thread.start()
    channel = Channel(host, PIPE)
    channel.connect(1, timeout_s=5)
    channel.send(b"slow")
    assert channel.receive() == b"slow"
    thread.join()
    assert len(alive) >= 5


def test_a_message_beyond_the_limit_ends_the_session() -> None:
    host, board = pipes()
    ended = threading.Event()
    channel = Channel(board, FAST, serves=True, lost=ended.set)
    host.write(Frame(frames.OPEN, 1, 0, 0, b"\x01").encode())
    for sequence in range(3):
        host.write(Frame(frames.PIECE, 1, sequence, 0, bytes(40_000)).encode())
    host.close()
    with pytest.raises(EOFError):
        channel.receive(idle=True)
    assert ended.is_set()


def test_garbage_without_end_is_not_kept() -> None:
    host, board = pipes()
    channel = Channel(board, FAST, serves=True)
    for _ in range(30):
        host.write(b"x" * 10_000)
    host.close()
    with pytest.raises(EOFError):
        channel.receive(idle=True)
    assert len(channel._arrived) <= frames.MAX_ENCODED_BYTES


def test_clean_streams_go_over_to_plain_frames() -> None:
    host, board = pipes()
    with echoing(board, PIPE) as answers:
        host._outgoing.put(b"a shell says hello\n")
        channel = Channel(host, PIPE)
        channel.connect(9, timeout_s=5)
        messages = [bytes(70) * number for number in range(1, 900, 40)]
        for message in messages:
            channel.send(message)
        assert [channel.receive(5) for _ in messages] == messages
        assert answers._plain and not answers._sent
        assert plain.encode(frames.LAST, 9, messages[-1]) in host.written
        channel.connect(10, timeout_s=5)
        channel.send(b"again")
        assert channel.receive(5) == b"again"


@pytest.mark.parametrize(("one", "other"), [(PIPE, FAST), (FAST, PIPE)])
def test_a_side_that_knows_no_plain_frames_is_not_given_any(one: Pace, other: Pace) -> None:
    host, board = pipes()
    with echoing(board, other) as answers:
        channel = Channel(host, one)
        channel.connect(1, timeout_s=5)
        channel.send(bytes(5000))
        assert channel.receive(5) == bytes(5000)
        assert not channel._plain and not answers._plain


@given(st.binary(min_size=1, max_size=40), st.integers(1, 60))
def test_plain_frames_come_in_any_pieces(message: bytes, size: int) -> None:
    host, board = pipes()
    channel = Channel(board, PIPE, serves=True)
    channel._answer_open(Frame(frames.OPEN, 1, 0, 0, b"\x01\x01"))
    data = plain.encode(frames.LAST, 1, message) * 3
    for at in range(0, len(data), size):
        host.write(data[at : at + size])
    assert [channel.receive(5) for _ in range(3)] == [message] * 3


@pytest.mark.parametrize(
    "noise", [b"kernel: out of memory\n", plain.encode(9, 1), plain.encode(frames.LAST, 1)[:-1] + b"x"]
)
def test_noise_among_plain_frames_ends_the_connection(noise: bytes) -> None:
    host, board = pipes()
    channel = Channel(board, PIPE, serves=True)
    channel._answer_open(Frame(frames.OPEN, 1, 0, 0, b"\x01\x01"))
    host.write(plain.encode(frames.LAST, 1, b"whole"))
    assert channel.receive(5) == b"whole"
    host.write(noise)
    with pytest.raises(EOFError):
        channel.receive(5)


def test_a_plain_frame_beyond_the_limit_is_none() -> None:
    assert plain.decode_header(plain.encode(frames.LAST, 1, bytes(frames.MAX_PAYLOAD_BYTES)), 0)
    assert not plain.decode_header(plain.encode(frames.LAST, 1, bytes(frames.MAX_PAYLOAD_BYTES + 1)), 0)


def test_a_slow_line_is_given_the_time_that_it_takes() -> None:
    for baud in (9600, 115200, 921600):
        pace = line_pace(baud)
        assert pace.retry_s > pace.seconds(pace.window * pace.piece_bytes)
