"""Ask a host store in SQL: DuckDB over its tables, with the views of `firmware_host/views.py`."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.ipc

from edgecl import disk
from edgecl.errors import EXIT_USAGE, EdgeclError, StoreError
from firmware_host import tables
from firmware_host.host_store import HostStore, Index
from firmware_host.views import VIEWS

FORMATS: Final = (".csv", ".parquet", ".arrow")
"""Of files that a result can be written to, told by their names."""

BATCH_ROWS: Final = 1 << 16
_ASKING: Final = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_PATTERNS: Final = frozenset("*?[")
"""Of names that DuckDB would take for several."""


class QueryError(EdgeclError):
    """The query cannot be run: correct it."""

    exit_code = EXIT_USAGE


@contextlib.contextmanager
def opened(store: HostStore, devices: Sequence[str] | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with a view for each table, of these devices or of all.

    No tables change while it is open. Raises StoreError.
    """
    with contextlib.ExitStack() as stack:
        if store.tables.is_dir():
            stack.enter_context(store.locked(shared=True))
        connection = stack.enter_context(duckdb.connect(config={"autoinstall_known_extensions": "false"}))
        connection.execute("SET enable_progress_bar = false")
        indexes = store.indexes() if devices is None else [store.index(device) for device in devices]
        _make(connection, store, indexes, _root(store.tables, stack))
        yield connection


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> "duckdb.DuckDBPyRelation":
    """The result of one statement that has one. Raises QueryError."""
    with told():
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise QueryError(f"query: {len(statements)} statements; give one")
        found = connection.sql(sql) if statements[0].type in _ASKING else None
    if found is None:
        raise QueryError("query: this statement asks for nothing; give a SELECT")
    return found


def batches(found: "duckdb.DuckDBPyRelation") -> Iterator[pa.RecordBatch]:
    """The rows of a result, some at a time. Raises QueryError."""
    with told():
        yield from found.to_arrow_reader(BATCH_ROWS)


def export(found: "duckdb.DuckDBPyRelation", path: Path) -> None:
    """Write a result into a file, whose name tells the form. Raises QueryError, StoreError."""
    if path.suffix not in FORMATS:
        raise QueryError(f"{path}: unknown form; give a name that ends in {', '.join(FORMATS)}")
    new = path.with_name(f".{path.name}.new")
    try:
        disk.remove(new)
        with told():
            if path.suffix == ".csv":
                found.write_csv(str(new))
            elif path.suffix == ".parquet":
                found.write_parquet(str(new), compression="zstd")
            else:
                reader = found.to_arrow_reader(BATCH_ROWS)
                with pa.OSFile(str(new), "wb") as file, pyarrow.ipc.new_file(file, reader.schema) as out:
                    for batch in reader:
                        out.write_batch(batch)
        new.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give a file that can be written") from None
    finally:
        with contextlib.suppress(OSError):
            disk.remove(new)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What DuckDB does not like, in one line."""
    try:
        yield
    except duckdb.Error as error:
        lines = [line.strip() for line in str(error).splitlines()]
        first = next((line for line in lines if line), type(error).__name__)
        raise QueryError(f"query: {first.rstrip('.!')}; see edgecl query without SQL") from None


def _make(connection: duckdb.DuckDBPyConnection, store: HostStore, indexes: Sequence[Index], root: str) -> None:
    files: dict[str, list[str]] = {}
    segments: list[dict[str, Any]] = []
    for index in indexes:
        for part in index.parts:
            if part.schema != tables.SCHEMA:
                raise StoreError(f"{store.root}: its tables were made by another edgecl; make them anew: edgecl ingest")
            for file in part.files:
                files.setdefault(file.partition("/")[0], []).append(f"{root}/{file}")
            segments += [
                {
                    "device": index.device,
                    "file": segment.name,
                    "bytes": segment.bytes,
                    "records": segment.records,
                    "bytes_lost": segment.bytes_lost,
                    "reason": segment.reason,
                }
                for segment in part.segments
            ]
    for topic, name in tables.NAMES.items():
        source = _files(files[name]) if files.get(name) else _empty(tables.SCHEMAS[topic])
        try:
            connection.execute(f"CREATE VIEW {name} AS SELECT device, date, * EXCLUDE (device, date) FROM {source}")
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"{store.root}: {reason}; make the tables anew: edgecl ingest --again") from None
    for name, view in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {view.sql}")
    kept = pa.Table.from_pylist(segments, _SEGMENTS)
    connection.register("_segments", kept)
    connection.execute("CREATE TABLE segments AS SELECT * FROM _segments")
    connection.unregister("_segments")


_SEGMENTS: Final = pa.schema(
    {
        "device": pa.string(),
        "file": pa.string(),
        "bytes": pa.uint64(),
        "records": pa.uint64(),
        "bytes_lost": pa.uint64(),
        "reason": pa.string(),
    }
)


def _files(paths: Sequence[str]) -> str:
    listed = ", ".join(f"'{_escaped(path)}'" for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = true, hive_types = {{'device': VARCHAR, 'date': DATE}})"


def _empty(schema: pa.Schema) -> str:
    """No rows, with the columns of a table."""
    columns = ", ".join(f'NULL::{_sql(field.type)} AS "{field.name}"' for field in schema)
    return f"(SELECT NULL::VARCHAR AS device, NULL::DATE AS date, {columns} WHERE false)"


_SQL: Final = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.timestamp("us"): "TIMESTAMP",
}


def _sql(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return f"MAP({_sql(kind.key_type)}, {_sql(kind.item_type)})"
    if pa.types.is_list(kind):
        return f"{_sql(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "STRUCT(" + ", ".join(f'"{field.name}" {_sql(field.type)}' for field in kind) + ")"
    return _SQL[kind]


def _root(folder: Path, stack: contextlib.ExitStack) -> str:
    """The folder of tables, under a name that has no patterns in it."""
    path = str(folder.absolute())
    if not _PATTERNS & set(path):
        return path
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, opened)
    return f"/proc/self/fd/{opened}"


def _escaped(text: str) -> str:
    return text.replace("'", "''")
