"""Plain frames: messages on a stream that loses and changes nothing, as the pipes of a process are, and ssh.

They cost next to nothing, where those of edgecl/frames.py look at every byte twice. Both sides agree on them when a
session is opened. One is

    bytes 0-3       length of the payload
    byte 4          kind, one of edgecl/frames.py: OPEN, OPENED, LAST, ALIVE or CLOSE
    bytes 5-6       session
    bytes 7-10      CRC-32 (zlib's) of these seven bytes
    then            payload: a whole message

Numbers are big-endian. The check is of the header alone: what a message says is looked after by ssh, and an object by
its name; a header that is none tells that something else has written on the stream, which is over then.
"""

import struct
import zlib
from typing import Final

from edgecl import frames
from edgecl.smp import MAX_MESSAGE_BYTES

OFFERED: Final = 1
"""In the second byte of the payload of OPEN and OPENED: this side can."""

_HEADER: Final = struct.Struct(">IBH")
_CRC: Final = struct.Struct(">I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size
KINDS: Final = frozenset((frames.OPEN, frames.OPENED, frames.LAST, frames.ALIVE, frames.CLOSE))


def encode(kind: int, session: int, payload: bytes = b"") -> bytes:
    """A frame."""
    header = _HEADER.pack(len(payload), kind, session)
    return header + _CRC.pack(zlib.crc32(header)) + payload


def decode_header(data: bytes | bytearray, at: int) -> tuple[int, int, int] | None:
    """Kind, session, and length of the payload, of the frame whose header begins there; None where that is none."""
    length, kind, session = _HEADER.unpack_from(data, at)
    (crc,) = _CRC.unpack_from(data, at + _HEADER.size)
    if crc != zlib.crc32(data[at : at + _HEADER.size]) or length > MAX_MESSAGE_BYTES or kind not in KINDS:
        return None
    return kind, session, length
