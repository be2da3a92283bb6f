"""What the handlers of one connection work on."""

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

    def __post_init__(self) -> None:
        self.objects = Objects(self.store)
