"""What happens to a device while a bundle comes to it; each is a line of `--json`, tagged by `event`."""

from collections.abc import Callable

import msgspec

from edgecl.deployments import Figures, State
from firmware_host.plan import Plan


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Something happened."""

    device: str


class Planned(Event, frozen=True, kw_only=True, tag="plan"):
    """The board was looked at."""

    plan: Plan


class Begun(Event, frozen=True, kw_only=True, tag="begun"):
    """The board has noted the deployment."""

    number: int


class Sending(Event, frozen=True, kw_only=True, tag="sending"):
    """Bytes of the bundle that are there, of all that are to be sent."""

    bytes: int
    of: int


class Sent(Event, frozen=True, kw_only=True, tag="sent"):
    """Everything is there."""

    bytes: int
    """That travelled."""
    seconds: float


class Entered(Event, frozen=True, kw_only=True, tag="state"):
    """The board is in this state."""

    number: int
    state: State


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """The board is still in this state; told every few seconds."""

    number: int
    state: State
    seconds: float
    """By this computer's clock, since it was seen there first."""


class Passed(Event, frozen=True, kw_only=True, tag="passed"):
    """A state has come to its end."""

    number: int
    state: State
    seconds: float
    """By the board's clock."""
    said: str
    """What it has brought, in words."""


class Lost(Event, frozen=True, kw_only=True, tag="lost"):
    """The connection broke; it is tried again."""

    reason: str


class Ended(Event, frozen=True, kw_only=True, tag="outcome"):
    """There is an outcome. Without a deployment, the bundle was there already, or could not come there."""

    outcome: str
    exit_code: int
    bundle: str
    title: str
    reason: str = ""
    number: int = 0
    signed_by: str = ""
    learned: str = ""
    """What became of it, in words."""
    trial: Figures | None = None
    before: Figures | None = None
    current: str = ""
    """Id of the bundle that answers now, and `current_title`."""
    current_title: str = ""


Tell = Callable[[Event], None]
