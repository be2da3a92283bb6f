"""`edgecl logs`: what the service of a device has said."""

import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from edgecl import orders
from edgecl.errors import LinkError
from edgecl.orders import LogAnswer, LogRequest
from firmware_host import fleet as fleets
from firmware_host.client import Client
from firmware_host.commands.options import fleet_option, json_option
from firmware_host.patient import Patient

LOOK_S: Final = 0.5
"""Between two looks for new lines."""


@click.command()
@click.argument("device")
@click.option("--follow", "-f", is_flag=True, help="Go on with what it says next, until Ctrl-C.")
@fleet_option
@json_option
def logs(device: str, follow: bool, fleet_file: Path | None, as_json: bool) -> None:
    """Show what the service of a device has said: its last lines."""
    found = fleets.load(fleet_file).one(device)

    def lost(error: LinkError) -> None:
        print(f"edgecl: {error}", file=sys.stderr, flush=True)

    with Client(found.link()) as client:
        board, rest = Patient(client, lost=lost), b""
        request = LogRequest()
        while True:
            answer = board.ask(orders.LOG, request, LogAnswer)
            if request.off is not None and answer.file != request.file:
                rest = b""  # the log was begun anew
            *lines, rest = (rest + answer.data).split(b"\n")
            _print(lines, as_json=as_json)
            request = LogRequest(off=answer.off, file=answer.file)
            if answer.data:
                continue
            if not follow:
                break
            time.sleep(LOOK_S)
    _print([rest] if rest else [], as_json=as_json)


def _print(lines: list[bytes], *, as_json: bool) -> None:
    for line in lines:
        text = line.decode("utf-8", "replace")
        print(msgspec.json.encode({"line": text}).decode() if as_json else text, flush=True)
