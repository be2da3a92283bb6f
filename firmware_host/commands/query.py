"""`edgecl query`: asks the tables of a host store, in SQL."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from edgecl.commands.table import aligned
from firmware_host import query as work
from firmware_host.host_store import HostStore
from firmware_host.views import SEGMENTS, TABLES, VIEWS

SHOWN: Final = 200
"""Rows that people are shown."""


@click.command()
@click.argument("sql", required=False)
@click.option("--store", type=click.Path(path_type=Path), default=Path("pulled"), show_default=True, metavar="DIR",
              help="The folder that edgecl ingest has made tables in.")  # fmt: skip
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE",
              help="Write the result to a file: .csv, .parquet or .arrow.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a row.")
def query(sql: str | None, store: Path, output: Path | None, as_json: bool) -> None:
    """Ask the tables of a host store, in SQL.

    SQL is what DuckDB takes. Without it, tables and views are listed.
    """
    with work.opened(HostStore(store)) as connection:
        if sql is None:
            _list(connection, as_json)
            return
        found = work.ask(connection, sql)
        if output:
            work.export(found, output)
        elif as_json:
            for row in _rows(found):
                print(msgspec.json.encode(row, enc_hook=str).decode())
        else:
            _show(found)


def _list(connection: Any, as_json: bool) -> None:
    told = {**TABLES, **{name: view.about for name, view in VIEWS.items()}, "segments": SEGMENTS}
    for name, about in told.items():
        columns = [(row[0], row[1]) for row in connection.execute(f"DESCRIBE {name}").fetchall()]
        if as_json:
            print(msgspec.json.encode({"name": name, "about": about, "columns": dict(columns)}).decode())
        else:
            print(f"{name}: {about}\n    {', '.join(column for column, _ in columns)}")


def _rows(found: Any) -> Iterator[dict[str, Any]]:
    for batch in work.batches(found):
        yield from batch.to_pylist()


def _show(found: Any) -> None:
    rows, more = [tuple(found.columns)], 0
    for batch in work.batches(found.limit(SHOWN + 1)):
        rows += [tuple(_text(value) for value in row.values()) for row in batch.to_pylist()]
    if len(rows) > SHOWN + 1:
        rows, more = rows[: SHOWN + 1], 1
    print(aligned(rows))
    if more:
        print(f"{SHOWN} rows are shown, and there are more: give LIMIT, --json, or -o FILE", file=sys.stderr)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    if isinstance(value, list | dict):
        return msgspec.json.encode(value, enc_hook=str).decode()
    return " ".join(str(value).splitlines())
