"""The product in one screen: answer a sample at once, journal it, learn from batches behind it, checkpoint what was
learned.

A state directory belongs to one loop at a time and holds

    learned/<lineage>/<n>.json    checkpoints, over objects/ (`edgecl/checkpoints.py`)
    journal/<boot>-<n>.mcap       every answer and every decision (`edgecl/journal.py`)
    samples/<boot>-<n>.mcap       the newest samples, where they are kept (`edgecl/samples.py`)
    cache/<bundle id>/            the verified copy of the bundle
    tested                        the bundle that has passed its self-test here
    lock                          held while a loop is open
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from edgecl import checkpoints, guard, journal, records, selftest, shift
from edgecl.answer import Answer, answer_of
from edgecl.boot import boot_id
from edgecl.bundle import open_alone, open_in_place, read_detector, read_head
from edgecl.checkpoints import Learned, Place
from edgecl.clock import SystemClock
from edgecl.clock import Watch as ClockWatch
from edgecl.domains import Domains
from edgecl.errors import EdgeclError, ProgramError, RequestError
from edgecl.here import check_here
from edgecl.learning import Batch, Learning, Outcome
from edgecl.operations import Doing, Operations
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs, preload
from edgecl.routing import domains, routing
from edgecl.samples import Samples
from edgecl.settings import Settings, hyper_values
from edgecl.shift import Watch
from edgecl.state import State
from edgecl.teaching import Teaching
from edgecl.worker import Worker

SYNC_NS: Final = 5_000_000_000
"""Time between two journal syncs: what a power cut may lose."""


class Loop:
    """An open bundle with a state directory: `predict` adapts as it goes, `learn` takes labels.

    Use it from one thread, and close it (or use `with`): closing writes what was learned. What fails in the background
    is raised by the next call. Any call may raise ProgramError, JournalError or StoreError.
    """

    def __init__(
        self,
        path: Path,
        state_directory: Path,
        settings: Settings,
        *,
        source: str | None = "",
        again: bool = False,
        learned: Path | None = None,
        told: Mapping[str, str] | None = None,
        clock: journal.Clock | None = None,
        on_record: Callable[[journal.Record], None] | None = None,
    ) -> None:
        """Open a bundle, and go on from what an earlier run learned in this state directory.

        `source` names where the samples come from: `place` is where an earlier run got to in it, or its start when it
        is to be run through `again`. None: no samples will come, and the place stays as it is. `on_record` gets every
        record as it is journalled, from any thread, and may not call the loop. With `learned`, checkpoints lie
        there and the bundle is used where it is, in a directory of one's own. `told` is journalled with the settings.

        Raises SettingError, StoreError, BundleError, ProgramError, JournalError; nothing is left open then.
        """
        self._settings, self._clock, self._on_record = settings, clock or SystemClock(), on_record
        self._order = threading.Lock()
        self._count = journal.End()
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkpoints.owned(state_directory))
            opened = open_in_place(path) if learned else open_alone(path, state_directory / "cache")
            self.bundle = stack.enter_context(opened)
            self.manifest = manifest = self.bundle.manifest
            check_here(manifest)
            hyper = hyper_values(manifest.learner, settings.hyper)
            selftest.once(self.bundle, (learned or state_directory) / "tested", engine=settings.engine)
            most = domains(settings, manifest)
            self._checkpoints = checkpoints.Checkpoints(learned or state_directory / "learned" / manifest.lineage)
            self.resumed = self._checkpoints.newest(*manifest.layouts.values())
            before = self.resumed.learned if self.resumed else None
            self.checkpoint = self.resumed.path if self.resumed else None
            self._place = checkpoints.go_on(before, source, again=again)
            self._samples = stack.enter_context(
                Samples(
                    state_directory / "samples",
                    quota_bytes=settings.keep_bytes,
                    boot=boot_id(),
                    clock=self._clock,
                )
            )
            losses = [*journal.recover(state_directory / "journal"), *self._samples.losses]
            self._seq = max(journal.next_seq(state_directory / part) for part in ("journal", "samples"))
            self._programs = stack.enter_context(
                Programs(self.bundle, engine=settings.engine, threads=settings.threads, trace=settings.trace)
            )
            preload(self._programs, manifest, routed=most > 1, labels=settings.keep_bytes > 0, sync=settings.sync)
            budget = manifest.memory_budget_bytes if settings.budget_bytes is None else settings.budget_bytes
            self._learning = Learning(
                self.bundle,
                self._programs,
                before.states if before else {},
                hyper=hyper,
                seed=settings.seed,
                budget_bytes=budget,
                now_ns=self._clock.monotonic_ns,
                note=self._note,
            )
            start = routing(self.bundle, settings, self.resumed)
            self._told_by = start.digest
            self._worker: Worker | None = None
            self._teaching = Teaching(
                manifest,
                read_head(self.bundle),
                detector := read_detector(self.bundle),
                self.resumed,
                seed=settings.seed,
                budget_bytes=settings.rehearsal_bytes,
            )
            self._domains = Domains(
                manifest,
                self._programs,
                self._learning,
                self._teaching,
                start,
                later=self._later,
                settled=self._checkpoint,
                note=self._note,
            )
            self._seq = max(
                self._seq,
                *(state.seen for state in self._learned().states.values()),
                *(seq + 1 for seq in self._teaching.known),
            )
            self._journal = stack.enter_context(
                journal.Journal(
                    state_directory / "journal",
                    boot=boot_id(),
                    clock=self._clock,
                    quota_bytes=settings.journal_bytes,
                )
            )
            self._gap: journal.Gap | None = None
            self._clock_watch = ClockWatch(self._clock)
            for loss in losses:
                self._note(loss)
            if self._journal.new_boot:
                self._note(records.board())
            self._see_to_clock()
            self._note(
                records.run(
                    self.bundle,
                    settings,
                    hyper=hyper,
                    budget_bytes=budget,
                    domains=most,
                    learned=self._learned(),
                    seen=self._seq,
                    source=source or "",
                    told=told or {},
                )
            )
            self._journal.sync()
            self._worker = None if settings.sync else Worker("edgecl-learning")
            self._stack = stack.pop_all()
        self._turn = threading.RLock()
        self.operations = Operations(
            manifest,
            self._domains,
            self._learning,
            self._teaching,
            self._samples,
            Doing(
                turn=self._turn,
                later=self._later,
                drain=self._drain,
                checkpoint=self._checkpoint,
                note=self._note,
                next_seq=lambda: self._seq,
                check_room=self._check_room,
            ),
            rehearse=settings.rehearse,
        )
        self._preprocess = Preprocess(manifest.input)
        self._detector = detector
        self._watch = Watch()
        self._next = self._place.position
        self._saved: Place | None = None
        self._since_checkpoint = 0
        self._synced_ns = self._clock.monotonic_ns()
        self._open = True

    @property
    def state(self) -> State:
        """What answers in the domain of the last sample."""
        return self._learning[self._domains.active]

    @property
    def domain(self) -> str:
        """The name of the domain of the last sample."""
        return self._domains.name(self._domains.active)

    @property
    def domains(self) -> int:
        """How many there are in the bank."""
        return len(self._domains.bank.domains)

    def canary_accuracy(self) -> float:
        """Share of canaries answered right with the trained pieces of `state`; 1 where the bundle has no canaries."""
        return self._learning.canary_accuracy(self.state)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, those that were added at the end."""
        return self._teaching.names

    @property
    def shifted(self) -> bool:
        """Whether the stream has become unlike the source; False where the bundle has no detector."""
        return self._watch.shifted

    @property
    def place(self) -> Place:
        """Where to go on in the source: behind the last sample that was learned from or passed over."""
        return self._place

    def predict(self, x: npt.NDArray[Any], *, position: int | None = None, y: int | None = None) -> Answer:
        """Answer a sample, in the form that the manifest's `input` tells, and put it into the batch to adapt to.

        `position` counts samples in the source, and `y` is the true label where it is known; both are journalled.
        Raises ProgramError: the sample has another form; it is not counted then.
        """
        start_ns = self._clock.monotonic_ns()
        self._check_open()
        x = self._preprocess.check(x)
        position = self._next if position is None else position
        with self._turn:
            seen = self._domains.see(x, self._preprocess.batch([x]), self._seq)
            for turn in seen.turns:
                self._note(records.turn(turn, self._domains.name(turn.domain), self._seq))
            likeness = self._detector(seen.taps, self._teaching.prototypes) if self._detector else None
            answer = answer_of(self._seq, seen.logits, self._teaching.names, likeness, self._domains.name(seen.domain))
            latency_ns = self._clock.monotonic_ns() - start_ns
            self._note(
                records.prediction(
                    answer, state=seen.state, domain=seen.domain, position=position, y=y, latency_ns=latency_ns
                )
            )
            if likeness and self.manifest.detector:
                look = shift.look(self.manifest.detector.calibration, likeness.similarity)
                if changed := self._watch.note(look):
                    self._note(journal.Shift(seq=answer.seq, **asdict(changed)))
            for dropped in self._samples.keep(answer.seq, position, x, y, seen.domain):
                self._note(dropped)
            self._seq += 1
            self._next = position + 1
        if batch := self._domains.collect(seen.domain, x, answer.seq):
            self._offer(batch)
        elif self._domains.routed and not self._domains.waiting:
            self._place = Place(source=self._place.source, position=self._next)
        self._sync_sometimes()
        return answer

    def damaged(self, position: int, reason: str) -> None:
        """Journal that the source has no sample at this position."""
        self._check_open()
        self._note(journal.Damaged(position=position, reason=reason))
        self._next = position + 1

    def learn(self, x: npt.NDArray[Any], y: int | Sequence[int] | npt.NDArray[np.integer[Any]]) -> int:
        """Learn from labelled samples [n, ...], or from one, now: the number of updates that were committed.

        `y` is the index of the class of each. They are not answered, and get sequence numbers like those that are.
        Raises RequestError: the journal is full. BundleError: the bundle cannot learn from labels. ProgramError: the
        samples or labels do not fit it.
        """
        self._check_open()
        self._check_room()
        method = self.manifest.method("learn")
        outcomes: list[Outcome] = []
        for count, samples, rows in self._preprocess.batches(x, y, len(self.manifest.classes), method.batch):
            batch = Batch(samples, self._seq, self._seq + count - 1, self._domains.active, rows)
            self._seq += count
            self._do(partial(self._update, batch, None, outcomes), wait=True)
        self._drain()
        return outcomes.count("committed")

    def cut(self) -> None:
        """Seal the segments of the journal and the samples that are being written: what comes next is in others."""
        self._journal.close()
        self._samples.cut()

    def trace(self) -> bytes:
        """What the program recorded since the last call, as ETDump; only with `Settings.trace`."""
        return self._programs.trace()

    def close(self, reason: str = "") -> None:
        """Finish learning from the batches that are full, write a checkpoint, and let go of everything.

        `reason` says why before the end of the source. Without one the source is at its end: what is left of a batch
        will not be learned from. With one, that rest is answered again by the run that goes on.
        """
        if not self._open:
            return
        self._open = False
        with self._stack:
            if self._worker:
                self._worker.close()
                self._worker.check()
            if not reason or not self.manifest.has("adapt"):
                self._place = Place(source=self._place.source, position=self._next)
            saw = self._count.samples + self._count.damaged
            if self._since_checkpoint or (saw and self._place != self._saved):
                self._checkpoint()
            self._count.reason = reason
            self._note(self._count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(EdgeclError):  # that error matters less than the one under way
                self.close(f"{kind.__name__}: {error}")

    def _offer(self, batch: Batch) -> None:
        if self.operations.held:
            self._learning.skip(guard.HELD, f"samples {batch.first_seq} to {batch.last_seq}", batch.domain)
            return
        if self._journal.full:
            detail = f"samples {batch.first_seq} to {batch.last_seq}: the journal is full; pull it: edgecl pull"
            self._learning.skip(guard.FULL, detail, batch.domain)
            return
        place = Place(source=self._place.source, position=self._next)
        if not self._do(partial(self._update, batch, place, []), wait=self._settings.wait):
            detail = f"samples {batch.first_seq} to {batch.last_seq}: learning is behind"
            self._learning.skip(guard.BUSY, detail, batch.domain)

    def _do(self, job: Callable[[], object], *, wait: bool) -> bool:
        """Do a job, behind the caller's back where there is a worker; whether it had room for it."""
        if self._worker:
            return self._worker.offer(job, wait=wait)
        job()
        return True

    def _update(self, batch: Batch, place: Place | None, outcomes: list[Outcome]) -> None:
        """Learn from a batch; `place` is where its source goes on. What came of it is added to `outcomes`."""
        outcome = self._learning.update(batch)
        outcomes.append(outcome)
        self._place = place or self._place
        self._since_checkpoint += outcome != "skipped"
        if self._since_checkpoint >= self._settings.checkpoint_every or outcome == "rolled back":
            self._checkpoint()  # at once after a roll-back: no crash may bring the bad state back

    def _checkpoint(self) -> None:
        """What a checkpoint has learned is in the journal before it is on the disk."""
        learned = self._learned()
        self._sync()
        number, path = self._checkpoints.write(learned, self._teaching.parts())
        self._note(records.checkpoint(learned, number, path.name))
        self.checkpoint = path
        self._saved, self._since_checkpoint = learned.place, 0

    def _learned(self) -> Learned:
        """Everything, as it is now."""
        bank = self._domains.bank
        return Learned(
            bundle=self.bundle.id,
            place=self._place,
            bank=bank,
            states={domain.number: self._learning[domain.number] for domain in bank.domains},
            active=self._domains.here,
            router=self._told_by,
            added=self._teaching.added,
            tries=self._teaching.tries(),
        )

    def _later(self, job: Callable[[], object]) -> None:
        """Do a small job behind the updates that are under way."""
        if self._worker:
            self._worker.also(job)
        else:
            job()

    def _drain(self) -> None:
        """Wait until nothing is left to be learned."""
        if self._worker:
            self._worker.drain()

    def _sync_sometimes(self) -> None:
        if self._clock.monotonic_ns() - self._synced_ns >= SYNC_NS:
            self._synced_ns = self._clock.monotonic_ns()
            self._see_to_clock()
            self._later(self._sync)  # an answer does not wait for the disk

    def _sync(self) -> None:
        self._journal.sync()
        self._synced_ns = self._clock.monotonic_ns()

    def _see_to_clock(self) -> None:
        if changed := self._clock_watch.look():
            self._note(changed)

    def _note(self, record: journal.Record) -> None:
        with self._order:
            self._write_down(record)
            count = self._count
            count.samples += isinstance(record, journal.Prediction)
            count.damaged += isinstance(record, journal.Damaged)
            count.updates += isinstance(record, journal.Update) and record.committed
            count.refused += isinstance(record, journal.Guard)
            if self._on_record:
                self._on_record(record)

    def _write_down(self, record: journal.Record) -> None:
        """Journal a record; or, of a journal that is full, count it where answers go on without it."""
        frequent = isinstance(record, journal.Prediction | journal.Damaged | journal.Shift | journal.Dropped) or (
            isinstance(record, journal.Guard) and record.action == journal.Guard.SKIPPED
        )
        if frequent and self._journal.full:
            gap = self._gap = self._gap or journal.Gap(since_ns=self._clock.monotonic_ns())
            gap.records += 1
            if isinstance(record, journal.Prediction):
                gap.first_seq = gap.first_seq if gap.samples else record.seq
                gap.last_seq = record.seq
                gap.samples += 1
            elif isinstance(record, journal.Dropped):
                gap.dropped += record.records
            return
        if self._gap and (frequent or isinstance(record, journal.End)):  # there is room again, or nothing more comes
            gap, self._gap = self._gap, None
            self._journal.append(gap)
        self._journal.append(record)

    def _check_room(self) -> None:
        """Before something is changed that must be journalled. Raises RequestError."""
        if self._journal.full:
            raise RequestError("the journal is full, so nothing is learned or changed; pull it first: edgecl pull")

    def _check_open(self) -> None:
        if not self._open:
            raise ProgramError("the loop is closed; open it again")
        if self._worker:
            self._worker.check()
