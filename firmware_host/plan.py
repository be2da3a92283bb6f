"""What a deployment would do on a board: what answers there, what has to be sent, and what stands against it."""

from dataclasses import dataclass
from typing import Final

import msgspec

from edgecl import orders
from edgecl.deployments import BEFORE_SWITCH, Deployment, Policy
from edgecl.messages import Wish
from edgecl.orders import DeploymentAnswer, HistoryAnswer, HistoryRequest, NumberRequest
from firmware_host.offer import Delta, Offer, Piece, base_files, title
from firmware_host.patient import Patient

SMALL_BYTES: Final = 512
"""Below that, a delta is not tried."""


@dataclass(frozen=True)
class Wishes:
    """How somebody wants a bundle to be deployed."""

    by: str
    """user@host"""
    learned: Policy | None = None
    """The bundle's own policy, where it is None."""
    latency_ms: float = 0.0
    probation_s: float = 30.0
    supersede: bool = False
    resume: bool = False
    """Only go on with a deployment that is under way."""
    deltas: bool = True


@dataclass(frozen=True)
class Part:
    """A file that has to be sent, whole or as a delta."""

    piece: Piece
    held: int
    """Bytes of it that are there already."""
    delta: Delta | None

    @property
    def bytes(self) -> int:
        """To be sent."""
        return len(self.delta.content) if self.delta else self.piece.bytes - self.held


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is to be sent."""

    path: str
    bytes: int
    send_bytes: int
    """What travels of it."""
    delta: bool


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """For people and for `--json`."""

    bundle: str
    name: str
    version: int
    signature: str
    """In words."""
    edgecl: str
    """Of the board."""
    current: str
    """Id of the bundle that answers there; empty for none."""
    current_title: str
    there: bool
    """The bundle answers there already: nothing is to be done."""
    files: int
    bytes: int
    """Of the whole bundle."""
    send: tuple[Change, ...]
    """Files whose objects are not there yet."""
    send_bytes: int
    free_bytes: int
    learned: Policy
    under_way: str
    """A deployment that has no outcome yet, in words; empty for none."""
    own: bool
    """It is of this bundle, and is gone on with."""
    against: str
    """Why the board would refuse it, as far as this is known now; empty for nothing."""


@dataclass(frozen=True)
class Look:
    """A plan, and what it is carried out with."""

    plan: Plan
    parts: tuple[Part, ...]
    under_way: Deployment | None
    titles: dict[str, str]
    """Name and version of the bundles there, by id."""


def look(board: Patient, offer: Offer, wishes: Wishes) -> Look:
    """Look at a board. Raises what asking it raises."""
    hello = board.client.connect()
    there = board.ask(orders.HISTORY, HistoryRequest(before=0), HistoryAnswer)
    newest = board.ask(orders.DEPLOYMENT, NumberRequest(), DeploymentAnswer).deployment
    under_way = newest if newest and not newest.over else None
    same = there.current == offer.id and not under_way
    old = base_files(there.current) if there.current and wishes.deltas else {}
    parts = () if same else _parts(board, offer, old)
    titles = {bundle.id: title(bundle.name, bundle.version) for bundle in there.bundles}
    manifest = offer.manifest
    plan = Plan(
        bundle=offer.id,
        name=manifest.name,
        version=manifest.version,
        signature=str(offer.told),
        edgecl=hello.edgecl,
        current=there.current,
        current_title=titles.get(there.current, there.current[:12]),
        there=same,
        files=len(offer.pieces),
        bytes=sum(piece.bytes for piece in offer.pieces),
        send=tuple(
            Change(path=part.piece.path, bytes=part.piece.bytes, send_bytes=part.bytes, delta=part.delta is not None)
            for part in parts
        ),
        send_bytes=sum(part.bytes for part in parts),
        free_bytes=hello.free_bytes,
        learned=wishes.learned or manifest.learned,
        under_way=described(under_way) if under_way else "",
        own=under_way is not None and under_way.bundle == offer.id and not under_way.cancelled,
        against="" if same else _against(offer, there),
    )
    return Look(plan, parts, under_way, titles)


def described(deployment: Deployment) -> str:
    """A deployment that is under way, in words."""
    return (
        f"deployment {deployment.number} of {title(deployment.name, deployment.version)} by {deployment.by}, "
        f"{'switched' if deployment.state not in BEFORE_SWITCH else 'not switched yet'} ({deployment.state})"
    )


def _parts(board: Patient, offer: Offer, old: dict[str, str]) -> tuple[Part, ...]:
    pieces = {piece.sha256: piece for piece in offer.pieces}
    wishes = [Wish(sha256=piece.sha256, size=piece.bytes) for piece in pieces.values()]
    missing = board.work(lambda: board.client.wanted(wishes))
    held = {one.sha256: min(one.held, pieces[one.sha256].bytes) for one in missing}
    return tuple(_part(piece, held[piece.sha256], offer, old) for piece in pieces.values() if piece.sha256 in held)


def _part(piece: Piece, held: int, offer: Offer, old: dict[str, str]) -> Part:
    base = old.get(piece.path)
    made = offer.delta(piece, base) if base and piece.bytes - held >= SMALL_BYTES else None
    return Part(piece, held, made if made and len(made.content) < piece.bytes - held else None)


def _against(offer: Offer, there: HistoryAnswer) -> str:
    manifest = offer.manifest
    floor = there.min_versions.get(manifest.lineage, 0)
    if manifest.version < floor:
        return f"version {manifest.version} of {manifest.lineage} is a downgrade: this board takes none below {floor}"
    if not offer.signature and not there.development:
        return "not signed, and the board takes only bundles that are"
    return ""
