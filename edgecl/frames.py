"""Frames: pieces of messages on a stream of bytes that may lose, change or add some.

A frame lies between two zero bytes and has none in it (COBS, consistent overhead byte stuffing), so whatever is
damaged, the next frame is found. Decoded it is

    byte 0          kind, one of those below
    bytes 1-2       session: frames of another one are passed over
    bytes 3-4       sequence of a piece; 0 in other kinds
    bytes 5-6       the sequence expected next from the other side: all before it has arrived
    then            payload
    last 4 bytes    CRC-32 (zlib's) of all before

Numbers are big-endian.
"""

import struct
import zlib
from typing import Final, NamedTuple

from cobs import cobs

from edgecl.smp import MAX_MESSAGE_BYTES

OPEN: Final = 1
"""Begins a session; the payload is a byte, the version of this format, and one that may offer edgecl/plain.py."""
OPENED: Final = 2
"""Answers OPEN. The sequences of both directions begin at 0."""
PIECE: Final = 3
"""Of a message that goes on in the next."""
LAST: Final = 4
"""The end of a message, or the whole of it."""
ACK: Final = 5
NAK: Final = 6
"""Something was lost: send again from the sequence expected."""
ALIVE: Final = 7
"""The other side is at work on a request that takes long."""
CLOSE: Final = 8
"""Ends the session."""

VERSION: Final = 1
MAX_PAYLOAD_BYTES: Final = MAX_MESSAGE_BYTES
"""So that the largest message fits into one."""

SEQUENCES: Final = 1 << 16

_HEADER: Final = struct.Struct(">BHHH")
_CRC: Final = struct.Struct(">I")
_SMALLEST: Final = _HEADER.size + _CRC.size
_LARGEST: Final = _SMALLEST + MAX_PAYLOAD_BYTES
MAX_ENCODED_BYTES: Final = _LARGEST + _LARGEST // 254 + 1


class Frame(NamedTuple):
    """One frame."""

    kind: int
    session: int
    sequence: int
    expected: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Its bytes on the stream, with the zeros around it."""
        content = _HEADER.pack(self.kind, self.session, self.sequence, self.expected) + self.payload
        return b"\0%b\0" % cobs.encode(content + _CRC.pack(zlib.crc32(content)))


def decode(encoded: bytes) -> Frame | None:
    """The frame that lay between two zeros; None where it is damaged."""
    try:
        content = cobs.decode(encoded)
    except cobs.DecodeError:
        return None
    if not _SMALLEST <= len(content) <= _LARGEST:
        return None
    end = len(content) - _CRC.size
    if _CRC.unpack_from(content, end)[0] != zlib.crc32(memoryview(content)[:end]):
        return None
    kind, session, sequence, expected = _HEADER.unpack_from(content)
    return Frame(kind, session, sequence, expected, content[_HEADER.size : end]) if OPEN <= kind <= CLOSE else None
