"""All runs of one device again, and the verdict: bit-equal, within tolerance, diverged, or not replayable.

A run begins with what an earlier one had in a checkpoint. The replay keeps those checkpoints that later runs begin
with; what it cannot make itself it takes from the state directory, where that is at hand.
"""

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from edgecl import disk, inherit
from edgecl.bank import SOURCE
from edgecl.bundle import Bundle
from edgecl.checkpoints import Checkpoints, Learned, Place, Resumed
from edgecl.core import Core
from edgecl.errors import EdgeclError
from edgecl.journal import Checkpoint, Domain, Guard, Label, Run, Update
from edgecl.processor import processor
from edgecl.records import kept
from edgecl.state import State
from edgecl.view import View
from firmware_host.replay.bundles import Bundles, missing
from firmware_host.replay.compare import TOLERANCE, Comparison, Difference, DivergenceError, same
from firmware_host.replay.lanes import Lanes
from firmware_host.replay.recording import Recording, Runs, Tape, records
from firmware_host.replay.rerun import MissingError, ReachedError, Rerun, settings_of

Outcome = Literal["bit-equal", "within tolerance", "diverged", "not replayable"]

TAKEN: Final = "learned"
"""Of the settings of a run: what becomes of what the bundle before had learned."""

LAST: Final = -1
"""Instead of the number of a checkpoint: what a bundle had learned when its last run ended."""


@dataclass
class Verdict:
    """On one device."""

    device: str
    outcome: Outcome = "not replayable"
    runs: int = 0
    """That were replayed, to their end or in part."""
    answers: int = 0
    """That were compared."""
    updates: int = 0
    unchecked: int = 0
    """Answers at the end of runs that were killed, whose samples were not on the disk yet."""
    gaps: list[str] = field(default_factory=list)
    """What could not be replayed, and why."""
    notes: list[str] = field(default_factory=list)
    run: int = 0
    """That diverged, from 1."""
    difference: Difference | None = None
    apart: float = 0.0
    """Largest difference of a number that was tolerated, as compare.TOLERANCE is measured."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """What a look at the whole journal found that its replay needs to know beforehand."""

    checkpoints: frozenset[tuple[str, int]]
    """Bundle and number of those that runs begin with."""
    labelled: frozenset[int]
    """Samples that were given labels."""


def look(recording: Recording) -> Wanted:
    """Raises JournalError."""
    checkpoints: set[tuple[str, int]] = set()
    labelled: set[int] = set()
    for record in records(recording.segments):
        if isinstance(record, Run):
            checkpoints.add((record.bundle, record.checkpoint))
        elif isinstance(record, Label):
            labelled.add(record.seq)
    return Wanted(frozenset(checkpoints), frozenset(labelled))


def state_at(recording: Recording, step: int, domain: int) -> str:
    """Digest of the state of a domain after a step, of the last time that it was there. Raises EdgeclError."""
    digest = ""
    for record in records(recording.segments):
        if isinstance(record, Update | Guard) and (record.step, record.domain) == (step, domain):
            digest = record.digest if _made_a_state(record) else digest
        elif isinstance(record, Run):
            digest = next((k.digest for k in record.domains if (k.domain, k.step) == (domain, step)), digest)
    if not digest:
        raise EdgeclError(f"{recording.name}: domain {domain} was never at step {step}; see its updates in the journal")
    return digest


def domain_number(recording: Recording, name: str) -> int:
    """Of a domain, by its name or number; of the last of that name. Raises EdgeclError."""
    number = int(name) if name.isdecimal() else SOURCE if name == "source" else None
    for record in records(recording.segments) if number is None else ():
        if isinstance(record, Domain) and record.name == name:
            number = record.domain
        elif isinstance(record, Run):
            number = next((domain.domain for domain in record.domains if domain.name == name), number)
    if number is None:
        raise EdgeclError(f"{recording.name}: no domain {name}; its names are in the journal")
    return number


def _made_a_state(record: Update | Guard) -> bool:
    return record.committed if isinstance(record, Update) else record.action in (Guard.ROLLED_BACK, Guard.RESET)


class Replay:
    """Of one recording."""

    def __init__(self, recording: Recording, bundles: Bundles) -> None:
        self._recording, self._bundles = recording, bundles
        self._verdict = Verdict(recording.name)
        self._kept: dict[tuple[str, int], Path] = {}
        self._number = itertools.count()
        self._step, self._digest = 0, ""
        self.found: State | None = None
        """The state that `find` looked for."""

    def verify(self) -> Verdict:
        """Run all runs again. Raises EdgeclError: a file cannot be read."""
        return self._all()

    def find(self, step: int, digest: str) -> Verdict:
        """Run on until there is a state of this step and digest: `found`, where all was equal up to there."""
        self._step, self._digest = step, digest
        return self._all()

    def _all(self) -> Verdict:
        verdict, wanted = self._verdict, look(self._recording)
        tape = Tape(self._recording.samples, wanted.labelled)
        before: Run | None = None
        exact = True
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="edgecl-replay-") as scratch:
            self._scratch = Path(scratch)
            runs = Runs(records(self._recording.segments))
            following = iter(runs)
            item = next(following, None)
            while item:
                run, found = item
                verdict.run += 1
                if before and before.bundle == run.bundle:
                    self._kept.pop((run.bundle, LAST), None)  # of a run before, and this one learns more
                lanes, comparison = Lanes(found), Comparison(tolerant=run.processor != processor())
                try:
                    with contextlib.closing(self._begin(run, before, lanes, tape, comparison, wanted)) as again:
                        try:
                            again.to_end()
                        finally:
                            verdict.runs += 1
                            verdict.answers += again.answers
                            verdict.updates += again.updates
                            verdict.unchecked += again.unchecked
                        item = next(following, None)
                        if lanes.hole:
                            verdict.gaps.append(f"run {verdict.run}: {lanes.hole.reason}")
                        else:
                            self._keep_last(again, run, item[0] if item else None)
                except DivergenceError as error:
                    verdict.outcome, verdict.difference = "diverged", error.difference
                    break
                except ReachedError:
                    break
                except EdgeclError as error:
                    verdict.gaps.append(f"run {verdict.run}: {error}")
                    item = next(following, None)
                exact = exact and comparison.exact
                verdict.apart = max(verdict.apart, comparison.apart)
                if run.processor != processor():
                    self._say(f"recorded on {run.processor or run.arch}, replayed on {processor()}")
                before = run
            if runs.headless:
                self._verdict.gaps.append(f"{runs.headless} records of a run whose start is not here")
        verdict.seconds = time.perf_counter() - start
        if verdict.outcome != "diverged" and verdict.answers + verdict.updates:
            verdict.outcome = "bit-equal" if exact else "within tolerance"
            if not exact:
                self._say(f"numbers differ by up to {verdict.apart:.2g}, of {TOLERANCE:g} that are tolerated")
        return verdict

    def _begin(
        self, run: Run, before: Run | None, lanes: Lanes, tape: Tape, comparison: Comparison, wanted: Wanted
    ) -> Rerun:
        """Raises MissingError, DivergenceError, EdgeclError."""
        bundle = self._bundle(run)
        resumed = self._resumed(run, before, bundle)

        def checkpointed(core: Core, record: Checkpoint) -> None:
            if (run.bundle, record.number) in wanted.checkpoints:
                self._keep((run.bundle, record.number), core, record.active)

        settings = settings_of(run)
        return Rerun(
            bundle, run, settings, resumed, lanes, tape, comparison, checkpointed=checkpointed, watch=self._watch
        )

    def _bundle(self, run: Run) -> Bundle:
        bundle = self._bundles.find(run.bundle)
        if not bundle:
            raise MissingError(missing(run, self._recording.name))
        return bundle

    def _watch(self, view: View) -> None:
        if self._digest:
            for state in view.states.values():
                if state.step == self._step and state.digest == self._digest:
                    self.found = state
                    raise ReachedError

    # what runs begin with

    def _resumed(self, run: Run, before: Run | None, bundle: Bundle) -> Resumed | None:
        """Raises MissingError: what the run begins with is not to be had."""
        if not run.processor:
            raise MissingError("it was recorded by an edgecl that did not say what it began with")
        if not run.checkpoint:
            return None
        found: list[Resumed] = []
        for resumed in self._candidates(run, before, bundle):
            if _begins(run, resumed.learned):
                return resumed
            found.append(resumed)
        if not found:
            raise MissingError(f"it begins with checkpoint {run.checkpoint}, which no run here has written")
        return found[0]  # whose difference is told

    def _candidates(self, run: Run, before: Run | None, bundle: Bundle) -> Iterator[Resumed]:
        """What the run may have begun with, likeliest first: numbers begin anew where a bundle takes over."""
        if place := self._kept.get((run.bundle, run.checkpoint)):
            yield self._load(place, 1, bundle)
        if before and before.bundle != run.bundle and (place := self._inherited(run, before, bundle)):
            yield self._load(place, 1, bundle)
        for folder in self._homes(bundle):
            if (folder / f"{run.checkpoint:08d}.json").is_file():
                yield self._load(folder, run.checkpoint, bundle)

    def _load(self, folder: Path, number: int, bundle: Bundle) -> Resumed:
        return Checkpoints(folder).load(folder / f"{number:08d}.json", *bundle.manifest.layouts.values())

    def _homes(self, bundle: Bundle) -> list[Path]:
        """Where a state directory keeps what this bundle has learned."""
        if not self._recording.home:
            return []
        lineage = self._recording.home / "learned" / bundle.manifest.lineage
        return [lineage / bundle.id, lineage]

    def _inherited(self, run: Run, before: Run, bundle: Bundle) -> Path | None:
        """What a bundle took over from the one before: made again as the board made it."""
        told = {setting.name: setting.value for setting in run.settings}
        last = self._kept.get((before.bundle, LAST))
        if not last:
            return None
        if "deployment" not in told:
            return last  # of the same lineage, in a state directory of one bundle after the other
        old, into, unused = self._bundle(before), self._folder(), self._folder()
        policy = told.get(TAKEN, "carry") if old.manifest.lineage == bundle.manifest.lineage else "discard"
        if policy not in ("carry", "rebase", "discard"):
            return None
        inherit.inherit(old, last, bundle, into, policy, unused)  # type: ignore[arg-type]
        return into

    def _keep_last(self, again: Rerun, run: Run, following: Run | None) -> None:
        """Keep what the next run begins with, where the record of that checkpoint was lost in a crash."""
        if not following:
            return
        self._keep((run.bundle, LAST), again.core, again.core.domains.here)
        wanted = (following.bundle, following.checkpoint)
        if following.bundle != run.bundle or not following.checkpoint or wanted in self._kept:
            return
        while not _begins(following, again.core.learned(Place())) and again.settle_one():
            pass
        if _begins(following, again.core.learned(Place())):
            self._keep(wanted, again.core, following.domain)

    def _keep(self, which: tuple[str, int], core: Core, active: int) -> None:
        learned, folder = core.learned(Place()), self._folder()
        if old := self._kept.get(which):
            disk.remove(old)
        Checkpoints(folder).write(replace(learned, active=active), core.parts())
        self._kept[which] = folder

    def _folder(self) -> Path:
        folder = self._scratch / str(next(self._number))
        folder.mkdir()
        return folder

    def _say(self, line: str) -> None:
        if line not in self._verdict.notes:
            self._verdict.notes.append(line)


def _begins(run: Run, learned: Learned) -> bool:
    """Whether a run began with this, by all that its journal tells."""
    if run.processor == processor():
        return same(run.domains, kept(learned))
    return [(k.domain, k.name, k.step) for k in run.domains] == [(k.domain, k.name, k.step) for k in kept(learned)]
