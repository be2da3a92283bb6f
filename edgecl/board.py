"""What the handlers of one connection work on."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgecl.objects import Objects


@dataclass
class Board:
    """A board, as one connection sees it."""

    store: Path
    """The state directory."""
    objects: Objects = field(init=False)
    greeted: bool = False
    """The host has said hello."""
    console: bool = False
    """The request being answered came in lines of text."""
    change_baud: Callable[[int], int | None] = lambda baud: None
    """Whether the line can go on at another speed, once the answer is out: the speed, or None."""
    holds: int | None = None
    """File of the lock that the receiving of a deployment holds, until this connection ends."""

    def __post_init__(self) -> None:
        self.objects = Objects(self.store)

    def release(self) -> None:
        """Hold nothing more: everything was received, or the host has gone."""
        with contextlib.suppress(OSError):  # told again when the object is whole
            self.objects.rest()
        if self.holds is not None:
            os.close(self.holds)
            self.holds = None
