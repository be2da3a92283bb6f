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
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from edgecl import checkpoints, guard, journal, records, resident, selftest
from edgecl.answer import Answer
from edgecl.boot import boot_id
from edgecl.bundle import Bundle, open_alone, open_in_place
from edgecl.checkpoints import Place
from edgecl.clock import SystemClock
from edgecl.core import Around, Core
from edgecl.errors import EdgeclError, ProgramError
from edgecl.here import check_here
from edgecl.journalled import Journalled
from edgecl.learning import Batch, Outcome
from edgecl.operations import Doing, Operations
from edgecl.samples import Samples
from edgecl.settings import Settings, hyper_values
from edgecl.state import State
from edgecl.view import Views
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
        path: Path | Bundle,
        state_directory: Path,
        settings: Settings,
        *,
        source: str | None = "",
        again: bool = False,
        learned: Path | None = None,
        told: Mapping[str, str] | None = None,
        clock: journal.Clock | None = None,
        boot: str | None = None,
        on_record: Callable[[journal.Record], None] | None = None,
    ) -> None:
        """Open a bundle, and go on from what an earlier run learned in this state directory.

        `source` names where the samples come from: `place` is where an earlier run got to in it, or its start when it
        is to be run through `again`. None: no samples will come, and the place stays as it is. `on_record` gets every
        record as it is journalled, from any thread, and may not call the loop. With `learned`, checkpoints lie
        there and the bundle is used where it is, in a directory of one's own. `told` is journalled with the settings.
        A Bundle that is open already, and tested by whoever opened it, stays open. `boot` and `clock` are those of
        this board, unless it is a simulated one.

        Raises SettingError, StoreError, BundleError, ProgramError, JournalError; nothing is left open then.
        """
        self._settings, self._clock, self._turn = settings, clock or SystemClock(), threading.RLock()
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkpoints.owned(state_directory))
            if isinstance(path, Bundle):
                self.bundle = path
            else:
                opened = open_in_place(path) if learned else open_alone(path, state_directory / "cache")
                self.bundle = stack.enter_context(opened)
            self.manifest = manifest = self.bundle.manifest
            check_here(manifest)
            hyper_values(manifest.learner, settings.hyper)  # refused before anything is written
            if not isinstance(path, Bundle):
                selftest.once(self.bundle, (learned or state_directory) / "tested", engine=settings.engine)
            self._checkpoints = checkpoints.Checkpoints(learned or state_directory / "learned" / manifest.lineage)
            self.resumed = self._checkpoints.newest(*manifest.layouts.values())
            before = self.resumed.learned if self.resumed else None
            self.checkpoint = self.resumed.path if self.resumed else None
            self._place = checkpoints.go_on(before, source, again=again)
            boot = boot or boot_id()
            kept = Samples(state_directory / "samples", quota_bytes=settings.keep_bytes, boot=boot, clock=self._clock)
            self._samples = stack.enter_context(kept)
            losses = [*journal.recover(state_directory / "journal"), *self._samples.losses]
            quota_bytes = settings.journal_bytes
            new = journal.Journal(state_directory / "journal", boot=boot, clock=self._clock, quota_bytes=quota_bytes)
            self._journal = stack.enter_context(new)
            self._journalled = Journalled(self._journal, self._clock, on_record)
            self._note = self._journalled.note
            self._worker: Worker | None = None
            own, given = manifest.memory_budget_bytes, settings.budget_bytes
            self._budget_bytes = own if given is None else given
            around = Around(
                note=self._note,
                later=self._later,
                settled=partial(self._checkpoint, journal.Checkpoint.BANK),
                crowded=lambda: resident.over(self._budget_bytes),
                now_ns=self._clock.monotonic_ns,
            )
            self._core = Core(self.bundle, settings, self.resumed, around, Views())
            stack.callback(self._core.close)
            written = (journal.next_seq(state_directory / part) for part in ("journal", "samples"))
            self._core.seq = max(self._core.seq, *written)
            for loss in losses:
                self._note(loss)
            if self._journal.new_boot:
                self._note(records.board())
            self._journalled.see_to_clock()
            self._note(
                records.run(
                    self.bundle,
                    settings,
                    hyper=self._core.hyper,
                    budget_bytes=self._budget_bytes,
                    domains=self._core.most,
                    learned=self._core.learned(self._place),
                    seen=self._core.seq,
                    checkpoint=int(self.checkpoint.stem) if self.checkpoint else 0,
                    source=source or "",
                    told=told or {},
                )
            )
            self._journal.sync()
            self._worker = None if settings.sync else Worker("edgecl-learning")
            self._stack = stack.pop_all()
        self.operations = Operations(
            self._core,
            self._samples,
            Doing(
                turn=self._turn,
                later=self._later,
                drain=self._drain,
                checkpoint=partial(self._checkpoint, journal.Checkpoint.ASKED),
                note=self._note,
                next_seq=lambda: self._core.seq,
                check_room=self._journalled.check_room,
            ),
        )
        self._next = self._place.position
        self._saved: Place | None = None
        self._since_checkpoint = 0
        self._synced_ns = self._clock.monotonic_ns()
        self._open = True

    @property
    def state(self) -> State:
        """What answers in the domain of the last sample."""
        return self._core.learning[self._core.domains.active]

    @property
    def domain(self) -> str:
        """The name of the domain of the last sample."""
        return self._core.domains.name(self._core.domains.active)

    @property
    def domains(self) -> int:
        """How many there are in the bank."""
        return len(self._core.domains.bank.domains)

    def canary_accuracy(self) -> float:
        """Share of canaries answered right with the trained pieces of `state`; 1 where the bundle has no canaries."""
        return self._core.learning.canary_accuracy(self.state)

    @property
    def canaries(self) -> float | None:
        """Share of canaries that were answered right when the guard last looked; None before."""
        return self._core.learning.canaries

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes, those that were added at the end."""
        return self._core.teaching.names

    @property
    def shifted(self) -> bool:
        """Whether the stream has become unlike the source; False where the bundle has no detector."""
        return self._core.shifted

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
        x = self._core.preprocess.check(x)
        position = self._next if position is None else position
        with self._turn:
            answer, seen = self._core.answer(x, position=position, y=y, start_ns=start_ns)
            self._keep(answer.seq, position, x, y, seen.domain)
            self._next = position + 1
            batch = self._core.domains.collect(seen.domain, x, answer.seq)
            offered = self._offer(batch, seen.state) if batch else False
            if not batch and self._core.domains.routed and not self._core.domains.waiting:
                self._place = Place(source=self._place.source, position=self._next)
        if offered and self._worker and self._settings.wait:
            self._worker.pause()
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
        self._journalled.check_room()
        method = self.manifest.method("learn")
        outcomes: list[Outcome] = []
        for count, samples, rows in self._core.preprocess.batches(x, y, len(self.manifest.classes), method.batch):
            with self._turn:
                first, domain = self._core.seq, self._core.domains.active
                for place in range(count):
                    label = int(rows[place].argmax())
                    self._keep(first + place, self._next, samples[place], label, domain, learned=True)
                self._core.seq += count
                batch = Batch(samples, first, first + count - 1, domain, rows)
                self._insist(partial(self._update, batch, None, outcomes))
            if self._worker:
                self._worker.pause()
        self._drain()
        return outcomes.count("committed")

    def cut(self) -> None:
        """Seal the segments of the journal and the samples that are being written: what comes next is in others."""
        self._journal.close()
        self._samples.cut()

    def trace(self) -> bytes:
        """What the program recorded since the last call, as ETDump; only with `Settings.trace`."""
        return self._core.programs.trace()

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
            count = self._journalled.count
            saw = count.samples + count.damaged
            if self._since_checkpoint or (saw and self._place != self._saved):
                self._checkpoint(journal.Checkpoint.END)
            count.reason = reason
            self._note(count)

    def abandon(self) -> None:
        """End as a power cut would: what was answered and learned since the last sync and checkpoint is lost."""
        self._open = False
        with self._stack:
            if self._worker:
                self._worker.close()
            self._journal.abandon()
            self._samples.abandon()

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

    def _offer(self, batch: Batch, state: State) -> bool:
        """Learn from a batch whose last sample this state answered, unless it is not the time; whether it is."""
        if self.operations.held:
            self._core.learning.skip(guard.HELD, f"samples {batch.first_seq} to {batch.last_seq}", batch, state)
            return False
        if self._journal.full:
            detail = f"samples {batch.first_seq} to {batch.last_seq}: the journal is full; pull it: edgecl pull"
            self._core.learning.skip(guard.FULL, detail, batch, state)
            return False
        place = Place(source=self._place.source, position=self._next)
        job = partial(self._update, batch, place, [])
        if self._settings.wait or not self._worker:
            self._insist(job)
        elif not self._worker.offer(job):
            detail = f"samples {batch.first_seq} to {batch.last_seq}: learning is behind"
            self._core.learning.skip(guard.BUSY, detail, batch, state)
            return False
        return True

    def _insist(self, job: Callable[[], object]) -> None:
        """Do a job: now, or behind the caller's back, who is to `pause` then."""
        if self._worker:
            self._worker.insist(job)
        else:
            job()

    def _update(self, batch: Batch, place: Place | None, outcomes: list[Outcome]) -> None:
        """Learn from a batch; `place` is where its source goes on. What came of it is added to `outcomes`."""
        outcome = self._core.learning.update(batch)
        outcomes.append(outcome)
        self._place = place or self._place
        self._since_checkpoint += outcome != "skipped"
        if self._since_checkpoint >= self._settings.checkpoint_every or outcome == "rolled back":
            self._checkpoint(journal.Checkpoint.SCHEDULE)  # at once then: no crash may bring the bad state back

    def _checkpoint(self, cause: journal.Checkpoint.Cause.ValueType) -> None:
        """What a checkpoint has learned is in the journal before it is on the disk, and the samples before that."""
        learned = self._core.learned(self._place)
        self._sync()
        number, path = self._checkpoints.write(learned, self._core.parts())
        self._note(records.checkpoint(learned, cause, number, path.name))
        self.checkpoint = path
        self._saved, self._since_checkpoint = learned.place, 0

    def _later(self, job: Callable[[], object]) -> None:
        """Do a small job behind the updates that are under way."""
        if self._worker:
            self._worker.also(job)
        else:
            with self._turn:
                job()

    def _drain(self) -> None:
        """Wait until nothing is left to be learned."""
        if self._worker:
            self._worker.drain()

    def _sync_sometimes(self) -> None:
        if self._clock.monotonic_ns() - self._synced_ns >= SYNC_NS:
            self._synced_ns = self._clock.monotonic_ns()
            self._journalled.see_to_clock()
            self._later(self._sync)  # an answer does not wait for the disk

    def _sync(self) -> None:
        self._samples.sync()
        self._journal.sync()
        self._synced_ns = self._clock.monotonic_ns()

    def _keep(
        self, seq: int, position: int, x: npt.NDArray[Any], y: int | None, domain: int, *, learned: bool = False
    ) -> None:
        for dropped in self._samples.keep(seq, position, x, y, domain, learned=learned):
            self._note(dropped)

    def _check_open(self) -> None:
        if not self._open:
            raise ProgramError("the loop is closed; open it again")
        if self._worker:
            self._worker.check()
