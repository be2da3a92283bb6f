"""`edgecl deploy`: bring a bundle onto devices, and see it committed, refused or rolled back."""

from pathlib import Path

import click

from firmware_host import fleet as fleets
from firmware_host import offer as offers
from firmware_host.client import Client
from firmware_host.commands.options import fleet_option, json_option, me
from firmware_host.deploy import deploy as deploy_to
from firmware_host.deploy import require
from firmware_host.plan import Wishes
from firmware_host.show import Show


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("devices", nargs=-1, required=True, metavar="DEVICE...")
@click.option("--learned", type=click.Choice(["carry", "rebase", "discard"]), help="What becomes of learned state.")
@fleet_option
@json_option
def deploy(bundle: Path, devices: tuple[str, ...], learned: str | None, fleet_file: Path | None, as_json: bool) -> int:
    """Deploy."""
    fleet = fleets.load(fleet_file)
    (device,) = fleet.find(devices)
    with offers.opened(bundle) as offer, Client(device.link()) as client:
        show = Show(as_json=as_json, several=False)
        event = deploy_to(client, device.name, offer, Wishes(by=me(), learned=learned), show)
        require(event)
        if not as_json:
            print(f"committed {event.title}")
    return 0
