"""The record of every deployment, in `control.json`: which state each is in, stored before that state is entered.

One file, replaced whole, so what it says is the old or the new at any moment. It also keeps what must outlive a
deployment: the least version that each lineage may go back to.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgecl import disk
from edgecl.errors import RequestError, StoreError
from edgecl.manifest import Digest

FILE: Final = "control.json"
LOCK: Final = "control.lock"
SCHEMA: Final = 1
MAX_BYTES: Final = 16 << 20

KEPT: Final = 100
"""Deployments that are remembered."""

State = Literal[
    "RECEIVE", "VERIFY", "STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "COMMIT", "ROLLBACK", "CLEAN", "END"
]
Outcome = Literal["", "committed", "refused", "rolled back", "failed", "superseded"]
"""Empty while it is under way. Refused, nothing was changed; failed, the device did not do what it was asked to."""

Policy = Literal["discard", "carry", "rebase", "keep"]
"""What becomes of learned state; `keep` is that of a bundle that goes back to what it learned itself."""

NAMES: Final[dict[State, str]] = {
    "RECEIVE": "files are being received",
    "VERIFY": "digests, signature, version and requirements are checked",
    "STAGE": "the bundle gets its directory",
    "TRIAL": "it is tried in a process of its own",
    "QUIESCE": "what was learned is written down and taken over",
    "SWITCH": "the new bundle becomes the current one",
    "PROBATION": "it answers, and is watched",
    "COMMIT": "it stays",
    "ROLLBACK": "the bundle before becomes the current one again",
    "CLEAN": "what is not needed is deleted",
    "END": "there is an outcome",
}
"""What each state is for."""


BEFORE_SWITCH: Final[tuple[State, ...]] = ("RECEIVE", "VERIFY", "STAGE", "TRIAL", "QUIESCE")
"""States in which the board is as it was."""


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle did on this board: in a trial, or while it answered."""

    samples: int = 0
    canary_accuracy: float | None = None
    """Share of canaries answered right."""
    accuracy: float | None = None
    """Share of the board's own samples, of known label, answered right."""
    latency_ms: float = 0.0
    """Of an answer, 95th percentile."""
    resident_bytes: int = 0
    """Of its process at most."""
    inputs: str = ""
    """What the samples of a trial were: a digest where they are the board's own, empty for the bundle's canaries. Only
    figures of the same inputs are compared."""
    canaries: str = ""
    """SHA-256 of the canaries."""
    newest: int | None = None
    """Of the board's own samples, the last one."""


class Entered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A state was entered."""

    state: State
    wall_ns: int
    boot: str


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One deployment."""

    number: int
    bundle: Digest
    signature: str
    """sha256 of the signature; empty where it is not signed."""
    name: str
    lineage: str
    version: int
    previous: str
    """Id of the bundle before; empty for none."""
    by: str
    """Who deploys, as `user@host`."""
    learned: Policy
    latency_ms: float
    """That an answer may take at most, 95th percentile; 0 for no limit of its own."""
    probation_s: float
    """For which it is watched."""
    boot: str
    begun_ns: int
    """On the monotonic clock of that boot."""
    deadline_s: float
    """Within which it is to have switched."""
    cancelled: str = ""
    """Who wants another deployment instead; empty for nobody."""
    back: bool = False
    """A bundle that was here before is gone back to: it is neither tried nor held to the least version."""
    state: State = "RECEIVE"
    attempts: int = 0
    """Times that the state was begun."""
    outcome: Outcome = ""
    reason: str = ""
    """One line: why it was refused or rolled back."""
    signed_by: str = ""
    taken: str = ""
    """What became of learned state, in words."""
    trial: Figures | None = None
    before: Figures | None = None
    """Of the bundle before, in the same trial."""
    handed: str = ""
    """`Checkpoints.mark` of the bundle before, when that was taken over."""
    running: Figures | None = None
    """Of the bundle before, while it answered."""
    trace: tuple[Entered, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it has its outcome."""
        return self.state == "END"


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `control.json`."""

    schema: int = SCHEMA
    min_versions: dict[str, int] = {}
    """By lineage: no older version is taken."""
    deployments: Annotated[tuple[Deployment, ...], msgspec.Meta(max_length=KEPT)] = ()
    """Newest last."""

    @property
    def under_way(self) -> Deployment | None:
        """The deployment that has no outcome yet."""
        newest = self.deployments[-1] if self.deployments else None
        return newest if newest and not newest.over else None

    def find(self, number: int) -> Deployment:
        """Raises RequestError: there is none of that number."""
        for deployment in self.deployments:
            if deployment.number == number:
                return deployment
        raise RequestError(f"deployment {number}: not known here; see the history")

    def put(self, deployment: Deployment) -> "Control":
        """With this one in the place of that of its number, or behind all others."""
        kept = tuple(one for one in self.deployments if one.number != deployment.number)
        later = tuple(one for one in kept if one.number > deployment.number)
        earlier = tuple(one for one in kept if one.number < deployment.number)
        return msgspec.structs.replace(self, deployments=(*earlier, deployment, *later)[-KEPT:])

    @property
    def committed(self) -> tuple[str, ...]:
        """Ids of the bundles that answered for good, newest first, each once."""
        found = dict.fromkeys(one.bundle for one in reversed(self.deployments) if one.outcome == "committed")
        return tuple(found)


def read(directory: Path) -> Control:
    """What is recorded. Raises StoreError: it cannot be read."""
    path = directory / FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise StoreError(f"{path}: too large; restore it, or provision the board anew")
        control = msgspec.json.decode(path.read_bytes(), type=Control)
    except FileNotFoundError:
        return Control()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give the directory of a store") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: damaged: {error}; restore it, or provision the board anew") from None
    if control.schema != SCHEMA:
        raise StoreError(f"{path}: schema {control.schema}, this edgecl knows {SCHEMA}; upgrade edgecl")
    return control


@contextmanager
def changing(directory: Path) -> Iterator["Change"]:
    """Change the record, alone. Raises StoreError."""
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; give the directory of a store") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Change(directory)
    finally:
        os.close(lock)


class Change:
    """The record while it is one's own."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self.control = read(directory)

    def write(self, control: Control) -> None:
        """Make this the record. Raises StoreError."""
        try:
            disk.replace(self._path, msgspec.json.format(msgspec.json.encode(control), indent=1) + b"\n")
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}; make room") from None
        self.control = control
