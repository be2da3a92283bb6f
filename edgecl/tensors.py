"""Arrays with a header as one safetensors file: the same contents give the same bytes, and what is damaged is refused.

The file's only metadata entry, `edgecl`, is the JSON of `Entry`: the header, and a digest over the header and the
arrays, so that no changed bit goes unseen. One entry, because safetensors writes several in an order that changes from
process to process.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from edgecl.errors import StoreError

MAX_BYTES: Final = 1 << 30
"""Larger files are refused unread."""
MAX_HEADER_BYTES: Final = 1 << 16
"""The JSON in front of a safetensors file; the format itself allows 100 MB."""

_DTYPES: Final = {"F32": "float32", "F64": "float64", "I64": "int64", "U8": "uint8"}

Array = npt.NDArray[Any]
H = TypeVar("H", bound=msgspec.Struct)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the metadata entry says."""

    digest: str
    header: msgspec.Raw


def dump(header: msgspec.Struct, arrays: Mapping[str, Array]) -> bytes:
    """The bytes of a file. The arrays are float32, float64, int64 or uint8."""
    written = msgspec.json.encode(header)
    entry = Entry(_digest(written, arrays), msgspec.Raw(written))
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata={"edgecl": msgspec.json.encode(entry).decode()})


def load(path: Path, header: type[H], what: str) -> tuple[H, dict[str, Array]]:
    """Read a file that has a header of this type; `what` it should be is for the messages.

    Raises StoreError: missing, too large, damaged, or something else.
    """
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise StoreError(f"{path}: {size} bytes, more than the limit of {MAX_BYTES}; delete it")
        with path.open("rb") as raw:
            header_bytes = int.from_bytes(raw.read(8), "little")
        if header_bytes > min(MAX_HEADER_BYTES, size):
            raise StoreError(f"{path}: not {what}: a header of {header_bytes} bytes; delete it")
        with safetensors.safe_open(path, framework="numpy") as file:
            entry = msgspec.json.decode((file.metadata() or {}).get("edgecl", ""), type=Entry)
            found = msgspec.json.decode(entry.header, type=header)
            names = list(file.keys())
            if odd := [name for name in names if file.get_slice(name).get_dtype() not in _DTYPES]:
                raise StoreError(f"{path}: not {what}: {odd[0]!r} is none of {', '.join(_DTYPES.values())}; delete it")
            arrays: dict[str, Array] = {name: file.get_tensor(name) for name in names}
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give another state directory") from None
    except (safetensors.SafetensorError, msgspec.DecodeError, ValueError) as error:
        raise StoreError(f"{path}: not {what}: {error}; delete it") from None
    if entry.digest != _digest(bytes(entry.header), arrays):
        raise StoreError(f"{path}: its digest does not match its contents; delete it")
    return found, arrays


def _digest(header: bytes, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(header)
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
