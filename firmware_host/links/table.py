"""Every kind of link, by the kind of address that it reaches."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from firmware_host.links.address import Address, LocalAddress, SerialAddress, SshAddress, parse
from firmware_host.links.link import USUAL, Link, Options
from firmware_host.links.local import Local
from firmware_host.links.serial import Serial
from firmware_host.links.ssh import Ssh

LINKS: Final[Mapping[type[Address], Callable[[Any, Options], Link]]] = {
    LocalAddress: Local,
    SshAddress: Ssh,
    SerialAddress: Serial,
}


def link_to(text: str, options: Options = USUAL, names: Callable[[str], str | None] = lambda name: None) -> Link:
    """The link to a device. `names` gives the address that the fleet has for a name, or None.

    Raises LinkError: it is no address.
    """
    address = parse(text, names)
    return LINKS[type(address)](address, options)
