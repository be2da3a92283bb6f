"""The tables of a host store: one for each kind of record, its columns told by the record's schema.

Every table has `time`, the best guess at when (UTC); the stamp's `boot`, `sequence`, `monotonic_ns`, `wall_ns` and
`clock`; and, but for samples, `run`, which is the monotonic time of the first record of its run, and `bundle`. The
fields of the record follow under their names. Of a stored sample there is its size instead of its bytes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from edgecl.journal import TOPICS
from firmware_host.columns import Column, Lists, Numbers, Texts

NAMES: Final[Mapping[str, str]] = {
    "/run": "runs",
    "/prediction": "predictions",
    "/damaged": "damaged",
    "/shift": "shifts",
    "/domain": "domains",
    "/update": "updates",
    "/guard": "guard",
    "/label": "labels",
    "/class": "classes",
    "/checkpoint": "checkpoints",
    "/loss": "losses",
    "/sample": "samples",
    "/end": "ends",
    "/boot": "boots",
    "/clock": "clocks",
    "/gap": "gaps",
    "/dropped": "dropped",
}
"""Topic -> table."""

_F = FieldDescriptor
_TYPES: Final[Mapping[int, pa.DataType]] = {
    _F.TYPE_UINT32: pa.uint32(),
    _F.TYPE_UINT64: pa.uint64(),
    _F.TYPE_INT64: pa.int64(),
    _F.TYPE_BOOL: pa.bool_(),
    _F.TYPE_FLOAT: pa.float32(),
    _F.TYPE_DOUBLE: pa.float64(),
    _F.TYPE_STRING: pa.string(),
    _F.TYPE_ENUM: pa.string(),
    _F.TYPE_BYTES: pa.uint32(),  # how many
}

STAMP: Final = {"boot": "boot", "sequence": "sequence", "monotonic_ns": "monotonic_ns", "wall_ns": "wall_ns"}


def _type(field: FieldDescriptor) -> pa.DataType:
    if field.message_type:
        names = [inner.name for inner in field.message_type.fields]
        if names == ["name", "value"]:
            return pa.map_(pa.string(), pa.string())
        return pa.list_(pa.struct([(inner.name, _type(inner)) for inner in field.message_type.fields]))
    return pa.list_(_TYPES[field.type]) if field.is_repeated else _TYPES[field.type]


def fields(kind: Descriptor) -> list[FieldDescriptor]:
    """Those of a record that become columns by their own names."""
    return [field for field in kind.fields if field.name != "stamp"]


def _schema(topic: str) -> pa.Schema:
    kind = TOPICS[topic].DESCRIPTOR
    own = {("bytes" if field.type == _F.TYPE_BYTES else field.name): _type(field) for field in fields(kind)}
    common = {
        "time": pa.timestamp("us"),
        "boot": pa.string(),
        "sequence": pa.uint64(),
        "monotonic_ns": pa.uint64(),
        "wall_ns": pa.uint64(),
        "clock": pa.string(),
    }
    if topic != "/sample":
        common |= {"run": pa.uint64(), "bundle": pa.string()}
    return pa.schema(common | own)


SCHEMAS: Final[Mapping[str, pa.Schema]] = {topic: _schema(topic) for topic in TOPICS}
"""Topic -> columns of its table, without `device` and `date`, which the path tells."""

SCHEMA: Final = hashlib.sha256(
    "".join(f"{NAMES[topic]} {schema}" for topic, schema in SCHEMAS.items()).encode()
).hexdigest()
"""Of all of them: files of another one are made anew."""

DICTIONARIES: Final[Mapping[str, list[str]]] = {
    topic: [field.name for field in schema if field.type == pa.string() or field.name in ("label", "y", "domain")]
    for topic, schema in SCHEMAS.items()
}
"""Columns whose values repeat."""


def from_columns(kind: Descriptor, found: Mapping[str, Column]) -> dict[str, pa.Array]:
    """Columns that were decoded together, under the names of the table but for what the stamp gives."""
    out = {field.name: _array(field, found[field.name]) for field in fields(kind)}
    stamp = kind.fields_by_name["stamp"].message_type
    assert stamp is not None  # a type of its own, and no number
    for name in ("boot", "sequence", "monotonic_ns", "wall_ns", "quality"):
        out[f"stamp.{name}"] = _array(stamp.fields_by_name[name], found[f"stamp.{name}"])
    return out


def from_records(kind: Descriptor, records: Sequence[Message]) -> dict[str, pa.Array]:
    """The same, of records that the protobuf library read."""
    out = {}
    for field in fields(kind):
        name = "bytes" if field.type == _F.TYPE_BYTES else field.name
        value = _getter(field)
        if field.has_presence:
            values = [value(record) if record.HasField(field.name) else None for record in records]
        else:
            values = [value(record) for record in records]
        out[name] = pa.array(values, _type(field))
    stamp = kind.fields_by_name["stamp"].message_type
    assert stamp is not None  # a type of its own, and no number
    for name in ("boot", "sequence", "monotonic_ns", "wall_ns", "quality"):
        field = stamp.fields_by_name[name]
        value = _getter(field)
        out[f"stamp.{name}"] = pa.array([value(record.stamp) for record in records], _type(field))  # type: ignore[attr-defined]
    return out


def _getter(field: FieldDescriptor) -> Callable[[Any], Any]:
    name = field.name
    if field.type == _F.TYPE_BYTES:
        return lambda record: len(getattr(record, name))
    if field.enum_type:
        return lambda record: enum_name(field, getattr(record, name))
    if field.message_type:
        if [inner.name for inner in field.message_type.fields] == ["name", "value"]:
            return lambda record: [(one.name, one.value) for one in getattr(record, name)]
        inner = [(one.name, _getter(one)) for one in field.message_type.fields]
        return lambda record: [{key: value(one) for key, value in inner} for one in getattr(record, name)]
    if field.is_repeated:
        return lambda record: list(getattr(record, name))
    return lambda record: getattr(record, name)


def enum_name(field: FieldDescriptor, number: int) -> str:
    """The name of a value in lower case, or its number where this edgecl does not know it."""
    found = field.enum_type.values_by_number.get(number)  # type: ignore[union-attr]
    return found.name.lower() if found else str(number)


def _array(field: FieldDescriptor, column: Column) -> pa.Array:
    match column:
        case Texts(offsets, data):
            size = len(offsets) - 1
            return pa.StringArray.from_buffers(size, pa.py_buffer(offsets), pa.py_buffer(data))
        case Lists(offsets, values):
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        case Numbers(values, present):
            if field.enum_type:
                numbers, places = np.unique(values, return_inverse=True)
                names = pa.array([enum_name(field, int(number)) for number in numbers], pa.string())
                return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), names).cast(pa.string())
            return pa.array(values, mask=None if present is None else ~present)
