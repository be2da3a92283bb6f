"""Messages as lines of text, for a line that others write on too: SMP over a console.

A line is 06 09 (the first of a message) or 04 14 (the next), base64, and a newline: at most 127 bytes. Together the
lines are two bytes of length, the message, and CRC-16 (polynomial 1021, from 0); the length counts message and CRC.
What else stands on the line, before the mark or in lines of its own, is passed over.
"""

import binascii
import re
import struct
from typing import Final

from edgecl.smp import MAX_MESSAGE_BYTES

FIRST: Final = b"\x06\x09"
NEXT: Final = b"\x04\x14"
_LINE_CHARACTERS: Final = 124
"""Of base64: with the mark and the newline 127, which is as much as consoles are known to take."""

MAX_BYTES: Final = min(MAX_MESSAGE_BYTES, 0xFFFF - 2)

_LENGTH: Final = struct.Struct(">H")
_MARKED: Final = re.compile(rb"(\x06\x09|\x04\x14)([A-Za-z0-9+/]+={0,2})\r?\n")


def encode(message: bytes) -> bytes:
    """The lines of a message of at most MAX_BYTES."""
    checked = message + _LENGTH.pack(binascii.crc_hqx(message, 0))
    text = binascii.b2a_base64(_LENGTH.pack(len(checked)) + checked, newline=False)
    parts = [text[at : at + _LINE_CHARACTERS] for at in range(0, len(text), _LINE_CHARACTERS)]
    return FIRST + (b"\n" + NEXT).join(parts) + b"\n"


def scan(text: bytes | bytearray) -> tuple[list[bytes], int]:
    """The whole messages in what was received, and where the last of them ends; damaged ones are passed over."""
    messages: list[bytes] = []
    used = 0
    if FIRST not in text:
        return messages, used
    content = b""
    for marked in _MARKED.finditer(text):
        if marked[1] == FIRST:
            content = b""
        elif not content:
            continue
        try:
            content += binascii.a2b_base64(marked[2])
        except binascii.Error:
            content = b""
        if len(content) < _LENGTH.size:
            content = b""
        elif len(content) - _LENGTH.size >= (length := _LENGTH.unpack_from(content)[0]):
            message, check = content[2:length], content[length : length + 2]
            if len(content) == length + 2 and length > 2 and check == _LENGTH.pack(binascii.crc_hqx(message, 0)):
                messages.append(message)
                used = marked.end()
            content = b""
    return messages, used
