"""Requests about deployments: begin, follow, give up, go back. A deployer carries out what is begun here."""

import contextlib
import fcntl
import hashlib
import os
import time
from typing import Final

import msgspec

from edgecl import deployer_start, deployments, oms, trust
from edgecl.board import Board
from edgecl.boot import boot_id
from edgecl.deployments import BEFORE_SWITCH, Change, Deployment, Entered, Outcome, State
from edgecl.errors import BundleError, RequestError, StoreError
from edgecl.manifest import SIGNATURE, Manifest
from edgecl.manifest_reader import decode
from edgecl.messages import Nothing
from edgecl.orders import (
    MAX_SHOWN,
    ApplyRequest,
    BackRequest,
    BeginAnswer,
    BeginRequest,
    CancelRequest,
    DeploymentAnswer,
    HistoryAnswer,
    HistoryRequest,
    NumberRequest,
    Staged,
)
from edgecl.store import Store

HOLD: Final = "receiving.lock"
"""Held by the agent whose host is sending: when that one goes, another host may begin."""


def begin(board: Board, request: BeginRequest) -> BeginAnswer:
    """Begin to receive a bundle, or go on. Raises RequestError: another is under way. BundleError: no manifest."""
    store = Store(board.store)
    manifest = decode(store.read_object(request.bundle), request.bundle[:12])
    with deployments.changing(board.store) as change:
        control = change.control
        there = control.under_way
        if there and there.bundle == request.bundle and there.by == request.by and not there.cancelled:
            if there.state == "RECEIVE":
                with contextlib.suppress(RequestError):  # of a connection that broke and has not been noticed yet
                    _hold(board, there)
            return BeginAnswer(number=there.number)
        if there:
            _make_way(board, change, there, request)
            control = change.control
        if store.current == request.bundle:
            return BeginAnswer(number=0)
        number = max((one.number for one in control.deployments), default=0) + 1
        begun = Deployment(
            number=number,
            bundle=request.bundle,
            signature=request.signature or "",
            name=manifest.name,
            lineage=manifest.lineage,
            version=manifest.version,
            previous=store.current,
            by=request.by,
            learned=request.learned or manifest.learned,
            latency_ms=request.latency_ms,
            probation_s=request.probation_s,
            boot=boot_id(),
            begun_ns=time.monotonic_ns(),
            deadline_s=request.deadline_s,
            trace=(_entered("RECEIVE"),),
        )
        if reason := _refused(board, begun, manifest, control.min_versions):
            begun = _ended(begun, reason, "refused")  # before anything else is sent
        else:
            _hold(board, begun)
        change.write(control.put(begun))
    return BeginAnswer(number=number)


def received(board: Board, request: NumberRequest) -> DeploymentAnswer:
    """Everything has been sent. Raises RequestError: something is missing, or there is no such deployment."""
    store = Store(board.store)
    with deployments.changing(board.store) as change:
        found = change.control.find(request.number)
        if found.state == "RECEIVE":
            manifest = decode(store.read_object(found.bundle), found.name)
            if missing := store.missing(manifest):
                raise RequestError(f"{found.name}: {len(missing)} of its files are missing; send them")
            found = msgspec.structs.replace(found, state="VERIFY", trace=(*found.trace, _entered("VERIFY")))
            change.write(change.control.put(found))
    board.release()
    deployer_start.begin(board.store)
    return DeploymentAnswer(deployment=found)


def follow(board: Board, request: NumberRequest) -> DeploymentAnswer:
    """Where a deployment is. Raises RequestError."""
    control = deployments.read(board.store)
    deployer_start.begin(board.store)  # where a power cut or a kill has ended the one that carried it on
    if request.number:
        return DeploymentAnswer(deployment=control.find(request.number))
    return DeploymentAnswer(deployment=control.deployments[-1] if control.deployments else None)


def history(board: Board, request: HistoryRequest) -> HistoryAnswer:
    """What was deployed, and what is here."""
    store, control = Store(board.store), deployments.read(board.store)
    before = request.before
    shown = [one for one in reversed(control.deployments) if before is None or one.number < before][:MAX_SHOWN]
    staged = []
    for identity in store.staged():
        manifest = decode(store.read_object(identity), identity[:12])
        staged.append(Staged(id=identity, name=manifest.name, lineage=manifest.lineage, version=manifest.version))
    return HistoryAnswer(
        current=store.current,
        bundles=tuple(staged),
        min_versions=control.min_versions,
        development=trust.read(board.store / "trust.d").development,
        deployments=tuple(shown),
    )


def cancel(board: Board, request: CancelRequest) -> DeploymentAnswer:
    """Give up a deployment that has not switched. Raises RequestError."""
    with deployments.changing(board.store) as change:
        found = change.control.find(request.number)
        if found.over:
            raise RequestError(f"deployment {found.number}: it is over ({found.outcome}); there is nothing to give up")
        if found.state not in BEFORE_SWITCH:
            raise RequestError(
                f"deployment {found.number}: it has switched ({found.state}); wait for its end, then go back with "
                "edgecl rollback"
            )
        found = msgspec.structs.replace(found, cancelled=request.by)
        if found.state == "RECEIVE":
            if request.reason:
                found = _ended(found, request.reason, "refused")
            else:
                found = _ended(found, f"given up by {request.by}")
        change.write(change.control.put(found))
    return DeploymentAnswer(deployment=found)


def back(board: Board, request: BackRequest) -> BeginAnswer:
    """Go back to a bundle of before. Raises RequestError: there is none, or a deployment is under way."""
    store = Store(board.store)
    with deployments.changing(board.store) as change:
        control, current = change.control, store.current
        if there := control.under_way:
            if there.state != "RECEIVE" or _held_by_another(board):
                raise RequestError(_held(there))
            change.write(control.put(_ended(there, f"given up to go back, by {request.by}")))
            control = change.control
        kept = [one for one in control.committed if one != current and one in store.staged()]
        chosen = [one for one in kept if one.startswith(request.to)][:1]
        if not chosen:
            if not kept:
                raise RequestError("no earlier bundle is kept here; deploy the one that should answer")
            have = ", ".join(one[:12] for one in kept)
            named = f" {request.to[:12]}" if request.to else ""
            raise RequestError(f"no earlier bundle{named} is kept here; there are: {have}")
        manifest = decode(store.read_object(chosen[0]), chosen[0][:12])
        signature = store.place(chosen[0]) / SIGNATURE
        begun = Deployment(
            number=max(one.number for one in control.deployments) + 1,
            bundle=chosen[0],
            signature=hashlib.sha256(signature.read_bytes()).hexdigest() if signature.is_file() else "",
            name=manifest.name,
            lineage=manifest.lineage,
            version=manifest.version,
            previous=current,
            by=request.by,
            learned="keep",
            latency_ms=0.0,
            probation_s=request.probation_s,
            boot=boot_id(),
            begun_ns=time.monotonic_ns(),
            deadline_s=3600.0,
            back=True,
            state="VERIFY",
            trace=(_entered("VERIFY"),),
        )
        change.write(control.put(begun))
    deployer_start.begin(board.store)
    return BeginAnswer(number=begun.number)


def apply(board: Board, request: ApplyRequest) -> Nothing:
    """Make an object out of a delta. Raises BundleError: it does not make that object. StoreError."""
    from edgecl import delta  # late, as it brings numpy, which the agent does without otherwise

    objects = board.objects
    if objects.size(request.target) is None:
        base = objects.path(request.base) if request.base else None
        objects.make(request.target, lambda write: delta.apply(objects.path(request.delta), base, write))
    objects.remove(request.delta)
    return Nothing()


def _refused(board: Board, begun: Deployment, manifest: Manifest, floors: dict[str, int]) -> str:
    """Why a bundle cannot be admitted, by its manifest and signature alone; empty for nothing."""
    try:
        arch = os.uname().machine
        if manifest.requires.arch and arch not in manifest.requires.arch:
            made_for = ", ".join(manifest.requires.arch)
            raise BundleError(f"{begun.name}: made for {made_for}, this is {arch}; build it for this device")
        trust.check_version(manifest, floors.get(begun.lineage, 0), begun.name)
        signature = Store(board.store).read_object(begun.signature) if begun.signature else None
        files = oms.digests(begun.bundle, manifest.files)
        trust.admit(trust.read(board.store / "trust.d"), begun.lineage, files, signature, begun.name)
    except BundleError as error:
        return str(error)
    return ""


def _make_way(board: Board, change: Change, there: Deployment, request: BeginRequest) -> None:
    """End the deployment that is in the way. Raises RequestError: it stays there, for a moment at least."""
    if there.state == "RECEIVE" and (request.supersede or not _held_by_another(board)):
        change.write(change.control.put(_ended(there, f"given up for bundle {request.bundle[:12]}, by {request.by}")))
        return
    if request.supersede and there.state in BEFORE_SWITCH:
        change.write(change.control.put(msgspec.structs.replace(there, cancelled=request.by)))
        deployer_start.begin(board.store)
        raise RequestError(f"deployment {there.number} is being given up; deploy again in a moment")
    raise RequestError(_held(there))


def _held(there: Deployment) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(there.trace[0].wall_ns / 1e9)) if there.trace else "now"
    return (
        f"{there.by} is deploying {there.name} version {there.version} here, since {since} UTC by the board's clock "
        f"({there.state}); wait for its end, or deploy with --supersede"
    )


def _ended(deployment: Deployment, reason: str, outcome: Outcome = "superseded") -> Deployment:
    trace = (*deployment.trace, _entered("END"))
    return msgspec.structs.replace(deployment, state="END", outcome=outcome, reason=reason, trace=trace)


def _entered(state: State) -> Entered:
    return Entered(state=state, wall_ns=time.time_ns(), boot=boot_id())


def _hold(board: Board, there: Deployment) -> None:
    """Be the one that receives. Raises RequestError: another agent does, for a host that is still there."""
    if board.holds is not None:
        return
    try:
        file = os.open(board.store / HOLD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreError(f"{board.store / HOLD}: {error.strerror}; repair the store") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RequestError(_held(there)) from None
    board.holds = file


def _held_by_another(board: Board) -> bool:
    """Whether another agent receives just now."""
    if board.holds is not None:
        return False
    try:
        file = os.open(board.store / HOLD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(file)
