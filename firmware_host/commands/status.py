"""`edgecl status`: how devices are."""

import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.errors import EdgeclError
from firmware_host import fleet as fleets
from firmware_host import together
from firmware_host.client import Client
from firmware_host.commands.options import devices_argument, fleet_option, json_option
from firmware_host.fleet import Device
from firmware_host.status import HEAD, Standing, columns, rows, standing

LOOK_S: Final = 2.0
"""Between two looks of --watch."""


@click.command()
@devices_argument
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@fleet_option
@json_option
def status(devices: tuple[str, ...], watch: bool, fleet_file: Path | None, as_json: bool) -> int:
    """Show how devices are: what answers, how it learns, and what was deployed last."""
    found = fleets.load(fleet_file).find(devices)
    clients = {device.name: Client(device.link()) for device in found}
    try:
        while True:
            results = together.in_order(found, lambda device: standing(clients[device.name], device.name))
            if not watch:
                code = together.exit_code(results)
                show(results, as_json=as_json)
                return code
            if sys.stdout.isatty() and not as_json:
                print("\x1b[H\x1b[2J", end="")
            show(results, as_json=as_json)
            time.sleep(LOOK_S)
    finally:
        for client in clients.values():
            client.close()


def show(results: list[tuple[Device, Standing | EdgeclError]], *, as_json: bool) -> None:
    """Print what was found; errors among several devices, too."""
    if as_json:
        for device, result in results:
            told = result if isinstance(result, Standing) else {"device": device.name, "error": str(result)}
            print(msgspec.json.encode(told).decode(), flush=True)
    elif len(results) == 1:
        ((_, result),) = results
        print(aligned(list(rows(result))) if isinstance(result, Standing) else f"edgecl: {result}", flush=True)
    else:
        table = [columns(result) for _, result in results if isinstance(result, Standing)]
        if table:
            print(aligned([HEAD, *table]), flush=True)
        for device, result in results:
            if isinstance(result, EdgeclError):
                print(together.told(device, result), file=sys.stderr, flush=True)
