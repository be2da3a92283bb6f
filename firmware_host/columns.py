"""Many records of one type decoded at once: a column for each field, without a Python object for each value.

Records are taken as every protobuf library writes them: known fields, in the order of their numbers, each at most once.
So the n-th field of all of them is decoded together, by numpy, with a cursor into each. What is written otherwise is no
less valid, but `Unusual`: the caller then has the protobuf library read it.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, FieldDescriptor

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

PADDING: Final = 16
"""Bytes that must follow the last record, whatever they are."""

_F = FieldDescriptor
_VARINT: Final[Mapping[int, npt.DTypeLike]] = {
    _F.TYPE_UINT32: np.uint32,
    _F.TYPE_UINT64: np.uint64,
    _F.TYPE_INT64: np.int64,
    _F.TYPE_ENUM: np.int32,
    _F.TYPE_BOOL: np.bool_,
}
_FIXED: Final[Mapping[int, npt.DTypeLike]] = {_F.TYPE_FLOAT: np.dtype("<f4"), _F.TYPE_DOUBLE: np.dtype("<f8")}


class Unusual(Exception):
    """Not as protobuf libraries write it, or not valid at all: only such a library can tell."""


@dataclass(frozen=True)
class Numbers:
    """A field that is one number."""

    values: Array
    present: npt.NDArray[np.bool_] | None
    """Where the field tells an absent value from 0; None where it does not."""


@dataclass(frozen=True)
class Texts:
    """A field that is text: value i is data[offsets[i]:offsets[i + 1]], which is UTF-8."""

    offsets: npt.NDArray[np.int32]
    data: bytes


@dataclass(frozen=True)
class Lists:
    """A field of several numbers: record i has values[offsets[i]:offsets[i + 1]]."""

    offsets: npt.NDArray[np.int32]
    values: Array


Column = Numbers | Texts | Lists


def decodable(kind: Descriptor) -> bool:
    """Whether records of a type can be decoded here: their fields are numbers, text and lists of float32."""
    return all(_one(field) or _list(field) or _inner(field) for field in kind.fields)


def decode(kind: Descriptor, data: Bytes, starts: Places, stops: Places) -> dict[str, Column]:
    """The columns of the records data[starts[i]:stops[i]]; of a record in a field, its fields as `field.name`.

    PADDING bytes follow the last of them. Raises Unusual.
    """
    return _Cursor(data, starts, stops).fields(kind)


def _one(field: FieldDescriptor) -> bool:
    simple = field.type in _VARINT or field.type in _FIXED or field.type == _F.TYPE_STRING
    return simple and not field.is_repeated and field.number < 16


def _list(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated and field.type == _F.TYPE_FLOAT and field.number < 16)


def _inner(field: FieldDescriptor) -> bool:
    return bool(field.message_type and not field.is_repeated and field.number < 16 and decodable(field.message_type))


class _Cursor:
    """Where decoding stands in each record."""

    def __init__(self, data: Bytes, starts: Places, stops: Places) -> None:
        self._data = data
        self._words = np.ndarray(max(0, len(data) - 7), np.dtype("<u8"), data, strides=(1,))
        """The eight bytes from every place on."""
        self._at, self._stops = starts.copy(), stops

    def fields(self, kind: Descriptor) -> dict[str, Column]:
        found: dict[str, Column] = {}
        for field in sorted(kind.fields, key=lambda field: field.number):
            wire = 0 if field.type in _VARINT else 2
            if field.type in _FIXED and not field.is_repeated:
                wire = 5 if field.type == _F.TYPE_FLOAT else 1
            has = (self._at < self._stops) & (self._data[self._at] == field.number << 3 | wire)
            rows = np.flatnonzero(has)
            self._at[rows] += 1
            if wire == 2:
                found |= self._lengths(field, rows)
                continue
            values = self._varints(field, rows) if wire == 0 else self._fixed(field, rows)
            if len(rows) == len(has):
                column = values
            else:
                column = np.zeros(len(has), values.dtype)
                column[rows] = values
            found[field.name] = Numbers(column, has if field.has_presence else None)
        if not np.array_equal(self._at, self._stops):
            raise Unusual
        return found

    def _lengths(self, field: FieldDescriptor, rows: Places) -> dict[str, Column]:
        """Of fields that tell how long they are."""
        lengths = np.zeros(len(self._at), np.int64)
        told = self._raw(rows)
        if told.size and int(told.max()) > len(self._data):
            raise Unusual
        lengths[rows] = told.astype(np.int64)
        starts, stops = self._at.copy(), self._at + lengths
        if (stops > self._stops).any():
            raise Unusual
        self._at = stops
        if field.message_type:
            inner = _Cursor(self._data, starts, stops).fields(field.message_type)
            return {f"{field.name}.{name}": column for name, column in inner.items()}
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] > np.iinfo(np.int32).max:
            raise Unusual
        data = self._gathered(starts, lengths, offsets)
        if field.type == _F.TYPE_STRING:
            if data.size and data.max() > 127:
                _check_texts(data.tobytes(), offsets)
            return {field.name: Texts(offsets.astype(np.int32), data.tobytes())}
        if (lengths % 4).any():
            raise Unusual
        return {field.name: Lists((offsets // 4).astype(np.int32), data.view("<f4"))}

    def _gathered(self, starts: Places, lengths: Places, offsets: Places) -> Bytes:
        """The bytes of all of them, one behind the other."""
        first = int(lengths[0]) if len(lengths) else 0
        if first and (lengths == first).all():  # as digests and boots are
            window = np.ndarray((len(self._data) - first + 1, first), np.uint8, self._data, strides=(1, 1))
            gathered: Bytes = window[starts].reshape(-1)
        else:
            gathered = self._data[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])]
        return gathered

    def _fixed(self, field: FieldDescriptor, rows: Places) -> Array:
        words = self._words[self._at[rows]]
        size = 4 if field.type == _F.TYPE_FLOAT else 8
        self._advance(rows, size)
        return (words.astype("<u4") if size == 4 else words).view(_FIXED[field.type])

    def _varints(self, field: FieldDescriptor, rows: Places) -> Array:
        values = self._raw(rows)
        kind = np.dtype(_VARINT[field.type])
        if kind.itemsize == 4 and values.size and int(values.max()) >= 1 << (32 if kind == np.uint32 else 31):
            raise Unusual
        return values.view(np.int64) if kind == np.int64 else values.astype(kind)

    def _raw(self, rows: Places) -> npt.NDArray[np.uint64]:
        """The varints at the cursors of these records, which go behind them."""
        at = self._at[rows]
        words = self._words[at]
        ends = ~words & _u8(0x8080808080808080)  # the high bits of the bytes that end a number
        lowest = ends & (~ends + _u8(1))
        words &= lowest | (lowest - _u8(1))
        words &= _u8(0x7F7F7F7F7F7F7F7F)
        words = words & _u8(0x007F007F007F007F) | (words & _u8(0x7F007F007F007F00)) >> _u8(1)
        words = words & _u8(0x00003FFF00003FFF) | (words & _u8(0x3FFF00003FFF0000)) >> _u8(2)
        words = words & _u8(0x000000000FFFFFFF) | (words & _u8(0x0FFFFFFF00000000)) >> _u8(4)
        sizes = (np.bitwise_count(lowest - _u8(1)).astype(np.int64) + 1) >> 3
        if (long := np.flatnonzero(ends == 0)).size:
            ninth, tenth = (self._data[at[long] + n].astype(np.uint64) for n in (8, 9))
            more = ninth > 127
            if (tenth[more] > 1).any():
                raise Unusual
            words[long] |= (ninth & _u8(127)) << _u8(56) | np.where(more, tenth, _u8(0)) << _u8(63)
            sizes[long] = 9 + more
        self._advance(rows, sizes)
        return words

    def _advance(self, rows: Places, by: int | Places) -> None:
        self._at[rows] += by
        if (self._at > self._stops).any():
            raise Unusual


def _u8(value: int) -> np.uint64:
    return np.uint64(value)


def _check_texts(data: bytes, offsets: Places) -> None:
    """Raises Unusual: one of the texts is not UTF-8."""
    try:
        for start, stop in itertools.pairwise(offsets.tolist()):
            data[start:stop].decode()
    except UnicodeDecodeError:
        raise Unusual from None
