"""What may be asked of a running loop or service, and what a service tells of itself: messages of `STATE/socket`."""

import msgspec

from edgecl.labels import Given


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """What is asked for."""


class ListDomains(Request, frozen=True, tag="list-domains"):
    """Answered by a list of DomainFacts."""


class RenameDomain(Request, frozen=True, tag="rename-domain"):
    """`name` is a name or a number, here and below."""

    name: str
    to: str


class MergeDomains(Request, frozen=True, tag="merge-domains"):
    """The later becomes a part of the earlier."""

    name: str
    other: str


class DropDomain(Request, frozen=True, tag="drop-domain"):
    """Its state and labels are forgotten."""

    name: str


class ExportDomain(Request, frozen=True, tag="export-domain"):
    """Its state is written to a file, of an absolute path."""

    name: str
    file: str


class ListClasses(Request, frozen=True, tag="list-classes"):
    """Answered by a list of ClassFacts."""


class AddClass(Request, frozen=True, tag="add-class"):
    """Answered by its index."""

    name: str


class Label(Request, frozen=True, tag="label"):
    """Answered by a Labelled."""

    labels: tuple[Given, ...]


class TellStatus(Request, frozen=True, tag="status"):
    """Answered by a Status."""


class Pause(Request, frozen=True, tag="pause"):
    """Answers go on, learning does not; also after a restart."""


class Resume(Request, frozen=True, tag="resume"):
    """Learning goes on."""


class Snapshot(Request, frozen=True, tag="snapshot"):
    """A checkpoint is written now. Answered by a Status."""


class Cut(Request, frozen=True, tag="cut"):
    """The segments that are being written are sealed, so that they can be pulled."""


class HandOver(Request, frozen=True, tag="hand-over"):
    """A deployment is about to switch: a checkpoint is written, and nothing is learned or changed until Reopen."""


class Reopen(Request, frozen=True, tag="reopen"):
    """The bundle that `current` names answers from here on. Answered by a Status, when it does."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How the loop of a service is."""

    bundle: str
    """Id of the bundle that answers; empty where there is none."""
    name: str = ""
    version: int = 0
    learner: str = ""
    paused: bool = False
    samples: int = 0
    """Answered since this bundle was opened, as all counts."""
    updates: int = 0
    refused: int = 0
    rolled_back: int = 0
    step: int = 0
    """Of the state that answers."""
    domain: str = ""
    domains: int = 0
    classes: int = 0
    checkpoint: str = ""
    """Name of the newest."""
    checkpoint_age_s: float = -1.0
    """Time since it was written by this process; -1 where it has written none."""
    accuracy: float | None = None
    """Among the last samples of known label."""
    labelled: int = 0
    """Those."""
    latency_ms: float = 0.0
    """Of the last answers, 95th percentile."""
    idle_s: float = 0.0
    """Since the last sample."""
    resident_bytes: int = 0
    uptime_s: float = 0.0
    source: str = ""
    ended: bool = False
    """Whether the source has no more samples."""
    entropy: float | None = None
    """Of the last answers, mean, nats."""
    novel: float | None = None
    """Share of the last answers whose samples were novel; None where the bundle has no detector."""
    canaries: float | None = None
    """Share answered right when the guard last looked; None before."""
    guard: str = ""
    """What the guard did last, and why; empty for nothing."""
    journal_bytes: int = 0
    """That no host has taken yet."""
    journal_quota_bytes: int = 0
    """0 for no limit."""
    celsius: float | None = None
    """Of the hottest sensor."""


LEARNED = ListDomains | RenameDomain | MergeDomains | DropDomain | ExportDomain | ListClasses | AddClass | Label
SERVICE = TellStatus | Pause | Resume | Snapshot | Cut | HandOver | Reopen
REQUESTS = LEARNED | SERVICE
