"""A board's facts, asked of its agent over any link."""

from edgecl import messages
from edgecl.facts import Facts
from edgecl.messages import Nothing
from firmware_host import fleet as fleets
from firmware_host.client import Client


def facts_of(device: str) -> Facts:
    """What the board of an address, or of a name of fleet.toml, is.

    Raises LinkError: it cannot be reached, or has no agent. FleetError.
    """
    with Client(fleets.load(None).one(device).link()) as client:
        return client.request(messages.FACTS, Nothing(), Facts)
