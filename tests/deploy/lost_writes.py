"""Run by test_lost_writes.py: every power cut of one deployment, or of one run with checkpoints, by what it may lose.

    lost_writes.py deployment|checkpoint RECORDER DIRECTORY BUNDLE... SAMPLES

The operations on files are recorded once. A power cut is then tried before each fsync and at the end, which covers the
moments in between: what may be lost there may be lost here too, and less has been acknowledged. Tried are: nothing that
is pending is kept, all of it, all but one for each one, half of one write for each, and SAMPLES choices by chance.
What is left must be in order, and for some of the cuts the deployment or the run goes on from there to its end.

Then each fsync in turn is taken for one that does nothing: some cut must then leave what is not in order. Prints JSON.
"""

import copy
import hashlib
import os
import random
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from edgecl import deployer, deployments, journal
from edgecl.bundle import open_bundle, open_in_place
from edgecl.checkpoints import Checkpoints
from edgecl.deployments import BEFORE_SWITCH, Control
from edgecl.errors import EdgeclError
from edgecl.journal import Run, Torn, Update
from edgecl.loop import Loop
from edgecl.store import Store
from tests.deploy import forks, medium
from tests.deploy.medium import Image, Medium, Operation, Pending
from tests.deploy.recorded import SETTINGS, Mark
from tests.edgecl import stores

SCRATCH: Final = "trial"
HANDED: Final = ("SWITCH", "PROBATION", "COMMIT")


class Report(msgspec.Struct):
    """What came of it."""

    operations: int = 0
    fsyncs: int = 0
    cuts: int = 0
    """Moments that were tried."""
    images: int = 0
    """That were looked at; the same one is looked at once."""
    resumed: int = 0
    failures: list[str] = []
    unneeded: list[str] = []
    """An fsync that was not missed, and where."""


class Case(ABC):
    """What is recorded, and what must hold."""

    resume_every: int
    """Cuts from one after which the work goes on to the next."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @abstractmethod
    def prepare(self, bundles: list[Path]) -> tuple[Path, Path]:
        """Where it is done, as far as it has come before; and the bundle that it is done with."""

    @abstractmethod
    def check(self, left: Path, said: list[Mark]) -> None:
        """Raises AssertionError or EdgeclError: what is left is not in order."""

    @abstractmethod
    def go_on(self, left: Path) -> None:
        """Raises the same."""


class Deployment(Case):
    """A third bundle is deployed where two have been, of which the first is deleted in the end; or the only one."""

    resume_every = 12

    def prepare(self, bundles: list[Path]) -> tuple[Path, Path]:
        store = self.directory / "store"
        *before, third = bundles

        def begin() -> None:
            stores.made(store)
            for path in before:
                stores.begun(store, path, state="STAGE", back=True)
                deployer.carry_on(store)
            held = Store(store)
            if not before:
                return
            learned = held.learned("looped", held.current)
            with Loop(held.place(held.current), store, SETTINGS, source=None, learned=learned) as loop:
                for x in stores.noise(20):
                    loop.predict(x)

        assert forks.ended(forks.forked(begin)) == 0
        self.old, self.new = Store(store).current, forks.identity(third)
        self.first = forks.identity(bundles[0])
        self.known = forks.learned(store, self.old).learned.states[0].digest if before else ""
        self.written: list[bytes] = [(store / "control.json").read_bytes()] if before else []
        return store, third

    def check(self, left: Path, said: list[Mark]) -> None:
        controls = self.written + [mark.control for mark in said if mark.control]
        held = Store(left)
        control = deployments.read(left)
        for mark in said:
            if mark.received:
                assert (held.objects / mark.received).is_file(), f"object {mark.received[:12]} has gone"
        for path in held.objects.iterdir() if held.objects.is_dir() else ():
            if len(path.name) == 64:
                content = path.read_bytes()
                assert hashlib.sha256(content).hexdigest() == path.name, f"object {path.name[:12]}"
        current, state = held.current, "RECEIVE"
        if controls:
            assert control.deployments, "the record has gone"
            now, least = control.deployments[-1], msgspec.json.decode(controls[-1], type=Control).deployments[-1]
            assert (now.number, len(now.trace), now.attempts) >= (least.number, len(least.trace), least.attempts), (
                f"{now.number} {now.state} where {least.number} {least.state} was acknowledged"
            )
            state = now.state if now.bundle == self.new else state
        if state in BEFORE_SWITCH:
            assert current == self.old, f"{current[:12]} is current in {state}"
        elif state != "SWITCH":
            assert current == self.new, f"{current[:12]} is current in {state}"
        assert current in (self.old, self.new), f"{current[:12]} is current"
        for identity in {*held.staged(), *([current] if current else [])}:
            held.manifest(identity)
            held.open(identity).close()
        if state in ("TRIAL", "QUIESCE", *HANDED):
            held.open(self.new).close()
        if self.old:
            assert forks.learned(left, self.old).learned.states[0].digest == self.known
        if self.old and state in (*HANDED, "CLEAN", "END"):
            assert forks.learned(left, self.new).learned.states[0].digest == self.known, "what was carried"

    def go_on(self, left: Path) -> None:
        there = deployments.read(left).under_way
        if not there or there.state == "RECEIVE":
            return
        deployer.carry_on(left)
        known = deployments.read(left).deployments
        now = known[-1]
        assert now.over and (now.outcome == "committed" or now.bundle != self.new), (now.outcome, now.reason)
        held = Store(left)
        stay = {held.current, self.old, *({self.first} if now.bundle != self.new else ())}
        found = set(os.listdir(held.bundles))
        assert found <= stay, f"{found - stay} left over"
        with held.open(held.current) as opened:
            wanted = {opened.id, *(file.sha256 for file in opened.manifest.files)}
        assert wanted <= set(os.listdir(held.objects))


class Checkpoint(Case):
    """A run goes on that was killed before, learns, and ends; or the first run there begins."""

    resume_every = 8

    def prepare(self, bundles: list[Path]) -> tuple[Path, Path]:
        where, path = self.directory / "state", bundles[-1]

        def begin() -> None:
            where.mkdir()
            if len(bundles) == 1:
                forks.die()
            loop = Loop(path, where, SETTINGS)
            for x in stores.noise(14, 6):
                loop.predict(x)
            forks.die()

        assert forks.ended(forks.forked(begin)) == -9
        with open_bundle(path) as bundle:
            self.layout = bundle.manifest.layout
        self.path = path
        self.before = len(records(where))
        self.kept = max((int(one.stem) for one in where.glob("learned/looped/[0-9]*.json")), default=0)
        return where, path

    def check(self, left: Path, said: list[Mark]) -> None:
        found = Checkpoints(left / "learned" / "looped").newest(self.layout)
        least = max((mark.checkpoint for mark in said), default=0) or self.kept
        there = records(left)
        count = max((mark.records for mark in said), default=0)
        assert len(there) >= self.before + count, f"{len(there)} records, {self.before} + {count} were synced"
        if found:
            assert not found.passed_over, found
            named = {one.digest for one in there if isinstance(one, Update | Run)}
            assert {state.digest for state in found.learned.states.values()} <= named, "a state that no record names"
        number = int(found.path.stem) if found else 0
        assert number >= least, f"{number} where {least} was acknowledged"
        for place in (left / "cache").glob("[0-9a-f]*"):
            open_in_place(place).close()

    def go_on(self, left: Path) -> None:
        with Loop(self.path, left, SETTINGS) as loop:
            for x in stores.noise(8, 9):
                loop.predict(x)


def records(where: Path) -> list[journal.Record]:
    """Of a journal, those that can be read."""
    place = where / "journal"
    return [one for one in journal.read(place) if not isinstance(one, Torn)] if place.is_dir() else []


CASES: Final = {"deployment": Deployment, "checkpoint": Checkpoint}


class Trial:
    """All power cuts of one log."""

    def __init__(
        self, case: Case, started: Medium, operations: list[Operation], samples: int, part: slice, root: Path
    ) -> None:
        """`part` says which of the cuts, and which of the fsyncs, are tried here."""
        self._case, self._started, self._operations, self._samples = case, started, operations, samples
        self._root = root
        self._syncs = [place for place, one in enumerate(operations) if one.what == "F"]
        self._cuts = [*self._syncs, len(operations)][part]
        self._idle = self._syncs[part]
        self.report = Report(operations=len(operations), fsyncs=len(self._syncs))
        self._seen: dict[tuple[bytes, int], str] = {}

    def run(self, resume: Callable[[int], bool]) -> None:
        """Try everything. `resume` says after which of the cuts the work goes on."""
        at = copy.deepcopy(self._started)
        for place, one in enumerate([*self._operations, None]):
            if place in self._cuts:
                self._cut(place, at, resume(self._cuts.index(place)))
            if place in self._idle and one and not self._missed(place, copy.deepcopy(at)):
                self.report.unneeded.append(f"{self._state(place)} {one.path.relative_to(self._root)}")
            if one:
                at.apply(one)

    def _cut(self, place: int, at: Medium, resume: bool) -> None:
        """Nothing that a power cut may leave here is out of order."""
        chance = random.Random(place)
        self.report.cuts += 1
        for how, image in self._images(at, chance):
            if problem := self._problem(image, place):
                self.report.failures.append(f"{self._where(place)}, {how}: {problem}")
                break
        if resume:
            kept = {one.number: chance.random() < 0.5 for one in at.pending()}
            for choice in (lambda one: 0, lambda one: kept.get(one.number, 0)):
                self.report.resumed += 1
                left = medium.make(at.after_cut(choice), self._case.directory / f"resumed-{os.getpid()}")
                try:
                    self._case.go_on(left)
                    self._case.check(left, self._said(place))
                except (AssertionError, EdgeclError, OSError) as error:
                    self.report.failures.append(f"{self._where(place)}, gone on: {type(error).__name__}: {error}")
                forks.removed(left)

    def _state(self, place: int) -> str:
        """The state that the deployment is in."""
        controls = [mark.control for mark in self._said(place) if mark.control]
        return msgspec.json.decode(controls[-1], type=Control).deployments[-1].state if controls else "-"

    def _where(self, place: int) -> str:
        return f"cut before {place} ({self._operations[place] if place < len(self._operations) else 'the end'})"

    def _said(self, end: int) -> list[Mark]:
        """What had been acknowledged."""
        marks = [one.text for one in self._operations[:end] if one.what == "K"]
        return [msgspec.msgpack.decode(text, type=Mark) for text in marks]

    def _images(self, of: Medium, chance: random.Random) -> Iterator[tuple[str, Image]]:
        """What a power cut may leave, and how it came to be."""
        pending = seen(of)
        yield "nothing kept", of.after_cut(lambda one: 0)
        yield "all kept", of.after_cut(lambda one: 1)
        for number, lost in pending.items():
            yield f"lost: {lost}", of.after_cut(partial(_but, {number: 0.0}, 1))
            yield f"only: {lost}", of.after_cut(partial(_but, {number: 1.0}, 0))
            if lost.data:
                yield f"torn: {lost}", of.after_cut(partial(_but, {number: 0.5}, 1))
        for _ in range(self._samples if len(pending) > 1 else 0):
            kept = {number: chance.choice((0, 0.3, 1)) for number in pending}
            yield "by chance", of.after_cut(partial(_but, kept, 0))

    def _problem(self, image: Image, end: int) -> str:
        """What is wrong with it; empty for nothing."""
        said = self._said(end)
        key = (medium.digest(image), len(said))
        if key not in self._seen:
            self.report.images += 1
            place = medium.make(image, self._case.directory / f"image-{os.getpid()}")
            try:
                self._case.check(place, said)
                self._seen[key] = ""
            except (AssertionError, EdgeclError, OSError) as error:
                self._seen[key] = f"{type(error).__name__}: {error}"
            forks.removed(place)
        return self._seen[key]

    def _missed(self, idle: int, at: Medium) -> str:
        """What goes wrong when an fsync does nothing; empty for nothing."""
        at.apply(self._operations[idle], sync=False)
        for place in range(idle + 1, len(self._operations) + 1):
            one = self._operations[place] if place < len(self._operations) else None
            if one is None or one.what == "F":
                pending = [each for each, lost in seen(at).items() if lost.inode is at.inode(self._operations[idle])]
                for kept in ({}, *({number: 1.0} for number in pending)):
                    for choice in (partial(_but, kept, 0), partial(_but, dict.fromkeys(kept or pending, 0.0), 1)):
                        if problem := self._problem(at.after_cut(choice), place):
                            return problem
            if one is None or (one.what == "F" and one.first == self._operations[idle].first):
                return ""
            at.apply(one)
        return ""


def _but(kept: Mapping[int, float], others: float, one: Pending) -> float:
    return kept.get(one.number, others)


def seen(of: Medium) -> dict[int, Pending]:
    """What may be lost, but for what is thrown away after a power cut: that is kept or lost as one."""
    return {one.number: one for one in of.pending(but=SCRATCH)}


def main(kind: str, recorder: Path, directory: Path, bundles: list[Path], samples: int) -> None:
    case = CASES[kind](directory)
    root, path = case.prepare(bundles)
    started, log = Medium(root), directory / "log"
    script = Path(__file__).with_name("recorded.py")
    recording = {"LD_PRELOAD": str(recorder), "EDGECL_RECORD_ROOT": str(root), "EDGECL_RECORD_LOG": str(log)}
    command = [sys.executable, "-P", str(script), kind, str(root), str(path), str(log)]
    subprocess.run(command, env=os.environ | recording, check=True)
    operations = medium.read(log)
    workers = os.cpu_count() or 1

    def work(which: int) -> None:
        trial = Trial(case, started, operations, samples, slice(which, None, workers), root)
        trial.run(lambda number: number % case.resume_every == 0)
        os.write(1, msgspec.json.encode(trial.report) + b"\n")

    children = [forks.forked(partial(work, which)) for which in range(workers)]
    assert [forks.ended(child) for child in children] == [0] * workers


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [Path(one) for one in sys.argv[4:-1]], int(sys.argv[-1]))
