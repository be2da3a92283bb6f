"""`edgecl history`: what was deployed to a device, with outcomes and reasons."""

from pathlib import Path

import click
import msgspec

from edgecl import orders
from edgecl.commands.table import aligned
from edgecl.deployments import Deployment
from edgecl.orders import HistoryAnswer, HistoryRequest
from firmware_host import fleet as fleets
from firmware_host.client import Client
from firmware_host.commands.options import fleet_option, json_option
from firmware_host.offer import title
from firmware_host.patient import Patient
from firmware_host.status import when


@click.command()
@click.argument("device")
@click.option("--all", "everything", is_flag=True, help="All that the device remembers; else the newest 20.")
@fleet_option
@json_option
def history(device: str, everything: bool, fleet_file: Path | None, as_json: bool) -> None:
    """Show what was deployed to a device, newest last, with outcomes and reasons."""
    found = fleets.load(fleet_file).one(device)
    with Client(found.link()) as client:
        board = Patient(client)
        page = there = board.ask(orders.HISTORY, HistoryRequest(), HistoryAnswer)
        deployments = list(page.deployments)
        while everything and page.deployments:
            page = board.ask(orders.HISTORY, HistoryRequest(before=page.deployments[-1].number), HistoryAnswer)
            deployments += page.deployments
    deployments.reverse()
    if as_json:
        for deployment in deployments:
            print(msgspec.json.encode(deployment).decode())
        return
    if deployments:
        print(aligned([("", "begun", "bundle", "outcome", "by", ""), *map(_row, deployments)]))
    else:
        print("nothing was deployed yet")
    kept = [f"{title(one.name, one.version)} {one.id[:12]}" for one in there.bundles]
    current = next((one for one in kept if one.endswith(there.current[:12])), "none") if there.current else "none"
    print(f"\ncurrent  {current}\nkept     {', '.join(kept) or 'none'}")


def _row(deployment: Deployment) -> tuple[str, ...]:
    name = title(deployment.name, deployment.version)
    return (
        str(deployment.number),
        when(deployment),
        f"back to {name}" if deployment.back else name,
        deployment.outcome or deployment.state,
        deployment.by,
        deployment.reason or deployment.taken,
    )
