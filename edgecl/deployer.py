"""Carries a deployment through its states, each stored before it is entered; whoever finds one unfinished goes on.

`python -m edgecl.deployer STORE LOCK` does that until the deployment has its outcome, with the lock of the store's only
deployer. The agent starts it when everything was received, and the service whenever it finds a deployment that nobody
carries on: a deployment needs no host any more. Each handler may be begun again at any point, after a crash or a power
cut, and comes to the same end; one that was begun too often is given up.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from edgecl import checkpoints, control, deployments, disk, here, inherit, oms, trial, trust
from edgecl.boot import boot_id
from edgecl.bundle import Bundle
from edgecl.checkpoints import Checkpoints
from edgecl.deployer_start import alone
from edgecl.deployments import BEFORE_SWITCH, Deployment, State
from edgecl.errors import BundleError, EdgeclError, StoreError
from edgecl.requests import HandOver, Reopen, Request, Status, TellStatus
from edgecl.routing import digest_of
from edgecl.store import Store
from edgecl.verdict import ROLL_BACKS, GiveUp, figures_of, judge, watch

SCRATCH: Final = "trial"
"""Directory of trials and of learned state that is being taken over."""

ATTEMPTS: Final = 3
"""Times that a state is begun; after that the deployment is given up."""

RESERVE_BYTES: Final = 64 << 20
"""Room that is left for journals, besides what the bundle takes."""

OPENS_S: Final = 60.0
"""By then a service has opened its bundle."""

LOOK_S: Final = 0.25
"""Between two looks at a service on probation."""


def carry_on(directory: Path) -> None:
    """Carry the deployment that is under way to its outcome; nothing, where another process does. Raises StoreError."""
    with alone(directory) as lock:
        if lock is not None:
            go_on(directory)


def go_on(directory: Path) -> None:
    """The same, in a process that has the lock."""
    deployer = Deployer(directory)
    while deployer.step():
        pass


class Deployer:
    """One deployment, from where it was."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = Store(directory)

    def step(self) -> bool:
        """Do what the state is for, and enter the next; whether there is a next."""
        now = deployments.read(self._directory).under_way
        if not now or now.state == "RECEIVE":
            return False
        boot = boot_id()
        if now.boot != boot:  # the clock of another boot says nothing here
            now = msgspec.structs.replace(now, boot=boot, begun_ns=time.monotonic_ns())
        now = self._put(msgspec.structs.replace(now, attempts=now.attempts + 1))
        try:
            if now.cancelled and now.state in BEFORE_SWITCH:
                raise GiveUp(f"given up for a newer deployment, by {now.cancelled}")
            if late(now):
                raise GiveUp(f"its deadline of {now.deadline_s:.0f} s has passed")
            if now.attempts > ATTEMPTS:
                raise GiveUp(f"{now.state} was begun {ATTEMPTS} times and never came to its end")
            follows, changes = HANDLERS[now.state](self, now)
        except GiveUp as error:
            follows, changes = self._given_up(now, str(error))
        except EdgeclError as error:
            follows, changes = self._given_up(now, str(error))
        self._enter(now, follows, changes)
        return follows != "END"

    def verify(self, now: Deployment) -> "Next":
        """Nothing of a bundle is used before it is known to be the one that was signed, and to run here."""
        manifest = self._store.manifest(now.bundle)
        if missing := self._store.missing(manifest):
            raise BundleError(f"{now.name}: {len(missing)} of its files have not been received; deploy it again")
        if damaged := self._store.damaged(manifest):
            raise BundleError(f"{now.name}: {len(damaged)} of its files were damaged and are deleted; deploy it again")
        here.check_here(manifest)
        signed_by = "nobody: the board is in development mode"
        if not now.back:
            trust.check_version(manifest, deployments.read(self._directory).min_versions.get(now.lineage, 0), now.name)
        signature = self._store.read_object(now.signature) if now.signature else None
        key = trust.admit(
            trust.read(self._directory / "trust.d"),
            now.lineage,
            oms.digests(now.bundle, manifest.files),
            signature,
            now.name,
        )
        need = sum(file.bytes for file in manifest.files) // 8 + RESERVE_BYTES  # files are linked; scratch is small
        if self._store.free_bytes() < need:
            raise StoreError(f"{self._directory}: less than {need >> 20} MiB are free; make room, and deploy again")
        with self._before(now) as old:
            if old and now.learned == "carry":
                learned = self._store.learned(old.manifest.lineage, old.id)
                inherit.check(old, learned, manifest, digest_of(manifest), now.learned)
        return "STAGE", {"signed_by": str(key) if key else signed_by}

    def stage(self, now: Deployment) -> "Next":
        self._store.stage(now.bundle, now.signature)
        return ("QUIESCE" if now.back else "TRIAL"), {}

    def trial(self, now: Deployment) -> "Next":
        """The new bundle and the old one answer the same samples, each in a process of its own."""
        budget = self._store.manifest(now.bundle).memory_budget_bytes
        with self._scratch() as scratch:
            taken = self._inherited(now, scratch)
            found = trial.run(self._store, now.bundle, scratch / "new", scratch / "learned", budget)
            before = None
            with self._before(now) as old, contextlib.suppress(EdgeclError):
                if old:  # one that fails now is no reason to keep it
                    learned = self._store.learned(old.manifest.lineage, old.id)
                    inherit.inherit(old, learned, old, scratch / "before", "carry", scratch / "unused")
                    (scratch / "before").mkdir(exist_ok=True)
                    if (learned / "tested").is_file():
                        disk.replace(scratch / "before" / "tested", (learned / "tested").read_bytes(), durable=False)
                    before = trial.run(
                        self._store, now.previous, scratch / "old", scratch / "before", 0, newest=found.newest
                    )
            self._tested(now, scratch / "learned")
        judge(now, self._store.manifest(now.bundle).guard.canary_floor, budget, found, before)
        return "QUIESCE", {"trial": found, "before": before, "taken": taken}

    def quiesce(self, now: Deployment) -> "Next":
        """The service writes down what it has learned and learns nothing more; the new bundle takes that over."""
        if sum(entered.state == "QUIESCE" for entered in now.trace) > ATTEMPTS:
            raise GiveUp("more was learned each time that what was learned had been taken over")
        with self._still() as running:
            figures = figures_of(running) if running and running.bundle == now.previous else None
            taken, handed = now.taken, self._mark(now)
            if now.previous and not (now.back and now.learned == "keep"):
                with self._scratch() as scratch:
                    taken = self._inherited(now, scratch)
                    place = self._store.learned(now.lineage, now.bundle)
                    self._move(scratch / "learned", place)
        return "SWITCH", {"running": figures, "taken": taken, "handed": handed}

    def switch(self, now: Deployment) -> "Next":
        """Whoever went on in between may have learned more, which the new bundle is to have too."""
        with self._still() if self._store.current != now.bundle else contextlib.nullcontext():
            if self._store.current != now.bundle and self._mark(now) != now.handed:
                return "QUIESCE", {}
            self._store.switch(now.bundle)
        return "PROBATION", {}

    def probation(self, now: Deployment) -> "Next":
        """The service answers with the new bundle, and is watched by what it does."""
        status = self._opened(now)
        if status is None:
            return "COMMIT", {}
        manifest = self._store.manifest(now.bundle)
        end_s, lost = time.monotonic() + now.probation_s, 0
        while True:
            watch(now, manifest.memory_budget_bytes, status)
            if time.monotonic() >= end_s:
                return "COMMIT", {}
            time.sleep(LOOK_S)
            found = self._ask(TellStatus())
            if found is None or found.bundle != now.bundle:
                lost += 1
                if lost > ROLL_BACKS:
                    raise GiveUp("the service ended again and again while the bundle was on probation")
                found = self._opened(now)
                if found is None:
                    raise GiveUp("the service ended, and did not start again")
            status = found

    def commit(self, now: Deployment) -> "Next":
        manifest = self._store.manifest(now.bundle)
        with deployments.changing(self._directory) as change:
            floors = change.control.min_versions
            floor = max(floors.get(now.lineage, 0), manifest.min_version)
            if floors.get(now.lineage) != floor:
                change.write(msgspec.structs.replace(change.control, min_versions=floors | {now.lineage: floor}))
        return "CLEAN", {"outcome": "committed"}

    def rollback(self, now: Deployment) -> "Next":
        self._store.switch(now.previous)
        with contextlib.suppress(EdgeclError):  # what it could not open before it may not open now; the switch stands
            self._ask(Reopen())
        return "CLEAN", {"outcome": "rolled back"}

    def clean(self, now: Deployment) -> "Next":
        """The current bundle and the one before stay, with what they learned."""
        control = deployments.read(self._directory)
        current = self._store.current
        before = [one for one in control.committed if one != current]
        disk.remove(self._directory / SCRATCH)
        self._store.sweep({current, *before[:1], *({now.previous} if now.outcome == "committed" else ())})
        if now.outcome != "committed":
            with contextlib.suppress(EdgeclError):
                self._ask(Reopen())  # the service may have been told that a switch is near, or not of the way back
        return "END", {}

    def _given_up(self, now: Deployment, reason: str) -> "Next":
        """What follows when a state cannot come to its end."""
        if now.state in BEFORE_SWITCH:
            return "CLEAN", {"outcome": "superseded" if now.cancelled else "refused", "reason": reason}
        if now.state in ("SWITCH", "PROBATION", "COMMIT"):
            return "ROLLBACK", {"reason": reason}
        if now.state == "ROLLBACK":
            self._store.switch(now.previous)
            return "CLEAN", {"outcome": "rolled back"}
        outcome = now.outcome or "failed"
        return ("END" if now.state == "CLEAN" else "CLEAN"), {"outcome": outcome, "reason": now.reason or reason}

    def _inherited(self, now: Deployment, scratch: Path) -> str:
        """`scratch/learned` becomes what the new bundle begins with; in words."""
        if not now.previous:
            return ""
        with self._before(now) as old, contextlib.closing(self._store.open(now.bundle)) as new:
            if not old:
                return "discarded, as the bundle before is damaged"
            learned = self._store.learned(old.manifest.lineage, old.id)
            policy = now.learned if old.manifest.lineage == new.manifest.lineage else "discard"
            return inherit.inherit(old, learned, new, scratch / "learned", policy, scratch / "rebase")

    def _tested(self, now: Deployment, learned: Path) -> None:
        """The trial's self-test counts for the service too, which then opens the bundle at once."""
        marker, place = learned / "tested", self._store.learned(now.lineage, now.bundle)
        if marker.is_file():
            place.mkdir(parents=True, exist_ok=True)
            disk.replace(place / "tested", marker.read_bytes(), durable=False)  # what is lost is tested again

    def _move(self, made: Path, place: Path) -> None:
        """Put learned state in its place, whole."""
        try:
            made.mkdir(parents=True, exist_ok=True)  # with nothing in it, the bundle begins as built
            if (place / "tested").is_file():
                disk.replace(made / "tested", (place / "tested").read_bytes(), durable=False)
            disk.make_directory(place.parent, above=1)
            disk.remove(place)
            made.rename(place)
            disk.sync_directory(place.parent)
        except OSError as error:
            raise StoreError(f"{place}: {error.strerror or error}; make room, and deploy again") from None

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        place = self._directory / SCRATCH
        try:
            disk.remove(place)
            place.mkdir(mode=0o700)
            yield place
        except OSError as error:
            raise StoreError(f"{place}: {error.strerror or error}; make room, and deploy again") from None
        finally:
            with contextlib.suppress(OSError):
                disk.remove(place)

    @contextmanager
    def _before(self, now: Deployment) -> Iterator[Bundle | None]:
        """The bundle before; None for none, or one that is damaged: that must not keep a sound one out."""
        try:
            old = self._store.open(now.previous) if now.previous else None
        except BundleError:
            old = None
        try:
            yield old
        finally:
            if old:
                old.close()

    def _mark(self, now: Deployment) -> str:
        """Of what the bundle before has learned; empty for nothing."""
        with self._before(now) as old:
            return Checkpoints(self._store.learned(old.manifest.lineage, old.id)).mark() if old else ""

    @contextmanager
    def _still(self) -> Iterator[Status | None]:
        """While the block runs, nothing is learned: the service has been told, or there is none, and none can begin.

        Raises EdgeclError: the service refuses. StoreError: another process has the store, and cannot be asked.
        """
        with contextlib.ExitStack() as stack:
            end_s = time.monotonic() + OPENS_S
            while not (status := self._ask(HandOver())):
                try:
                    stack.enter_context(checkpoints.owned(self._directory))
                    break
                except StoreError:
                    if time.monotonic() >= end_s:
                        raise
                    time.sleep(LOOK_S)  # a service that begins, or ends
            yield status

    def _opened(self, now: Deployment) -> Status | None:
        """The service with the new bundle open; None where no service is there. Raises EdgeclError, GiveUp."""
        end_s = time.monotonic() + OPENS_S
        there = False
        while True:
            status = self._ask(Reopen())
            there = there or status is not None
            if status and status.bundle == now.bundle:
                return status
            if not there and not now.running:
                return None
            if time.monotonic() >= end_s:
                raise GiveUp(f"the service did not open it within {OPENS_S:.0f} s")
            time.sleep(LOOK_S)

    def _ask(self, request: Request) -> Status | None:
        """Of the service, where one runs. Raises EdgeclError: it refuses."""
        try:
            with control.asking(self._directory) as ask:
                return ask(request, Status) if ask else None
        except StoreError:
            return None

    def _put(self, deployment: Deployment) -> Deployment:
        """Record it; whoever has cancelled it meanwhile stays recorded."""
        with deployments.changing(self._directory) as change:
            cancelled = change.control.find(deployment.number).cancelled or deployment.cancelled
            deployment = msgspec.structs.replace(deployment, cancelled=cancelled)
            change.write(change.control.put(deployment))
        return deployment

    def _enter(self, now: Deployment, follows: State, changes: dict[str, Any]) -> None:
        entered = deployments.Entered(state=follows, wall_ns=time.time_ns(), boot=boot_id())
        trace = (*now.trace, entered)
        self._put(msgspec.structs.replace(now, state=follows, attempts=0, trace=trace, **changes))


def late(now: Deployment) -> bool:
    """Whether a deployment had all the time that it may take. What has switched is judged by probation instead."""
    elapsed_s = (time.monotonic_ns() - now.begun_ns) / 1e9 if now.boot == boot_id() else 0.0
    return now.state in BEFORE_SWITCH and elapsed_s > now.deadline_s


Next = tuple[State, dict[str, Any]]
"""The state to enter, and what is to be recorded with it."""

HANDLERS: Final[dict[State, Callable[[Deployer, Deployment], Next]]] = {
    "VERIFY": Deployer.verify,
    "STAGE": Deployer.stage,
    "TRIAL": Deployer.trial,
    "QUIESCE": Deployer.quiesce,
    "SWITCH": Deployer.switch,
    "PROBATION": Deployer.probation,
    "COMMIT": Deployer.commit,
    "ROLLBACK": Deployer.rollback,
    "CLEAN": Deployer.clean,
}
"""What each state does."""


if __name__ == "__main__":
    os.nice(5)  # answers come first
    if len(sys.argv) > 2:
        go_on(Path(sys.argv[1]))  # the lock, sys.argv[2], was handed over, and goes when this process does
    else:
        carry_on(Path(sys.argv[1]))
