"""What host and board say to each other of deployments, of the service, and of files to pull: group 64 from 3 on."""

from typing import Annotated, Final

import msgspec

from edgecl.deployments import Deployment, Policy
from edgecl.messages import EDGECL, Body, Code, Digest, FileName, Natural
from edgecl.smp import READ, WRITE

BEGIN: Final[Code] = (WRITE, EDGECL, 3)
DEPLOYMENT: Final[Code] = (READ, EDGECL, 4)
RECEIVED: Final[Code] = (WRITE, EDGECL, 5)
HISTORY: Final[Code] = (READ, EDGECL, 6)
CANCEL: Final[Code] = (WRITE, EDGECL, 7)
BACK: Final[Code] = (WRITE, EDGECL, 8)
ASK: Final[Code] = (WRITE, EDGECL, 9)
LIST: Final[Code] = (READ, EDGECL, 10)
ACKNOWLEDGE: Final[Code] = (WRITE, EDGECL, 11)
LOG: Final[Code] = (READ, EDGECL, 12)
APPLY: Final[Code] = (WRITE, EDGECL, 13)

MAX_LISTED: Final = 500
MAX_SHOWN: Final = 20
"""Deployments of a history, in one answer."""
LOG_BYTES: Final = 32 << 10

Who = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""user@host"""


class BeginRequest(Body, frozen=True, kw_only=True):
    """Deploy this bundle, whose manifest and signature have been sent as objects."""

    bundle: Digest
    signature: Digest | None = None
    by: Who
    learned: Policy | None = None
    """The bundle's own, where it is not given."""
    latency_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 30.0
    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86400)] = 6 * 3600.0
    supersede: bool = False
    """A deployment that is under way, and has not switched, is given up for this one."""


class BeginAnswer(Body, frozen=True, kw_only=True):
    """`number` is 0 where the bundle is the current one already."""

    number: int


class NumberRequest(Body, frozen=True, kw_only=True):
    """One deployment; the newest where the number is 0."""

    number: Natural = 0


class CancelRequest(Body, frozen=True, kw_only=True):
    """Give up the deployment that is under way, if it has not switched."""

    number: Natural
    by: Who
    reason: Annotated[str, msgspec.Meta(max_length=4000)] = ""
    """What is wrong with the bundle, where that is why: the outcome of one being received is then `refused`."""


class DeploymentAnswer(Body, frozen=True, kw_only=True):
    """None where there has been none."""

    deployment: Deployment | None = None


class HistoryRequest(Body, frozen=True, kw_only=True):
    """Deployments before a number, newest first."""

    before: Natural | None = None


class Staged(Body, frozen=True, kw_only=True):
    """A bundle that is on the board."""

    id: Digest
    name: str
    lineage: str
    version: int


class HistoryAnswer(Body, frozen=True, kw_only=True):
    """At most MAX_SHOWN deployments."""

    current: str
    bundles: tuple[Staged, ...]
    min_versions: dict[str, int]
    development: bool
    """Whether unsigned bundles are taken."""
    deployments: tuple[Deployment, ...]


class BackRequest(Body, frozen=True, kw_only=True):
    """Go back to a bundle that was committed here before."""

    to: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{0,64}\Z")] = ""
    """Its id, or the beginning of it; the one before the current one where it is empty."""
    by: Who
    probation_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 5.0


class AskRequest(Body, frozen=True, kw_only=True):
    """A line for the service's socket: docs/formats/control.md."""

    line: bytes


class AskAnswer(Body, frozen=True, kw_only=True):
    """The service's line."""

    line: bytes


class ListRequest(Body, frozen=True, kw_only=True):
    """Files that can be pulled, in the order of their names."""

    folder: Annotated[str, msgspec.Meta(pattern=r"^(journal|samples|learned)\Z")]
    after: FileName = ""
    """Begin behind this name."""


class Listed(Body, frozen=True, kw_only=True):
    """One of them."""

    name: str
    """From the store on."""
    size: int
    sealed: bool
    """Whether it will not change any more."""


class ListAnswer(Body, frozen=True, kw_only=True):
    """At most MAX_LISTED."""

    files: tuple[Listed, ...]


class Kept(Body, frozen=True, kw_only=True):
    """A file that the host has."""

    name: FileName
    sha256: Digest


class AcknowledgeRequest(Body, frozen=True, kw_only=True):
    """The host has these, on its disk: sealed segments may be deleted."""

    files: Annotated[tuple[Kept, ...], msgspec.Meta(max_length=MAX_LISTED)]


class AcknowledgeAnswer(Body, frozen=True, kw_only=True):
    """How many were deleted; others are not what the host has, or may still change."""

    deleted: int


class LogRequest(Body, frozen=True, kw_only=True):
    """The service's log from an offset on; `off` is None for its last lines."""

    off: Natural | None = None
    file: Natural = 0
    """What the answer before said: another number, and the log is read from its start."""


class LogAnswer(Body, frozen=True, kw_only=True):
    """What there is, and where it goes on."""

    data: bytes
    off: int
    file: int


class ApplyRequest(Body, frozen=True, kw_only=True):
    """Make an object of another one and a delta, which was sent as an object and is deleted then."""

    delta: Digest
    base: Digest | None = None
    target: Digest
