"""Frames and lines of text: what goes in comes out, whatever is around it; what is damaged does not."""

import binascii

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl import console, frames, smp
from edgecl.frames import Frame
from edgecl.smp import MalformedError, Message

payloads = st.binary(max_size=600) | st.integers(0, frames.MAX_PAYLOAD_BYTES).map(bytes)
words = st.integers(0, 0xFFFF)


@given(st.builds(Frame, st.integers(frames.OPEN, frames.CLOSE), words, words, words, payloads))
def test_a_frame_lies_between_zeros_and_has_none(frame: Frame) -> None:
    encoded = frame.encode()
    assert encoded[0] == encoded[-1] == 0 and 0 not in encoded[1:-1]
    assert len(encoded) - 2 <= frames.MAX_ENCODED_BYTES
    assert frames.decode(encoded[1:-1]) == frame


def test_the_bytes_of_a_frame_are_these() -> None:
    check = binascii.crc32(bytes.fromhex("04010200030004") + b"hello").to_bytes(4, "big").hex()
    stuffed = "04040102" + "0203" + "0b0468656c6c6f"
    assert Frame(frames.LAST, 0x0102, 3, 4, b"hello").encode().hex() == f"00{stuffed}{check}00"


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_damaged_frame_is_none(payload: bytes, data: st.DataObject) -> None:
    encoded = bytearray(Frame(frames.LAST, 7, 8, 9, payload).encode()[1:-1])
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    assert frames.decode(bytes(encoded)) is None
    assert frames.decode(bytes(encoded[:at])) is None


@given(st.binary(max_size=100))
def test_noise_is_no_frame(noise: bytes) -> None:
    assert frames.decode(noise) is None


def test_kinds_that_there_are_not_and_sizes_beyond_the_limit_are_none() -> None:
    for frame in (
        Frame(0, 1, 1, 1),
        Frame(9, 1, 1, 1),
        Frame(frames.LAST, 1, 1, 1, bytes(frames.MAX_PAYLOAD_BYTES + 1)),
    ):
        assert frames.decode(frame.encode()[1:-1]) is None


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=700), max_size=4), st.lists(st.sampled_from(
    [b"", b"login: ", b"[   1.0] a kernel line\n", b"\x06\x09", b"\x06\x09AAAA\n", b"\x04\x14AAAA\n", b"\xff\x00\n"]
), min_size=5, max_size=5))  # fmt: skip
def test_messages_are_found_among_other_text(messages: list[bytes], noise: list[bytes]) -> None:
    text = b""
    for number, message in enumerate(messages):
        between = noise[number] if not noise[number].startswith(b"\x06\x09") else b"\n" + noise[number] + b"\n"
        text += between + console.encode(message)
    found, used = console.scan(text + noise[-1])
    assert found == messages
    assert used == (len(text) if messages else 0)


def test_kernel_lines_between_the_lines_of_a_message_do_no_harm() -> None:
    message = bytes(range(256))
    lines = console.encode(message).splitlines(keepends=True)
    assert len(lines) == 3 and all(len(line) <= 127 for line in lines)
    text = b"[    2.0] usb 1-1: new device\r\n".join(lines).replace(b"\n", b"\r\n")
    assert console.scan(text)[0] == [message]
    for missing in range(3):
        assert console.scan(b"".join(lines[:missing] + lines[missing + 1 :])) == ([], 0)


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_damaged_line_gives_no_message(message: bytes, data: st.DataObject) -> None:
    text = bytearray(console.encode(message))
    at = data.draw(st.integers(0, len(text) - 2))
    text[at] ^= 1 << data.draw(st.integers(0, 7))
    assert console.scan(text)[0] in ([], [message])  # the last bits of base64 may mean nothing


def test_smp_over_console_as_it_is_specified() -> None:
    assert console.encode(b"Hello, world!") == b"\x06\x09AA9IZWxsbywgd29ybGQhet4=\n"


def test_messages_are_packed_as_smp_is_specified() -> None:
    message = Message(smp.WRITE, 0, 0, 66, b"\xa1ad\x62hi")
    assert message.encode().hex() == "0a00000600004200" + "a161646268" + "69"
    assert smp.decode(message.encode()) == message
    assert smp.decode(bytes.fromhex("0200000200000700a000")[:8] + b"\xa0\x00").version == 0
    assert message.answer(b"\xa0").encode().hex() == "0b00000100004200a0"


@given(st.binary(max_size=64))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    try:
        message = smp.decode(data)
    except MalformedError:
        return
    try:
        smp.mapping(message.body)
    except MalformedError:
        return


HOSTILE = [
    "", "ff", "81" * 10_000, "9bffffffffffffffff", "5b7f7f7f7f7f7f7f7f", "c4821bffffffffffffffff01", "d81d00", "a18000",
    "01", "c1fb7fefffffffffffff", "a1a0a0", "d9010a00", "a16161c11bffffffffffffffff",
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE)
def test_hostile_bodies_are_refused(body: str) -> None:
    with pytest.raises(MalformedError):
        smp.mapping(bytes.fromhex(body))
