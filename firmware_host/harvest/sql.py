"""Small steps with a connection to DuckDB, each of which leaves no open result behind."""

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa


def value(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> Any:
    """Of a query that gives one; of a DELETE, how many rows went."""
    return connection.execute(sql, list(values)).fetchall()[0][0]


def column(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """The first column of a query."""
    return [row[0] for row in connection.execute(sql, list(values)).fetchall()]


def create(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """A table of the connection with these rows."""
    connection.register("_part", table)
    connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM _part").fetchall()
    connection.unregister("_part")


def insert(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """More rows for it."""
    connection.register("_part", table)
    connection.execute(f"INSERT INTO {name} SELECT * FROM _part").fetchall()
    connection.unregister("_part")
