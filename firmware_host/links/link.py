"""What a link is: an address, and a connection that can be opened as often as it breaks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from edgecl.channel import Pace
from edgecl.errors import LinkError
from edgecl.streams import ByteStream

CONNECT_S = 20.0
"""Until the agent has answered first: a slow board takes seconds to start Python."""

STALL_S = 30.0
"""A connection that is open but silent for so long, while an answer is awaited, is given up."""


@dataclass(frozen=True)
class Options:
    """How to reach boards, where it is not as usual."""

    agent: str = ""
    """The `edgecl` of the board: a path, or a name that its shell finds. Empty: looked for where it is installed."""
    store: Path | None = None
    """The state directory on the board; None for the agent's own choice."""
    ssh_command: str = ""
    """What to run instead of `ssh`, with its options. Empty: EDGECL_SSH, or else `ssh`."""
    connect_s: float = CONNECT_S
    stall_s: float = STALL_S


USUAL: Final = Options()


class Connection(ByteStream, Protocol):
    """An open link."""

    line: bool
    """Whether it is a serial line, which begins in lines of text."""
    base_baud: int
    """The speed that a line begins with."""
    baud: int | None
    """The speed that it should go on at; None for the same."""

    @property
    def pace(self) -> Pace:
        """At the speed that it has."""
        ...

    def set_baud(self, baud: int) -> None:
        """Go on at another speed."""
        ...

    def failure(self, found: str) -> LinkError:
        """Why it broke, and what to do; `found` is what was seen of it on this side."""
        ...


class Link(Protocol):
    """A way to one board."""

    @property
    def address(self) -> str:
        """As the user writes it, for messages."""
        ...

    @property
    def options(self) -> Options: ...

    def open(self) -> Connection:
        """Open it; the agent has been started, but may not answer yet. Raises LinkError."""
        ...
