"""One run again: the board's own core, with the journal in the place of time, threads and people.

The thread that answers is followed record by record. What it hands to the one that learns waits in a queue, as on the
board, and is done when the journal says that it was: before an answer that had seen so many changes, or when a record
of an earlier moment tells of it. What people asked for, and what the moment decided (no memory, no time, a pause), is
taken from the journal; everything else is computed, and must come out as recorded.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl import guard, journal, samples
from edgecl.bundle import Bundle
from edgecl.checkpoints import Place, Resumed
from edgecl.core import Around, Core
from edgecl.errors import EdgeclError
from edgecl.journal import Checkpoint, Class, Damaged, Domain, Guard, Label, Prediction, Record, Run, Update
from edgecl.learning import Batch
from edgecl.records import checkpoint, kept
from edgecl.settings import Settings
from edgecl.state import State
from edgecl.view import View, Views
from firmware_host.replay.compare import Comparison, DivergenceError, same
from firmware_host.replay.lanes import Lanes
from firmware_host.replay.recording import Tape

Kept = Callable[[Core, Checkpoint], None]
"""Gets every checkpoint, with the core as it is in it."""


class MissingError(EdgeclError):
    """A sample that is needed is not there."""


class ReachedError(Exception):
    """What was wanted has been found."""


class _CutError(Exception):
    """The journal has no more of this thread."""


class Past(Views):
    """Every view that an answer may still ask for: the thread that learns may be ahead of it."""

    def __init__(self, watch: Callable[[View], object]) -> None:
        """`watch` gets every view."""
        super().__init__()
        self._watch = watch
        self._views = deque([self.now])
        self.wanted = 0
        self.learn: Callable[[], bool] = lambda: False
        """Does what the thread that learns did next; False where that was nothing more."""

    def change(self, **parts: Any) -> None:
        super().change(**parts)
        self._views.append(self.now)
        self._watch(self.now)

    def seen(self) -> View:
        while self.now.number < self.wanted and self.learn():
            pass
        while len(self._views) > 1 and self._views[0].number < self.wanted:
            self._views.popleft()
        return self._views[0]


class Rerun:
    """One run; `to_end` goes through it."""

    def __init__(
        self,
        bundle: Bundle,
        run: Run,
        settings: Settings,
        resumed: Resumed | None,
        lanes: Lanes,
        tape: Tape,
        comparison: Comparison,
        *,
        checkpointed: Kept,
        watch: Callable[[View], object],
    ) -> None:
        """Raises DivergenceError: it starts from something else than the board did. EdgeclError."""
        self._lanes, self._tape, self._comparison, self._checkpointed = lanes, tape, comparison, checkpointed
        self._queue: deque[Batch | Callable[[], object]] = deque()
        self._past, self._cut = Past(watch), False
        self.answers = 0
        """That were compared."""
        self.updates = 0
        self.unchecked = 0
        """Answers at the end of a killed run whose samples were not on the disk yet."""
        around = Around(
            note=self._note,
            later=self._queue.append,
            settled=self._settled,
            crowded=self._crowded,
            now_ns=lambda: 0,
        )
        self.core = Core(bundle, settings, resumed, around, self._past)
        self._past.learn = lambda: self._learn() or self.settle_one()
        self._state: State | None = None
        self._classes = len(self.core.manifest.classes)
        self.core.seq = run.seen
        try:
            self._check_start(run)
        except DivergenceError:
            self.core.close()
            raise

    def to_end(self) -> None:
        """Follow the run as far as its journal goes. Raises EdgeclError and the errors of this module."""
        with contextlib.suppress(_CutError):
            while record := self._lanes.answer():
                self._answer(record)
        while self._learn():
            pass
        left = [one for one in self._queue if isinstance(one, Batch)]
        if left and self._lanes.ended:
            self.core.learning.update(left[0])  # the board did not, so it is told as a difference

    def settle_one(self) -> bool:
        """Do what waits first in the queue though its record was lost in a crash; whether there was something."""
        job = self._queue[0] if self._queue else None
        if job is None or isinstance(job, Batch):
            return False
        self._queue.popleft()
        with contextlib.suppress(_CutError):
            job()
        return True

    def close(self) -> None:
        """Free the programs."""
        self.core.close()

    # the thread that answers

    def _answer(self, record: Record) -> None:
        if isinstance(record, Damaged):
            self._lanes.take_answer()
        elif isinstance(record, Guard):
            self._pass_over(record)
        elif isinstance(record, Domain) and record.asked:
            self._lanes.take_answer()
            self._change_bank(record)
        else:
            self._predict()

    def _predict(self) -> None:
        told = self._lanes.prediction()
        if not told:  # the journal ends within an answer
            while self._lanes.answer():
                self._lanes.take_answer()
            return
        if not told.HasField("changes"):
            raise MissingError("it was recorded by an edgecl that did not say which state answered")
        sample = self._tape.find(told.seq)
        if sample is None:
            self._without_sample(told)
            return
        if not self._tape.unanswered(self.core.seq, told.seq):
            raise MissingError(f"the answers to samples {self.core.seq} to {told.seq - 1} are not in the journal")
        x = self.core.preprocess.check(samples.array(sample))
        self.core.seq, self._past.wanted = told.seq, told.changes
        y = sample.y if sample.HasField("y") else None
        answer, seen = self.core.answer(x, position=sample.position, y=y, start_ns=0)
        self._state = seen.state
        if batch := self.core.domains.collect(seen.domain, x, answer.seq):
            self._queue.append(batch)
        self.answers += 1
        while self._lanes.learn_before(told.stamp.sequence) and self._learn():
            pass

    def _without_sample(self, told: Prediction) -> None:
        """Raises MissingError, unless the run was killed before the sample was on the disk."""
        first = self._tape.first
        if first is None:
            raise MissingError("no samples were kept; a run keeps them with --keep")
        if told.seq < first:
            raise MissingError(f"sample {told.seq} is not kept: the quota dropped those before {first}")
        kept_later = False
        while record := self._lanes.answer():
            if isinstance(record, Prediction):
                self.unchecked += 1
                kept_later = kept_later or self._tape.find(record.seq) is not None
            self._lanes.take_answer()
        if kept_later or self._lanes.ended or self._lanes.hole:
            raise MissingError(f"sample {told.seq} is not kept")

    def _pass_over(self, record: Guard) -> None:
        """The last batch was not learned from, for want of time or because of a pause."""
        batch = self._queue.pop() if self._queue else None
        if not isinstance(batch, Batch):
            raise DivergenceError(record, None)
        self.core.learning.skip(record.reason, record.detail, batch, self._state)

    def _change_bank(self, record: Domain) -> None:
        """Somebody changed the bank."""
        bank = self.core.domains.known
        if record.domain not in bank or (record.HasField("other") and record.other not in bank):
            raise DivergenceError(record, None)
        if record.what == Domain.RENAMED:
            self.core.domains.rename(record.domain, record.name)
        elif record.what == Domain.DROPPED:
            self.core.domains.drop(record.domain)
        else:
            self.core.domains.merge(record.other, record.domain)

    # the thread that learns

    def _learn(self) -> bool:
        """Do what brings about its next record; False where there is none."""
        record = None if self._cut else self._lanes.learn()
        if not record:
            return False
        try:
            self._bring_about(record)
        except _CutError:
            self._cut = True
        return not self._cut

    def _bring_about(self, record: Record) -> None:
        if isinstance(record, Checkpoint) and record.cause != Checkpoint.BANK:
            self._lanes.take_learn()
            self._check_checkpoint(record)
        elif isinstance(record, Label):
            self._teach()
        elif isinstance(record, Class):
            self.core.add_class(record.name)
        elif isinstance(record, Update) and record.kind == Update.LEARN:
            self.core.learning.update(self._labelled(record))
        elif isinstance(record, Guard) and record.reason == guard.MEMORY and not self._is_next(record):
            self._lanes.take_learn()  # a batch with labels at hand, of which nothing was learned
        else:
            self._work(record)

    def _work(self, record: Record) -> None:
        """Do what waits first in the queue, and before that what leaves no record. Raises DivergenceError."""
        before = self._lanes.learned
        while self._queue:
            job = self._queue.popleft()
            if isinstance(job, Batch):
                self.core.learning.update(job)
            else:
                job()
            if self._lanes.learned > before:
                return
        raise DivergenceError(record, None)

    def _is_next(self, record: Guard) -> bool:
        batches = (one for one in self._queue if isinstance(one, Batch))
        batch = next(batches, None)
        return batch is not None and (batch.first_seq, batch.last_seq) == (record.first_seq, record.last_seq)

    def _crowded(self) -> str:
        """Whether the board had no memory for the update that comes next: that is a fact of its moment."""
        record = self._lanes.learn()
        return record.detail if isinstance(record, Guard) and record.reason == guard.MEMORY else ""

    def _teach(self) -> None:
        given = []
        for label in self._lanes.labels():
            sample = self._tape.find(label.seq)
            if sample is None:
                raise MissingError(f"sample {label.seq}, which was given a label, is not kept any more")
            given.append((sample, label.y))
        self.core.teach(given)

    def _labelled(self, record: Update) -> Batch:
        """The batch of an update that was learned from with labels at hand. Raises MissingError."""
        found: list[npt.NDArray[Any]] = []
        labels: list[int] = []
        for seq in range(record.first_seq, record.last_seq + 1):
            sample = self._tape.find(seq)
            if sample is None:
                raise MissingError(f"sample {seq}, which was learned from with its label, is not kept")
            found.append(self.core.preprocess.check(samples.array(sample)))
            labels.append(sample.y)
        rows = np.zeros((self.core.manifest.method("learn").batch, self._classes), np.float32)
        rows[np.arange(len(found)), labels] = 1
        filled = [found[place % len(found)] for place in range(len(rows))]
        return Batch(filled, record.first_seq, record.last_seq, record.domain, rows)

    def _settled(self) -> None:
        record = self._lanes.learn()
        if record is None:
            raise _CutError
        self._lanes.take_learn()
        if not isinstance(record, Checkpoint):
            raise DivergenceError(record, self._checkpoint(Checkpoint.BANK))
        self._check_checkpoint(record)

    # comparing

    def _note(self, record: Record) -> None:
        """What the core journals is what the board did."""
        recorded = self._lanes.take(record)
        if recorded is None:
            if self._lanes.ended:
                raise DivergenceError(None, record)
            raise _CutError
        self._comparison.check(recorded, record)
        self.updates += isinstance(record, Update)

    def _checkpoint(self, cause: Checkpoint.Cause.ValueType) -> Checkpoint:
        return checkpoint(self.core.learned(Place()), cause, 0, "")

    def _check_checkpoint(self, record: Checkpoint) -> None:
        self._comparison.check(record, self._checkpoint(record.cause))
        self._checkpointed(self.core, record)

    def _check_start(self, run: Run) -> None:
        learned = self.core.learned(Place())
        if run.domains and not same(run.domains, kept(learned)):
            mine = journal.Run()
            mine.CopyFrom(run)
            del mine.domains[:]
            mine.domains.extend(kept(learned))
            mine.digest, mine.step = learned.states[learned.active].digest, learned.states[learned.active].step
            self._comparison.check(run, mine)


def settings_of(run: Run) -> Settings:
    """The settings that a run was started with, which its journal tells."""
    every = {setting.name: setting.value for setting in run.settings}
    return Settings(
        hyper={name.removeprefix("hyper."): float(text) for name, text in every.items() if name.startswith("hyper.")},
        sync=every.get("sync") == "True",
        wait=every.get("wait") == "True",
        checkpoint_every=int(every.get("checkpoint_every", "10")),
        budget_bytes=0,
        seed=run.seed,
        threads=run.threads,
        domains=int(every.get("domains", "1")),
        hysteresis=int(every.get("hysteresis", "8")),
        keep_bytes=int(every.get("keep_bytes", "0")),
        rehearsal_bytes=int(every.get("rehearsal_bytes", "0")),
        rehearse=int(every.get("rehearse", "0")),
        engine=every.get("engine", "executorch"),
    )
