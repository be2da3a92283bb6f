"""Writes the Parquet files of a part: of some segments of a device, by table and day; and makes one part of many."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edgecl import disk
from edgecl.errors import StoreError
from firmware_host import tables
from firmware_host.batches import Rows
from firmware_host.host_store import quoted

GROUP_ROWS: Final = 1 << 17
"""Rows that are written together, and held in memory until then."""

MAX_OPEN: Final = 64
"""Files that are open at a time: a clock that jumps about makes many days."""

LEVEL: Final = 3
"""zstd. 1 gives files a twentieth larger and saves a hundredth of the time."""

DELTAS: Final = frozenset(
    ("time", "sequence", "monotonic_ns", "wall_ns", "seq", "position", "step", "first_seq", "last_seq", "run")
)
"""Numbers that rise, of which differences are stored."""

_DAY_US: Final = 86_400_000_000


@dataclass
class _File:
    path: Path
    writer: pq.ParquetWriter
    waiting: list[pa.Table] = field(default_factory=list)
    rows: int = 0


class PartWriter:
    """The files of one part. Nothing of it is valid before an index names them."""

    def __init__(self, folder: Path, device: str, number: int) -> None:
        self._folder, self._device, self._number = folder, device, number
        self._open: dict[tuple[str, str], _File] = {}
        self._made: list[Path] = []
        self.records: dict[str, int] = defaultdict(int)
        """Rows by table."""

    def add(self, rows: Rows) -> None:
        """Take records. Raises StoreError."""
        table = pa.table(rows.columns, tables.SCHEMAS[rows.topic])
        for day, part in _days(table, rows.time_us):
            self.put(rows.topic, day, part)

    def put(self, topic: str, day: str, table: pa.Table) -> None:
        """Take rows of one day. Raises StoreError."""
        file = self._file(topic, day)
        file.waiting.append(table)
        file.rows += len(table)
        self.records[tables.NAMES[topic]] += len(table)
        if file.rows >= GROUP_ROWS:
            self._flush(file)

    def finish(self) -> tuple[str, ...]:
        """Everything is on the disk: the files, from the folder of tables on. Raises StoreError."""
        for key in list(self._open):
            self._close(key)
        with _told(self._folder):
            for folder in {path.parent for path in self._made}:
                disk.sync_directory(folder)
        return tuple(str(path.relative_to(self._folder)) for path in self._made)

    def drop(self) -> None:
        """Delete what was written."""
        for file in self._open.values():
            with contextlib.suppress(OSError, pa.ArrowException):
                file.writer.close()
            file.path.with_name(f"{file.path.name}.part").unlink(missing_ok=True)
        self._open.clear()
        for path in self._made:
            path.unlink(missing_ok=True)

    def _file(self, topic: str, day: str) -> _File:
        if found := self._open.get((topic, day)):
            return found
        if len(self._open) >= MAX_OPEN:
            self._close(next(iter(self._open)))
        folder = self._folder / tables.NAMES[topic] / f"device={quoted(self._device)}" / f"date={day}"
        path = folder / f"{self._number:08}.parquet"
        again = 1
        while path in self._made:
            path, again = folder / f"{self._number:08}-{again}.parquet", again + 1
        schema = tables.SCHEMAS[topic]
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            writer = pq.ParquetWriter(
                path.with_name(f"{path.name}.part"),
                schema,
                compression="zstd",
                compression_level=LEVEL,
                use_dictionary=tables.DICTIONARIES[topic],
                column_encoding={name: "DELTA_BINARY_PACKED" for name in schema.names if name in DELTAS},
            )
        found = self._open[topic, day] = _File(path, writer)
        return found

    def _flush(self, file: _File) -> None:
        if file.waiting:
            with _told(file.path):
                file.writer.write_table(pa.concat_tables(file.waiting), row_group_size=GROUP_ROWS)
        file.waiting, file.rows = [], 0

    def _close(self, key: tuple[str, str]) -> None:
        file = self._open[key]
        self._flush(file)
        new = file.path.with_name(f"{file.path.name}.part")
        with _told(file.path):
            file.writer.close()
            with new.open("rb") as written:
                os.fsync(written.fileno())
            new.rename(file.path)
        del self._open[key]
        self._made.append(file.path)


def merged(folder: Path, device: str, number: int, files: Iterable[str]) -> PartWriter:
    """Write the rows of several parts as one, in the order given. Raises StoreError."""
    writer = PartWriter(folder, device, number)
    topics = {name: topic for topic, name in tables.NAMES.items()}
    by_place: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file in files:
        name, _, day, _ = file.split("/")
        by_place[name, day.removeprefix("date=")].append(file)
    try:
        for (name, day), parts in sorted(by_place.items()):
            for part in parts:
                with _told(folder / part), pq.ParquetFile(folder / part) as opened:
                    for batch in opened.iter_batches(GROUP_ROWS):
                        table = pa.Table.from_batches([batch])
                        writer.put(topics[name], day, _as(table, tables.SCHEMAS[topics[name]]))
            writer._close((topics[name], day))
    except BaseException:
        writer.drop()
        raise
    return writer


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """With the columns of today, those that an earlier edgecl did not know being null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema)


def _days(table: pa.Table, time_us: npt.NDArray[np.int64]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each day, in their order."""
    days = time_us // _DAY_US
    first, last = int(days.min()), int(days.max())
    if first == last:
        yield _day(first), table
        return
    for day in np.unique(days):
        rows: npt.NDArray[Any] = np.flatnonzero(days == day)
        yield _day(int(day)), table.take(pa.array(rows))


def _day(number: int) -> str:
    return str(np.datetime64(number, "D"))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: {getattr(error, 'strerror', None) or error}; make room, or ingest --again") from None
