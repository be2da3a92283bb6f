"""Brings a bundle onto a board: what is missing is sent, and the board's own progress is followed to its end.

Everything may be done again: sent objects stay, the board goes on with the deployment that it has, and what it does
after everything was received it does without a host.
"""

import contextlib
import time
from typing import Final

from edgecl import orders
from edgecl.deployments import Deployment
from edgecl.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_ROLLED_BACK,
    BundleError,
    DeployError,
    EdgeclError,
    LinkError,
    RequestError,
)
from edgecl.manifest import MANIFEST, SIGNATURE
from edgecl.messages import Nothing
from edgecl.orders import (
    ApplyRequest,
    BeginAnswer,
    BeginRequest,
    CancelRequest,
    DeploymentAnswer,
    NumberRequest,
)
from firmware_host import events
from firmware_host.client import Client, Source
from firmware_host.events import Tell
from firmware_host.offer import Offer, title
from firmware_host.patient import Patient
from firmware_host.plan import Look, Part, Wishes, look
from firmware_host.said import said

LOOKS_S: Final = (0.1, 0.2, 0.3, 0.5, 1.0)
"""Between two looks at a deployment; the last one again and again, until something has changed."""

WAITING_S: Final = 5.0
"""Between two words about a state that lasts."""

EXITS: Final = {
    "there": EXIT_OK,
    "committed": EXIT_OK,
    "refused": EXIT_REFUSED,
    "rolled back": EXIT_ROLLED_BACK,
    "failed": EXIT_FAILED,
    "superseded": EXIT_FAILED,
}
"""By outcome."""


def deploy(client: Client, device: str, offer: Offer, wishes: Wishes, tell: Tell) -> events.Ended:
    """Deploy, or go on with a deployment; its outcome.

    Raises RequestError: another deployment is under way, or with `resume` none of this bundle. LinkError: no
    connection, for long. BundleError: the bundle is known to be refused, or was damaged on its way. StoreError.
    """

    def lost(error: LinkError) -> None:
        tell(events.Lost(device=device, reason=str(error)))

    board = Patient(client, lost=lost)
    found = look(board, offer, wishes)
    tell(events.Planned(device=device, plan=found.plan))
    if found.plan.there:
        return _there(device, offer, tell)
    if wishes.resume and not found.plan.own:
        raise RequestError(f"{device}: no deployment of {offer.title} is under way there; deploy without --resume")
    if wishes.supersede and found.under_way and not found.plan.own:
        _make_way(board, found.under_way, wishes.by)
    number = _receive(board, device, offer, wishes, found, tell)
    titles = found.titles | {offer.id: offer.title}
    return follow(board, device, number, titles, tell) if number else _there(device, offer, tell)


def follow(board: Patient, device: str, number: int, titles: dict[str, str], tell: Tell) -> events.Ended:
    """Tell of each state, until there is an outcome; `titles` are bundles by id.

    Raises LinkError: the board did not come back.
    """
    shown, looks = 0, 0
    entered_s = told_s = time.monotonic()
    while True:
        answer = board.ask(orders.DEPLOYMENT, NumberRequest(number=number), DeploymentAnswer)
        assert answer.deployment
        now = answer.deployment
        if now.state == "RECEIVE":
            raise RequestError(f"{device}: not all files are there; run the same command again")
        if len(now.trace) > shown:
            for place in range(shown, len(now.trace)):
                _passed(device, now, place, tell)
            shown, looks = len(now.trace), 0
            entered_s = told_s = time.monotonic()
        if now.over:
            return _ended(device, now, titles, tell)
        if (now_s := time.monotonic()) - told_s >= WAITING_S:
            told_s = now_s
            tell(events.Waiting(device=device, number=number, state=now.state, seconds=now_s - entered_s))
        time.sleep(LOOKS_S[min(looks, len(LOOKS_S) - 1)])
        looks += 1


def require(event: events.Ended) -> None:
    """Raises BundleError: the board refused. DeployError: it rolled back. EdgeclError: another one was deployed."""
    if event.exit_code == EXIT_OK:
        return
    kind = {EXIT_REFUSED: BundleError, EXIT_ROLLED_BACK: DeployError}.get(event.exit_code, EdgeclError)
    raise kind(f"{event.device}: {event.title} {event.outcome}: {event.reason}{unchanged(event)}")


def unchanged(event: events.Ended) -> str:
    """What answers now, behind a reason."""
    if event.outcome in ("refused", "rolled back"):
        return f"; {event.current_title or 'no bundle'} answers, as before"
    return ""


def _ended(device: str, now: Deployment, titles: dict[str, str], tell: Tell) -> events.Ended:
    current = now.bundle if now.outcome == "committed" else now.previous
    event = events.Ended(
        device=device,
        outcome=now.outcome,
        exit_code=EXITS.get(now.outcome, EXIT_FAILED),
        bundle=now.bundle,
        title=title(now.name, now.version),
        reason=now.reason,
        number=now.number,
        signed_by=now.signed_by,
        learned=now.taken,
        trial=now.trial,
        before=now.before,
        current=current,
        current_title=titles.get(current, current[:12]),
    )
    tell(event)
    return event


def _there(device: str, offer: Offer, tell: Tell) -> events.Ended:
    event = events.Ended(
        device=device,
        outcome="there",
        exit_code=EXIT_OK,
        bundle=offer.id,
        title=offer.title,
        current=offer.id,
        current_title=offer.title,
    )
    tell(event)
    return event


def _receive(board: Patient, device: str, offer: Offer, wishes: Wishes, found: Look, tell: Tell) -> int:
    """Begin, and send what is missing; the number of the deployment, 0 where there is nothing to do."""
    sender = _Sender(board, device, found.parts, tell)
    first = [part for part in found.parts if part.piece.path in (MANIFEST, SIGNATURE)]
    sender.send(first)
    begin = BeginRequest(
        bundle=offer.id,
        signature=offer.signature or None,
        by=wishes.by,
        learned=wishes.learned,
        latency_ms=wishes.latency_ms,
        probation_s=wishes.probation_s,
        supersede=wishes.supersede,
    )
    number = board.ask(orders.BEGIN, begin, BeginAnswer).number
    if not number:
        return 0
    tell(events.Begun(device=device, number=number))
    there = board.ask(orders.DEPLOYMENT, NumberRequest(number=number), DeploymentAnswer).deployment
    if there and there.state == "RECEIVE":
        try:
            sender.send([part for part in found.parts if part not in first])
        except BundleError as error:
            cancel = CancelRequest(number=number, by=wishes.by, reason=str(error))
            board.ask(orders.CANCEL, cancel, DeploymentAnswer)
            raise
        # Whoever took over while the connection was lost is told of here.
        board.ask(orders.BEGIN, begin, BeginAnswer)
        tell(events.Sent(device=device, bytes=sender.travelled, seconds=sender.seconds))
        board.ask(orders.RECEIVED, NumberRequest(number=number), DeploymentAnswer)
        offer.keep()
    return number


class _Sender:
    """Sends parts, and tells how far they are, of all of them."""

    def __init__(self, board: Patient, device: str, parts: tuple[Part, ...], tell: Tell) -> None:
        self._board, self._device, self._tell = board, device, tell
        self._of = sum(part.bytes for part in parts)
        self._done = 0
        self.travelled = 0
        self.seconds = 0.0

    def send(self, parts: list[Part]) -> None:
        """Raises LinkError, StoreError; BundleError: what came there is something else."""
        begun_s = time.monotonic()
        self._upload(parts, [_source(part) for part in parts])
        for part in parts:
            if part.delta:
                apply = ApplyRequest(delta=part.delta.sha256, base=part.delta.base, target=part.piece.sha256)
                try:
                    self._board.ask(orders.APPLY, apply, Nothing)
                except BundleError:  # what the board has is not what it should be
                    self._upload([part], [Source(part.piece.sha256, part.piece.content)])
        self.seconds += time.monotonic() - begun_s

    def _upload(self, parts: list[Part], sources: list[Source]) -> None:
        held = sum(part.held for part in parts if not part.delta)

        def progress(have: int, of: int) -> None:
            count = min(self._done + max(have - held, 0), self._of)
            self._tell(events.Sending(device=self._device, bytes=count, of=self._of))

        if sources:
            self.travelled += self._board.client.upload_all(sources, progress)
            self._done += sum(part.bytes for part in parts)


def _source(part: Part) -> Source:
    if part.delta:
        return Source(part.delta.sha256, part.delta.content)
    return Source(part.piece.sha256, part.piece.content)


def _make_way(board: Patient, there: Deployment, by: str) -> None:
    """The deployment that is under way is given up; one that has switched comes to its end first."""
    with contextlib.suppress(RequestError):  # it has switched, or is over
        board.ask(orders.CANCEL, CancelRequest(number=there.number, by=by), DeploymentAnswer)
    looks = 0
    while True:
        now = board.ask(orders.DEPLOYMENT, NumberRequest(number=there.number), DeploymentAnswer).deployment
        if now is None or now.over:
            return
        time.sleep(LOOKS_S[min(looks, len(LOOKS_S) - 1)])
        looks += 1


def _passed(device: str, now: Deployment, place: int, tell: Tell) -> None:
    """The state at this place of the trace was entered, and the one before left."""
    entered = now.trace[place]
    if place:
        before = now.trace[place - 1]
        seconds = max(0.0, (entered.wall_ns - before.wall_ns) / 1e9)  # a clock may be set meanwhile
        brought = said(before.state, now)
        tell(events.Passed(device=device, number=now.number, state=before.state, seconds=seconds, said=brought))
    if entered.state != "END":
        tell(events.Entered(device=device, number=now.number, state=entered.state))
