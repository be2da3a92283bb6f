"""Every kind of link, by the kind of address that it reaches."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgecl.errors import LinkError
from firmware_host.links.link import Link, Options
from firmware_host.links.local import Local

USUAL: Final = Options()


def link_to(text: str, options: Options = USUAL, names: Callable[[str], str | None] = lambda name: None) -> Link:
    """The link to a device. `names` gives the address that the fleet has for a name, or None.

    Raises LinkError: it is no address.
    """
    text = names(text) or text
    if not text.startswith("local:"):
        raise LinkError(f"{text!r}: no address of a device; write local:DIR")
    rest = text.removeprefix("local:")
    return Local(text, Path(rest).expanduser().absolute() if rest else None, options)
