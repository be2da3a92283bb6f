"""A board's facts, asked of its agent over any link."""

from edgecl import messages
from edgecl.facts import Facts
from edgecl.messages import Nothing
from firmware_host.client import Client
from firmware_host.links.table import link_to


def facts_of(device: str) -> Facts:
    """What the board of an address is. Raises LinkError: it cannot be reached, or has no agent."""
    with Client(link_to(device)) as client:
        return client.request(messages.FACTS, Nothing(), Facts)
