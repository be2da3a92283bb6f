"""SMP messages: eight bytes of header, then one CBOR map. What the groups and commands mean is in edgecl/messages.py.

byte 0     bits 0-2 operation (0 read, 2 write, an answer one more), bits 3-4 version (1: SMP version 2)
byte 1     flags, 0
bytes 2-3  length of the map in bytes, big-endian
bytes 4-5  group
byte 6     sequence: an answer has that of its request
byte 7     command
"""

import struct
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import cbor2
import msgspec

READ: Final = 0
WRITE: Final = 2

MAX_BODY_BYTES: Final = 0xFFFF
MAX_MESSAGE_BYTES: Final = 8 + MAX_BODY_BYTES
MAX_DEPTH: Final = 16
"""Of maps and lists in one another; what is asked for and answered here has three."""

UNKNOWN: Final = 1
INVALID: Final = 3
NOT_FOUND: Final = 5
TOO_LARGE: Final = 7
UNSUPPORTED: Final = 8
CORRUPT: Final = 9
"""Codes of errors that SMP itself defines: `rc` of an answer."""

_HEADER: Final = struct.Struct(">BBHHBB")

S = TypeVar("S", bound=msgspec.Struct)


class MalformedError(ValueError):
    """Not a message, or not of the form that is expected."""


@dataclass(frozen=True)
class Message:
    """One message."""

    operation: int
    group: int
    command: int
    sequence: int
    body: bytes = b"\xa0"
    """CBOR; an empty map where nothing is said."""
    version: int = 1

    def encode(self) -> bytes:
        """Its bytes."""
        first = self.operation | self.version << 3
        return _HEADER.pack(first, 0, len(self.body), self.group, self.sequence, self.command) + self.body

    def answer(self, body: bytes) -> "Message":
        """The answer to this request."""
        return Message(self.operation | 1, self.group, self.command, self.sequence, body, self.version)


def decode(data: bytes) -> Message:
    """The message that these bytes are. Raises MalformedError."""
    if len(data) < _HEADER.size:
        raise MalformedError(f"{len(data)} bytes are no message")
    first, _, length, group, sequence, command = _HEADER.unpack_from(data)
    if length != len(data) - _HEADER.size:
        raise MalformedError(f"a body of {len(data) - _HEADER.size} bytes where the header says {length}")
    return Message(first & 7, group, command, sequence, data[_HEADER.size :], first >> 3 & 3)


def pack(content: msgspec.Struct) -> bytes:
    """A struct as a CBOR map."""
    return cbor2.dumps(msgspec.to_builtins(content, builtin_types=(bytes,)))


def unpack(body: bytes, kind: type[S]) -> S:
    """The struct that a CBOR map says; keys that it does not know are passed over. Raises MalformedError."""
    return convert(mapping(body), kind)


def convert(content: dict[str, Any], kind: type[S]) -> S:
    """The struct that a map of names is; names that it does not know are passed over. Raises MalformedError."""
    try:
        return msgspec.convert(content, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedError(str(error)) from None


def mapping(body: bytes) -> dict[str, Any]:
    """A CBOR map of names, as it is. Raises MalformedError."""
    try:
        content = cbor2.loads(body, max_depth=MAX_DEPTH)
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise MalformedError(f"not CBOR: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise MalformedError("not a map of names")
    return content
