"""`edgecl ingest`: makes tables of the journals that were pulled."""

import sys
import threading
from pathlib import Path

import click
import msgspec

from edgecl.commands.interrupt import Interrupt
from edgecl.errors import EXIT_DATA_LOST, EXIT_INTERRUPTED, EXIT_OK
from firmware_host import ingest as work
from firmware_host.host_store import HostStore
from firmware_host.ingest import Ingested

LOOK_S = 5.0
"""Between two looks into a store that is watched."""


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default=Path("pulled"))
@click.option("--device", "devices", multiple=True, metavar="NAME", help="Of this device alone. May be repeated.")
@click.option("--again", is_flag=True, help="Make all tables anew.")
@click.option("--watch", is_flag=True, help="Go on, and take what comes, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a device.")
def ingest(store: Path, devices: tuple[str, ...], again: bool, watch: bool, as_json: bool) -> int:
    """Make tables of the journals that were pulled, to ask with edgecl query.

    STORE is the folder that edgecl pull fills, `pulled` if it is not given. Only what is new is taken. Exit code 3:
    records are lost, as a segment is damaged.
    """
    if watch and (devices or again):
        raise click.UsageError("--watch takes everything that is new; leave --device and --again out")
    opened = HostStore(store)
    bar = sys.stderr.isatty() and not as_json

    def progress(device: str, done: int, of: int) -> None:
        if bar:
            print(f"\r\x1b[K  {device} {done / 1e6:.0f} of {of / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)

    lost = False
    if not watch:
        for one in work.ingest(opened, devices, again=again, progress=progress):
            lost |= bool(one.lost)
            _show(one, as_json, bar)
        return EXIT_DATA_LOST if lost else EXIT_OK
    with Interrupt() as interrupt:
        stop = threading.Event()
        for one in work.watched(opened, lambda: not interrupt.caught and not stop.wait(LOOK_S)):
            _show(one, as_json, bar)
            lost |= bool(one.lost)
    return EXIT_INTERRUPTED


def _show(one: Ingested, as_json: bool, bar: bool) -> None:
    if bar:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if as_json:
        print(msgspec.json.encode(one).decode(), flush=True)
        return
    print(f"{one.device}: {one.records} records of {one.segments} segments, {one.there} known before", flush=True)
    for segment in one.lost:
        print(f"{one.device}: {segment.name}: {segment.reason}; {segment.bytes_lost} bytes lost", file=sys.stderr)
