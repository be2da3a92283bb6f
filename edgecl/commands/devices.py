"""`edgecl devices`: the boards that a project can name."""

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.devices import profiles


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a device.")
def devices(as_json: bool) -> None:
    """List the devices that a bundle can be built for."""
    found = profiles()
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
