"""Records decoded together are those that the protobuf library reads one by one, or are handed back to it."""

import math
import random
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from edgecl.journal import TOPICS, ClockSet, Label, Prediction, Record
from firmware_host import tables
from firmware_host.columns import PADDING, Unusual, decodable, decode

KINDS = [kind for kind in TOPICS.values() if decodable(kind.DESCRIPTOR)]


def laid(pieces: list[bytes]) -> tuple[Any, Any, Any]:
    """Records one behind the other, as `decode` takes them."""
    ends = np.cumsum([0, *map(len, pieces)])
    return np.frombuffer(b"".join(pieces) + bytes(PADDING), np.uint8), ends[:-1], ends[1:]


def value(field: FieldDescriptor, chance: random.Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return "".join(chance.choice("abcé漢 ") for _ in range(chance.choice((0, 1, 5, 200))))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    if field.enum_type:
        return chance.choice([0, 1, 2])
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return chance.choice((0.0, -0.0, 1.5, math.inf, -3e38))
    bits = {FieldDescriptor.TYPE_UINT32: 32, FieldDescriptor.TYPE_UINT64: 64}.get(field.type, 63)
    number = chance.getrandbits(chance.randrange(bits + 1))
    return -number if field.type == FieldDescriptor.TYPE_INT64 and chance.random() < 0.5 else number


def fill(record: Any, chance: random.Random) -> Any:
    for field in record.DESCRIPTOR.fields:
        if chance.random() < 0.25:
            continue
        if field.message_type:
            fill(getattr(record, field.name), chance).SetInParent()
        elif field.is_repeated:
            getattr(record, field.name).extend(value(field, chance) for _ in range(chance.randrange(5)))
        else:
            setattr(record, field.name, value(field, chance))
    return record


def plain(arrays: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: array.to_pylist() for name, array in arrays.items()}


def both(kind: type[Record], pieces: list[bytes]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """As decoded together, and one by one."""
    together = tables.from_columns(kind.DESCRIPTOR, decode(kind.DESCRIPTOR, *laid(pieces)))
    return plain(together), plain(tables.from_records(kind.DESCRIPTOR, [kind.FromString(piece) for piece in pieces]))


@pytest.mark.parametrize("kind", KINDS, ids=[kind.DESCRIPTOR.name for kind in KINDS])
def test_columns_hold_what_records_hold(kind: type[Record]) -> None:
    chance = random.Random(kind.DESCRIPTOR.name)
    for count in (1, 2, 300):
        together, each = both(kind, [fill(kind(), chance).SerializeToString() for _ in range(count)])
        assert together == each


def test_what_is_frequent_is_decoded_together() -> None:
    names = {kind.DESCRIPTOR.name for kind in KINDS}
    assert {"Prediction", "Update", "Guard", "Label", "Shift", "Damaged"} <= names


def test_the_largest_and_the_smallest_numbers() -> None:
    for offset in (0, 1, -1, (1 << 63) - 1, -(1 << 63), 1 << 55, 1 << 56, (1 << 56) - 1):
        together, each = both(ClockSet, [ClockSet(offset_ns=offset).SerializeToString()] * 3)
        assert together == each and together["offset_ns"] == [offset] * 3


@pytest.mark.parametrize(
    "piece",
    [
        Label(seq=1, y=2).SerializeToString() + b"\x98\x06\x01",  # a field of a later edgecl
        b"\x18\x05" + b"\x10\x01",  # in another order
        b"\x10\x01\x10\x02",  # one field twice
        b"\x10\x01\x22\x7f",  # text that is cut off
        b"\x10" + b"\xff" * 10 + b"\x01",  # a number without an end
        b"\x10\xff",
        b"\x22\x01\xff",  # no UTF-8
        b"\x0a\x03\x10\x01\x10",  # a stamp that is cut off inside
        b"\x12",
        b"\x18" + b"\xff" * 5 + b"\x01",  # more than 32 bits
    ],
)
def test_what_is_unusual_is_handed_back(piece: bytes) -> None:
    good = Label(seq=7, y=1, name="emu").SerializeToString()
    for pieces in ([piece], [good, piece, good]):
        with pytest.raises(Unusual):
            decode(Label.DESCRIPTOR, *laid(pieces))


def test_no_mutation_is_decoded_as_something_else() -> None:
    chance, same = random.Random(3), 0
    records = [fill(Prediction(), chance).SerializeToString() for _ in range(40)]
    for _ in range(1500):
        pieces = [bytearray(record) for record in records[:5]]
        harmed = chance.choice([piece for piece in pieces if piece])
        for _ in range(chance.choice((1, 1, 3))):
            at = chance.randrange(len(harmed))
            harmed[at] = chance.choice((harmed[at] ^ 1 << chance.randrange(8), 0, 255, 128))
        if chance.random() < 0.3:
            del harmed[chance.randrange(len(harmed)) :]
        given = [bytes(piece) for piece in pieces]
        try:
            found = decode(Prediction.DESCRIPTOR, *laid(given))
        except Unusual:
            continue
        try:
            each = [Prediction.FromString(piece) for piece in given]
        except DecodeError:
            pytest.fail(f"decoded what is not valid: {given}")
        expected = plain(tables.from_records(Prediction.DESCRIPTOR, each))
        assert repr(plain(tables.from_columns(Prediction.DESCRIPTOR, found))) == repr(expected)
        same += 1
    assert same > 200
