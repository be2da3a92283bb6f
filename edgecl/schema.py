"""What a segment says of the form of its records, so that others can read them."""

from typing import Final

from google.protobuf.descriptor import Descriptor

_MESSAGE_TYPE: Final = 0x22
"""Tag of a message in a FileDescriptorProto, whose other fields in our file have lengths as well."""


def schema_of(record: Descriptor) -> bytes:
    """What MCAP wants with protobuf: a FileDescriptorSet, with the file of the record and the messages that it needs.

    They are cut out by hand, as google.protobuf.descriptor_pb2 would cost memory on every board.
    """
    needed, left = set[str](), [record]
    while left:
        message = left.pop()
        needed.add(message.name)
        left += [field.message_type for field in message.fields if field.message_type]
    data, kept, at = record.file.serialized_pb, bytearray(), 0
    while at < len(data):
        start, tag = at, data[at]
        length, at = _varint(data, at + 1)
        body = data[at : at + length]
        at += length
        if tag != _MESSAGE_TYPE or body[2 : 2 + body[1]].decode() in needed:
            kept += data[start:at]
    length, head = len(kept), bytearray(b"\x0a")
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(head + bytes([length]) + kept)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in a descriptor, and the offset behind it."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
