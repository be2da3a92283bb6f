"""`edgecl top`: devices, live in a terminal; as a table of text elsewhere."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.errors import EXIT_OK, EdgeclError
from firmware_host import fleet as fleets
from firmware_host import together
from firmware_host.client import Client
from firmware_host.commands.options import fleet_option, json_option
from firmware_host.fleet import Device
from firmware_host.status import Standing, standing
from firmware_host.top.figures import Figures
from firmware_host.top.table import COLUMNS, ordered, row
from firmware_host.top.watch import EVERY_S, Look

TITLES = tuple(column.title for column in COLUMNS)


@click.command()
@click.argument("devices", nargs=-1, metavar="[DEVICE]...")
@click.option("--every", type=click.FloatRange(0.2, 3600), default=EVERY_S, show_default=True, metavar="SECONDS",
              help="Between two looks at a device.")  # fmt: skip
@click.option("--sort", type=click.Choice(TITLES), default=TITLES[0], show_default=True, metavar="COLUMN",
              help="Sort by this column at the start.")  # fmt: skip
@click.option("--once", is_flag=True, help="Look once, and print the table; so it is where there is no terminal.")
@fleet_option
@json_option
def top(devices: tuple[str, ...], every: float, sort: str, once: bool, fleet_file: Path | None, as_json: bool) -> int:
    """Watch devices, live: all of fleet.toml, or those named.

    DEVICE is a name or a group of fleet.toml, or an address.
    """
    fleet = fleets.load(fleet_file)
    found = fleet.find(devices) if devices else fleet.devices
    if not found:
        raise click.UsageError("there is no device in fleet.toml; name some: edgecl top DEVICE...")
    column = TITLES.index(sort)
    if once or as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _once(found, column, as_json=as_json)
    from firmware_host.top.app import Top

    app = Top(found, every_s=every)
    app.column = column
    app.run()
    return EXIT_OK


def _once(devices: tuple[Device, ...], column: int, *, as_json: bool) -> int:
    def do(device: Device) -> Standing:
        with Client(device.link()) as client:
            return standing(client, device.name)

    results = together.in_order(devices, do)
    figures = []
    for device, result in results:
        one = Figures(device.name, device.address)
        if isinstance(result, EdgeclError):
            one.take(Look(device.name, 0.0, None, str(result), 1))
        else:
            one.take(Look(device.name, 0.0, result))
        figures.append(one)
    found = ordered(figures, COLUMNS[column])
    if as_json:
        for one in found:
            print(msgspec.json.encode(_facts(one)).decode())
    else:
        print(aligned([TITLES, *(row(one) for one in found)]))
    for device, result in results:
        if isinstance(result, EdgeclError) and len(results) > 1:
            print(together.told(device, result), file=sys.stderr)
    return together.exit_code(results)


def _facts(one: Figures) -> dict[str, object]:
    told: dict[str, object] = {"device": one.device, "state": one.state}
    if one.error:
        return told | {"error": one.error}
    return told | {"steps_hz": one.steps_hz, "answers_hz": one.answers_hz, "status": one.standing}
