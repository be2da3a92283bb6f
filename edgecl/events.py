"""Journal records as JSON, one object a line: what `edgecl run --json` prints.

An object has `event`, the record's topic without its slash; `sequence`, `monotonic_ns` and `wall_ns` of its stamp; and
the fields of the record under their names in `edgecl/journal.proto`. A prediction has also `class`, the name of its
label. What is not set or not a number is null.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from edgecl.journal import TOPICS, Prediction, Record, Setting

EVENTS: Final = {record: topic.removeprefix("/") for topic, record in TOPICS.items()}


def line(record: Record, classes: Sequence[str]) -> bytes:
    """A record as one line of JSON."""
    event: dict[str, Any] = {
        "event": EVENTS[type(record)],
        "sequence": record.stamp.sequence,
        "monotonic_ns": record.stamp.monotonic_ns,
        "wall_ns": record.stamp.wall_ns,
    }
    for field in record.DESCRIPTOR.fields:
        if field.name != "stamp":
            unset = field.has_presence and not record.HasField(field.name)  # type: ignore[arg-type]
            event[field.name] = None if unset else _value(field, getattr(record, field.name))
    if isinstance(record, Prediction):
        event["class"] = classes[record.label]
    return msgspec.json.encode(event) + b"\n"


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type:
        return field.enum_type.values_by_number[value].name.lower()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if field.message_type:
            return _settings(value) if field.message_type.name == "Setting" else [_fields(one) for one in value]
        return [_value(field, one) for one in value]
    return _short(value) if field.type == FieldDescriptor.TYPE_FLOAT and isinstance(value, float) else value


def _settings(values: Sequence[Setting]) -> dict[str, str]:
    return {setting.name: setting.value for setting in values}


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: _value(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields}


def _short(value: float) -> float:
    """The shortest number that is this float32: 0.3 and not 0.30000001192092896."""
    return float(str(np.float32(value)))
