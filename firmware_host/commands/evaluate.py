"""`edgecl evaluate`: what learning was worth on devices whose journals are here, and what to label next.

Exit codes: 0 · 1 nothing could be evaluated · 7 of several devices, some could not.
"""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from edgecl import disk
from edgecl.errors import EXIT_FAILED, EXIT_OK, EXIT_PARTIAL, EdgeclError, StoreError
from firmware_host import query
from firmware_host.commands.options import json_option
from firmware_host.evaluate import queue, text
from firmware_host.evaluate.device import BEFORE, Options, evaluate, gather
from firmware_host.evaluate.evaluation import Evaluation
from firmware_host.evaluate.fleet import evaluate_fleet
from firmware_host.evaluate.given import Labels, Phases, read_labels, read_phases
from firmware_host.host_store import HostStore
from firmware_host.replay.bundles import Bundles

SHOWN: Final = 50
"""Devices that people are shown in a table."""
FILE: Final = click.Path(path_type=Path)


@click.command(name="evaluate")
@click.argument("store", type=FILE, default=Path("pulled"))
@click.option("--device", "devices", multiple=True, metavar="NAME", help="This device alone. May be repeated.")
@click.option("--lineage", default="", metavar="NAME", help="This lineage alone.")
@click.option("--labels", type=FILE, metavar="FILE", help="Labels that came later: CSV with the columns seq and class.")
@click.option("--phases", type=FILE, metavar="FILE",
              help="Which domain the stream was in: CSV with the columns seq, from there on, and domain.")  # fmt: skip
@click.option("--before", default=BEFORE, show_default=True, type=click.IntRange(min=0), metavar="N",
              help="Samples that the source model answers, to say what learning was worth; 0: none.")  # fmt: skip
@click.option("--bundles", "places", multiple=True, type=FILE, metavar="DIR",
              help="Where to look for bundles. May be repeated.")  # fmt: skip
@click.option("--suggest-labels", "wanted", type=click.IntRange(1, 10_000), metavar="N",
              help="Say which N samples to label first, as CSV that edgecl label takes.")  # fmt: skip
@click.option("--output", "-o", type=FILE, metavar="FILE",
              help="Write suggestions to a file; of several devices, to a folder.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the intervals.")
@json_option
def evaluate_command(
    store: Path,
    devices: tuple[str, ...],
    lineage: str,
    labels: Path | None,
    phases: Path | None,
    before: int,
    places: tuple[Path, ...],
    wanted: int | None,
    output: Path | None,
    seed: int,
    as_json: bool,
) -> int:
    """Say what learning was worth on devices.

    STORE is the folder that edgecl ingest has made tables in. Of one device all figures are shown, of several a line
    each, those unlike the others first.
    """
    if output and not wanted:
        raise click.UsageError("-o is for --suggest-labels; --json prints figures")
    host = HostStore(store)
    options = Options(
        labels=read_labels(labels) if labels else Labels({}),
        phases=read_phases(phases) if phases else Phases({}),
        before=0 if wanted else before,
        lineage=lineage,
        seed=seed,
    )
    chosen = _devices(host, devices)
    with Bundles(places, [store / device for device in chosen]) as bundles:
        if wanted:
            return _suggest(host, chosen, bundles, options, wanted, output, as_json=as_json)
        if len(chosen) > 1 and not as_json:
            found = evaluate_fleet(host, chosen)
            print(text.fleet(found, SHOWN))
            print("\nall figures of one: --device NAME; of all: --json")
            return EXIT_OK
        return _figures(host, chosen, bundles, options, as_json=as_json)


def _devices(store: HostStore, given: Sequence[str]) -> list[str]:
    """Those asked for, or all. Raises StoreError: there are none, or no such one."""
    known = [index.device for index in store.indexes()]
    if not known:
        raise StoreError(f"{store.root}: no tables yet; edgecl ingest {store.root}")
    for device in given:
        if device not in known:
            some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
            raise StoreError(
                f"{device}: not in the tables of {store.root}, which have {some}; edgecl ingest takes more"
            )
    return list(dict.fromkeys(given)) or known


def _figures(store: HostStore, devices: Sequence[str], bundles: Bundles, options: Options, *, as_json: bool) -> int:
    failed = 0
    for place, device in enumerate(devices):
        try:
            every = evaluate(store, device, bundles, options)
        except EdgeclError as error:
            if len(devices) == 1:
                raise
            failed += 1
            print(f"edgecl: {error}", file=sys.stderr)
            continue
        for number, found in enumerate(every):
            if as_json:
                print(msgspec.json.encode(facts(found)).decode(), flush=True)
            else:
                print(("\n\n" if place or number else "") + text.sheet(found), flush=True)
    return _code(failed, len(devices))


def facts(found: Evaluation) -> dict[str, Any]:
    """An evaluation as `--json` prints it."""
    return {**vars(found), "cpu_seconds": found.cpu_seconds}


def _suggest(
    store: HostStore,
    devices: Sequence[str],
    bundles: Bundles,
    options: Options,
    wanted: int,
    output: Path | None,
    *,
    as_json: bool,
) -> int:
    if len(devices) > 1 and not (as_json or output):
        raise click.UsageError("each device has numbers of its own: give --device NAME, or -o FOLDER for all")
    failed = 0
    for device in devices:
        try:
            with query.opened(store, [device]) as connection:
                of = gather(store, connection, device, bundles, options)[-1]
                found = queue.suggest(of, wanted)
        except EdgeclError as error:
            if len(devices) == 1:
                raise
            failed += 1
            print(f"edgecl: {error}", file=sys.stderr)
            continue
        for note in found.notes:
            print(f"{device}: {note}", file=sys.stderr)
        if as_json:
            print(msgspec.json.encode(found).decode(), flush=True)
        elif output:
            path = output if len(devices) == 1 else output / f"{device}.csv"
            _write(path, _csv(found))
            print(f"{path}: {len(found.suggestions)} samples; fill in class, then: edgecl label STATE --csv {path}")
        else:
            print(_csv(found), end="")
    return _code(failed, len(devices))


def _csv(found: queue.Queue) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, queue.COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(queue.rows(found))
    return out.getvalue()


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path.absolute(), content.encode())
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give a file that can be written") from None


def _code(failed: int, devices: int) -> int:
    if not failed:
        return EXIT_OK
    return EXIT_FAILED if failed == devices else EXIT_PARTIAL
