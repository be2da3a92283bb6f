"""The label of each sample and who gave it: in a file of the user's, to the board, or known to the source.

A name in a file stands above what the board was told, and that above what the source knew.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from edgecl.errors import RequestError
from firmware_host import query
from firmware_host.harvest import sql
from firmware_host.harvest.choice import CHOSEN

LABELS: Final = "_labels"
"""The table: `device`, `seq`, `name` of the class, `giver`."""
SOURCE: Final = "source"
BOARD: Final = "board"

_ROWS: Final = 1 << 14


@dataclass(frozen=True)
class Row:
    """One label of a file, or why it is none."""

    where: str
    device: str = ""
    seq: int = 0
    name: str = ""
    by: str = ""
    problem: str = ""


def read(path: Path, devices: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file with the columns `seq` and `class`, `device` where there are several, and perhaps `by`.

    Raises RequestError: it cannot be read, or has no such columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # as spreadsheets save it
            reader = csv.DictReader(file)
            have = set(reader.fieldnames or ())
            needed = {"seq", "class"} | (set() if len(devices) == 1 else {"device"})
            if needed - have:
                raise RequestError(f"{path}: no column {', '.join(sorted(needed - have))} in its first line; name it")
            for row in reader:
                yield _row(row, f"{path}:{reader.line_num}", devices)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}; give a file of CSV") from None


def _row(row: Mapping[str, Any], where: str, devices: Sequence[str]) -> Row:
    def cell(name: str) -> str:
        value = row.get(name)
        return value.strip() if isinstance(value, str) else ""

    seq, name, device = cell("seq"), cell("class"), cell("device") or (devices[0] if len(devices) == 1 else "")
    if not seq.isdecimal() or len(seq) > 18:
        return Row(where, problem=f"seq {seq!r} is no number of a sample; give that of its answer")
    if not name:
        return Row(where, problem="no class; give its name")
    if device not in devices:
        return Row(where, problem=f"device {device!r} is none of those that are harvested")
    return Row(where, device, int(seq), name, cell("by"))


def given(connection: duckdb.DuckDBPyConnection, rows: Iterator[Row]) -> list[Row]:
    """Put the labels of a file into a table; those that are none. Of two for one sample the later counts."""
    connection.execute(
        "CREATE TEMP TABLE _given (device VARCHAR, seq UBIGINT, name VARCHAR, giver VARCHAR, place BIGINT)"
    )
    refused: list[Row] = []
    part: list[tuple[str, int, str, str, int]] = []
    for place, row in enumerate(rows):
        if row.problem:
            refused.append(row)
            continue
        part.append((row.device, row.seq, row.name, row.by or "file", place))
        if len(part) >= _ROWS:
            _insert(connection, part)
            part = []
    _insert(connection, part)
    return refused


def make(connection: duckdb.DuckDBPyConnection, names: Mapping[tuple[str, str], Sequence[str]]) -> None:
    """Make the table `_labels`, of all samples, kept or not. `names`: by device and bundle, those of its classes."""
    rows = [(device, bundle, y, name) for (device, bundle), known in names.items() for y, name in enumerate(known)]
    part = pa.table(
        {
            "device": pa.array([row[0] for row in rows], pa.string()),
            "bundle": pa.array([row[1] for row in rows], pa.string()),
            "y": pa.array([row[2] for row in rows], pa.uint32()),
            "name": pa.array([row[3] for row in rows], pa.string()),
        }
    )
    sql.create(connection, "_names", part)
    with query.told():
        connection.execute(f"CREATE TEMP TABLE {LABELS} AS {_LABELS}").fetchall()


_LABELS: Final = f"""
    SELECT device, seq, arg_min(name, rank) AS name, arg_min(giver, rank) AS giver FROM (
        SELECT device, seq, arg_max(name, place) AS name, arg_max(giver, place) AS giver, 0 AS rank
        FROM _given GROUP BY device, seq
        UNION ALL
        SELECT device, seq, arg_max(name, (time, monotonic_ns, sequence)), '{BOARD}', 1
        FROM labels GROUP BY device, seq
        UNION ALL
        SELECT c.device, c.seq, n.name, if(c.learned, '{BOARD}', '{SOURCE}'), 2
        FROM {CHOSEN} c JOIN _names n ON c.device = n.device AND c.bundle = n.bundle AND c.y = n.y
    ) GROUP BY device, seq
"""


def _insert(connection: duckdb.DuckDBPyConnection, part: list[tuple[str, int, str, str, int]]) -> None:
    if not part:
        return
    columns = list(zip(*part, strict=True))
    kinds = {"device": pa.string(), "seq": pa.uint64(), "name": pa.string(), "giver": pa.string(), "place": pa.int64()}
    table = pa.table(
        {name: pa.array(column, kind) for (name, kind), column in zip(kinds.items(), columns, strict=True)}
    )
    sql.insert(connection, "_given", table)
