"""`edgecl journal`: whether the segments of a journal are whole, what is in them, and how to mend and to seal them."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from edgecl import checkpoints, control, inventory
from edgecl import journal as journals
from edgecl.boot import boot_id
from edgecl.clock import SystemClock
from edgecl.commands.table import aligned
from edgecl.errors import EXIT_DATA_LOST, EXIT_OK
from edgecl.inventory import Checked, Stat
from edgecl.journal import Loss
from edgecl.requests import Cut, Status

path = click.argument("path", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print a line of JSON each.")


@click.group()
def journal() -> None:
    """See to the segments of a journal.

    PATH is a state directory, with journal and samples, a directory of segments, or a segment.
    """


@journal.command()
@path
@as_json
def check(path: Path, as_json: bool) -> int:
    """Read every segment to its end. Exit code 3: records are lost."""
    found = list[Checked]()
    for one in inventory.check(path):
        found.append(one)
        if as_json:
            _line(_plain(one))
    if not as_json:
        rows = [("segment", "bytes", "records", "")]
        rows += [(one.file.name, str(one.bytes), str(one.records), _told(one)) for one in found]
        print(aligned(rows))
    return EXIT_DATA_LOST if any(one.lost for one in found) else EXIT_OK


@journal.command()
@path
@as_json
def recover(path: Path, as_json: bool) -> int:
    """Mend segments that were not sealed: what is whole stays. Exit code 3: records are lost.

    A run does that by itself when it starts. In a state directory, the loss is journalled.
    """
    lost: list[Loss] = []
    if (path / "journal").is_dir():
        with checkpoints.owned(path):
            losses = {folder: journals.recover(folder) for folder in inventory.folders(path)}
            lost = [loss for found in losses.values() for loss in found]
            if lost:
                with journals.Journal(path / "journal", boot=boot_id(), clock=SystemClock()) as out:
                    for loss in lost:
                        out.append(loss)
    else:
        lost = journals.recover(inventory.folders(path)[0])
    for loss in lost:
        if as_json:
            _line({"file": loss.file, "records_kept": loss.records_kept, "bytes_lost": loss.bytes_lost})
        else:
            print(f"{loss.file}: {loss.records_kept} records kept, {loss.bytes_lost} bytes behind them lost")
    if not lost and not as_json:
        print("every segment was sealed; nothing to mend")
    return EXIT_DATA_LOST if any(loss.bytes_lost for loss in lost) else EXIT_OK


@journal.command()
@click.argument("state", type=click.Path(path_type=Path))
@as_json
def cut(state: Path, as_json: bool) -> int:
    """Seal the segments that a service is writing, so that they can be pulled or copied.

    STATE is the store of a service. Where none runs, segments that were left open are mended.
    """
    with control.asking(state) as ask:
        if ask:
            ask(Cut(), Status)
    if not ask:
        with checkpoints.owned(state):
            for folder in inventory.folders(state):
                journals.recover(folder)
    for folder in inventory.folders(state):
        newest = journals.segments(folder)[-1:]
        if as_json:
            _line({"folder": folder.name, "newest": newest[0].name if newest else None})
        else:
            print(f"{folder.name}: sealed up to {newest[0].name}" if newest else f"{folder.name}: empty")
    return EXIT_OK


@journal.command()
@path
@as_json
def stat(path: Path, as_json: bool) -> None:
    """Count what there is of everything."""
    for number, folder in enumerate(inventory.folders(path)):
        told = inventory.stat(folder)
        if as_json:
            _line(_plain(told))
        else:
            print("\n" * bool(number) + aligned(_rows(told)))


@journal.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The copy.")
@as_json
def view(paths: tuple[Path, ...], output: Path, as_json: bool) -> int:
    """Write a copy for Foxglove and Rerun, with samples as images. Exit code 3: a segment is torn."""
    from edgecl import viewer  # which loads what only this needs

    copied = viewer.copy(paths, output)
    if as_json:
        _line({"file": str(output), **{name: getattr(copied, name) for name in copied.__dataclass_fields__}})
    else:
        print(f"{output}: {copied.records} records, {copied.images} images")
    return EXIT_DATA_LOST if copied.bytes_lost else EXIT_OK


def _told(one: Checked) -> str:
    missing = f"; {one.missing} records before it are missing" if one.missing else ""
    if one.state == "torn":
        return f"torn: {one.reason}; {one.bytes_lost} bytes lost{missing}"
    return one.state + missing


def _rows(told: Stat) -> Sequence[tuple[str, str]]:
    rows = [
        (str(told.directory), ""),
        ("segments", f"{told.segments}, {told.bytes} bytes"),
        ("boots, runs", f"{told.boots}, {told.runs}"),
    ]
    if told.first_ns is not None and told.last_ns is not None:
        rows.append(("time", f"{_time(told.first_ns)} to {_time(told.last_ns)}, by the board's clock"))
    if told.first_seq is not None:
        rows.append(("samples", f"{told.first_seq} to {told.last_seq}"))
    rows += [(name, str(count)) for name, count in sorted(told.records.items())]
    for name, value, unit in (
        ("dropped", told.dropped, "samples, by the quota"),
        ("not journalled", told.not_journalled, "records, by the quota"),
        ("lost", told.bytes_lost, "bytes, torn off"),
    ):
        if value:
            rows.append((name, f"{value} {unit}"))
    return rows


def _time(wall_ns: int) -> str:
    try:
        return datetime.fromtimestamp(wall_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{wall_ns} ns"


def _plain(one: Checked | Stat) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in one.__dataclass_fields__}
    return {name: os.fspath(value) if isinstance(value, Path) else value for name, value in fields.items()}


def _line(value: dict[str, Any]) -> None:
    print(msgspec.json.encode(value).decode())
