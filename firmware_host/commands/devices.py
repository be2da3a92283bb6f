"""`edgecl devices`: the devices of the fleet, or the boards that a project can name."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.devices import profiles as all_profiles
from edgecl.errors import EdgeclError
from firmware_host import fleet as fleets
from firmware_host import together
from firmware_host.client import Client
from firmware_host.commands.options import fleet_option
from firmware_host.commands.status import show
from firmware_host.fleet import Device, Fleet
from firmware_host.status import Standing, standing


@click.command()
@click.option("--profiles", is_flag=True, help="List the boards that a project can name, where there is a fleet, too.")
@click.option("--status", is_flag=True, help="Ask each device how it is.")
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a device.")
def devices(profiles: bool, status: bool, fleet_file: Path | None, as_json: bool) -> int:
    """List the devices of the fleet; without a fleet.toml, the boards that a bundle can be built for."""
    if profiles and status:
        raise click.UsageError("profiles have no status; leave out one of --profiles and --status")
    fleet = Fleet() if profiles else fleets.load(fleet_file)
    if status and not fleet.where:
        raise click.UsageError("there is no fleet.toml here; name devices: edgecl status DEVICE...")
    if not fleet.where:
        _profiles(as_json=as_json)
        return 0
    if status:
        return _status(fleet, as_json=as_json)
    _fleet(fleet, as_json=as_json)
    return 0


def _fleet(fleet: Fleet, *, as_json: bool) -> None:
    if as_json:
        for device in fleet.devices:
            told = {"name": device.name, "address": device.address, "groups": device.groups}
            print(msgspec.json.encode(told).decode())
        return
    rows = [(device.name, device.address, ", ".join(device.groups)) for device in fleet.devices]
    print(aligned([("device", "address", "groups"), *rows]))


def _status(fleet: Fleet, *, as_json: bool) -> int:
    def do(device: Device) -> Standing:
        with Client(device.link()) as client:
            return standing(client, device.name)

    results = together.in_order(fleet.devices, do)
    show(results, as_json=as_json)
    sys.stdout.flush()
    failed = [result for _, result in results if isinstance(result, EdgeclError)]
    if len(results) == 1 and failed:
        return failed[0].exit_code
    return together.exit_code(results)


def _profiles(*, as_json: bool) -> None:
    found = all_profiles()
    if as_json:
        for profile in found:
            print(msgspec.json.encode(profile).decode())
        return
    rows = [("device", "", "processor", "cores", "memory", "budget", "engines", "link")]
    for profile in found:
        memory, budget = f"{profile.memory_bytes / 1e6:.0f} MB", f"{profile.budget_bytes / 1e6:.0f} MB"
        engines = ", ".join(profile.engines)
        rows.append(
            (profile.name, profile.title, profile.arch, str(profile.cores), memory, budget, engines, profile.link)
        )
    print(aligned(rows))
