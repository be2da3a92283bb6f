"""The samples themselves, out of the segments of a store: device by device, in the order of their numbers.

A store is read twice: once for what samples are equal, once to write those that are left. What is in memory is the
numbers of one device's samples, and one chunk of a segment.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError

from edgecl import recovery, samples
from edgecl.errors import JournalError
from edgecl.journal import Sample
from edgecl.manifest import Input
from firmware_host.harvest import sql
from firmware_host.harvest.choice import CHOSEN
from firmware_host.host_store import HostStore

FOUND: Final = "_found"
"""The table: `device`, `seq` and `digest` of what is there and fits the bundle."""

_ROWS: Final = 1 << 14
DIGEST_BYTES: Final = 16

Numbers = npt.NDArray[np.uint64]


def read(store: HostStore, device: str, wanted: Numbers) -> Iterator[Sample]:
    """The samples of these numbers, which rise, as far as they are there. Raises JournalError."""
    last = -1
    for segment in store.segments(device) if len(wanted) else ():
        if not segment.name.startswith("samples/"):
            continue
        for record in _records(store.root / device / segment.name):
            place = int(np.searchsorted(wanted, record.seq))
            if record.seq > last and place < len(wanted) and wanted[place] == record.seq:
                last = record.seq
                yield record


def note(connection: duckdb.DuckDBPyConnection, store: HostStore, given: Input) -> int:
    """Make the table `_found`; how many were chosen and do not fit the input of the bundle. Raises JournalError."""
    connection.execute(f"CREATE TEMP TABLE {FOUND} (device VARCHAR, seq UBIGINT, digest BLOB)")
    unfit = 0
    for device in devices(connection, CHOSEN):
        part: list[tuple[int, bytes]] = []
        for record in read(store, device, numbers(connection, CHOSEN, device)):
            x = fitting(record, given)
            if x is None:
                unfit += 1
                continue
            part.append((record.seq, digest(x)))
            if len(part) >= _ROWS:
                _insert(connection, device, part)
                part = []
        _insert(connection, device, part)
    return unfit


def fitting(record: Sample, given: Input) -> npt.NDArray[Any] | None:
    """The array of a sample, where a bundle of this input takes it."""
    kind = "uint8" if given.kind == "image" else "float32"
    if record.dtype != kind or tuple(record.shape) != given.shape:
        return None
    try:
        x = samples.array(record)
    except JournalError:
        return None
    return x if kind == "uint8" or np.isfinite(x).all() else None


def digest(x: npt.NDArray[Any]) -> bytes:
    """Tells samples apart; all of a data set are of one form."""
    return hashlib.sha256(x.tobytes()).digest()[:DIGEST_BYTES]


def devices(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """That a table is of."""
    return sql.column(connection, f"SELECT DISTINCT device FROM {table} ORDER BY device")


def numbers(connection: duckdb.DuckDBPyConnection, table: str, device: str) -> Numbers:
    """Of the samples of a device in a table, rising."""
    found = connection.execute(f"SELECT seq FROM {table} WHERE device = ? ORDER BY seq", [device]).fetchnumpy()
    return np.asarray(found["seq"], np.uint64)


def _records(path: Path) -> Iterator[Sample]:
    """Of one segment, up to the first damage."""
    try:
        with path.open("rb") as file:
            for part in recovery.scan(file):
                if not isinstance(part, recovery.Chunk):
                    continue
                for message in part.messages:
                    if message.channel.topic == "/sample":
                        yield Sample.FromString(message.data)
    except DecodeError:
        return
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror or error}; give a store that can be read") from None


def _insert(connection: duckdb.DuckDBPyConnection, device: str, part: list[tuple[int, bytes]]) -> None:
    if part:
        table = pa.table(
            {
                "device": pa.array([device] * len(part), pa.string()),
                "seq": pa.array([seq for seq, _ in part], pa.uint64()),
                "digest": pa.array([digest for _, digest in part], pa.binary()),
            }
        )
        sql.insert(connection, FOUND, table)
