"""`edgecl label`: give samples that were answered their labels, late or in bulk. Live where a run has the state open.

Exit codes: 0 all were learned or known already; 3 some were, and the others are told by line; 1 none was.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import click
import msgspec

from edgecl.commands.options import size
from edgecl.control import opened
from edgecl.errors import EXIT_DATA_LOST, EXIT_FAILED, EXIT_OK, RequestError
from edgecl.labels import Given, Labelled
from edgecl.requests import Label

AT_ONCE: Final = 1000
"""Labels learned together: all or none of them are on the disk after a power cut."""
MAX_ROWS: Final = 1 << 20


@dataclass(frozen=True)
class Row:
    """One label, or why it is none."""

    where: str
    given: Given | None
    problem: str = ""


class Told(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    learned: int
    corrected: int
    unchanged: int
    updates: int
    refused: tuple[dict[str, str], ...]
    """`where` and `reason` of each."""


@click.command()
@click.argument("state", type=click.Path(path_type=Path))
@click.argument("labels", nargs=-1, metavar="[SEQ=CLASS]...")
@click.option(
    "--csv", "file", type=click.Path(path_type=Path), help="Rows with the columns seq and class; - for stdin."
)
@click.option(
    "--memory", type=size, metavar="SIZE", help='Budget above which no update is taken, like "64 MB"; 0 for none.'
)
@click.option("--json", "as_json", is_flag=True, help="Print what became of them as JSON.")
def label(state: Path, labels: tuple[str, ...], file: Path | None, memory: int | None, as_json: bool) -> int:
    """Give samples their labels: the loop learns from them.

    STATE is the --state of a run, which may be running, and must keep samples (edgecl run --keep). SEQ is the number of
    a sample, as its answer and the journal have it, and CLASS the name of its class.
    """
    rows = [_argument(text) for text in labels]
    if file:
        rows += _rows(file)
    if not rows:
        raise click.UsageError("no labels; give some as SEQ=CLASS, or --csv FILE")
    good = [row for row in rows if row.given]
    refused = [(row.where, row.problem) for row in rows if not row.given]
    learned = corrected = unchanged = updates = 0
    with opened(state, budget_bytes=memory) as ask:
        for start in range(0, len(good), AT_ONCE):
            part = good[start : start + AT_ONCE]
            request = Label(labels=tuple(row.given for row in part if row.given))
            told: Labelled = ask(request, Labelled)
            learned, corrected = learned + told.learned, corrected + told.corrected
            unchanged, updates = unchanged + told.unchanged, updates + told.updates
            refused += [(part[one.row].where, one.reason) for one in told.refused]
    for where, problem in refused:
        print(f"edgecl: {where}: {problem}", file=sys.stderr)
    if as_json:
        rest = tuple({"where": where, "reason": problem} for where, problem in refused)
        print(msgspec.json.encode(Told(learned, corrected, unchanged, updates, rest)).decode())
    else:
        known = f", {unchanged} known already" if unchanged else ""
        print(f"{learned} learned ({corrected} corrected){known}, {len(refused)} refused; {updates} updates")
    if not refused:
        return EXIT_OK
    return EXIT_DATA_LOST if learned or unchanged else EXIT_FAILED


def _argument(text: str) -> Row:
    seq, _, name = text.partition("=")
    if not seq.isdecimal() or not name:
        raise click.UsageError(f'"{text}" is not like 17=cat')
    return Row(text, Given(int(seq), name))


def _rows(path: Path) -> list[Row]:
    """Raises RequestError: the file cannot be read, or has no such columns."""
    try:
        if str(path) == "-":
            return list(_read(sys.stdin, "stdin"))
        with path.open(newline="", encoding="utf-8-sig") as file:  # as spreadsheets save it
            return list(_read(file, str(path)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}; give a file of CSV") from None


def _read(file: TextIO, name: str) -> Iterator[Row]:
    reader = csv.DictReader(file)
    if not {"seq", "class"} <= set(reader.fieldnames or ()):
        raise RequestError(f"{name}: no columns seq and class in its first line; add one that names them")
    for count, row in enumerate(reader):
        where = f"{name}:{reader.line_num}"
        if count >= MAX_ROWS:
            raise RequestError(f"{where}: more than {MAX_ROWS} labels; give them in several files")
        seq, label_ = (row["seq"] or "").strip(), (row["class"] or "").strip()
        if not seq.isdecimal() or len(seq) > 18:
            yield Row(where, None, f"seq {seq!r} is no number of a sample; give that of its answer")
        elif not label_:
            yield Row(where, None, "no class; give its name")
        else:
            yield Row(where, Given(int(seq), label_))
