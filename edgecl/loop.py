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
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import __version__, _runtime, checkpoints, disk, guard, journal, selftest, shift
from edgecl.answer import Answer, answer_of
from edgecl.bank import SOURCE, Bank, source_bank
from edgecl.bundle import Bundle, open_bundle, read_detector, read_head, read_router
from edgecl.checkpoints import Learned, Place
from edgecl.clock import SystemClock, boot_id
from edgecl.domains import Domains
from edgecl.errors import EdgeclError, ProgramError, StoreError
from edgecl.here import check_here
from edgecl.learning import Batch, Learning, Outcome
from edgecl.manifest import Calibration, Manifest
from edgecl.operations import Doing, Operations
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.router import Router, Turn
from edgecl.samples import Samples
from edgecl.settings import SettingError, Settings, hyper_values
from edgecl.shift import Watch
from edgecl.signature import Signatures
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
        source: str = "",
        again: bool = False,
        clock: journal.Clock | None = None,
        on_record: Callable[[journal.Record], None] | None = None,
    ) -> None:
        """Open a bundle, and go on from what an earlier run learned in this state directory.

        `source` names where the samples come from: `place` is where an earlier run got to in it, or its start when it
        is to be run through `again`. `on_record` gets every record as it is journalled, from any thread, and may not
        call the loop.

        Raises SettingError, StoreError, BundleError, ProgramError, JournalError; nothing is left open then.
        """
        self._settings, self._clock, self._on_record = settings, clock or SystemClock(), on_record
        self._order = threading.Lock()
        self._count = journal.End()
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkpoints.owned(state_directory))
            self.bundle = stack.enter_context(_cached(path, state_directory / "cache"))
            self.manifest = manifest = self.bundle.manifest
            check_here(manifest)
            hyper = hyper_values(manifest.learner, settings.hyper)
            selftest.once(self.bundle, state_directory / "tested", engine=settings.engine)
            signatures, source_domain = _router_of(self.bundle)
            most = _domains(settings, manifest)
            self._checkpoints = checkpoints.Checkpoints(state_directory / "learned" / manifest.lineage)
            self.resumed = self._checkpoints.newest(manifest.layout)
            learned = self.resumed.learned if self.resumed else None
            self.checkpoint = self.resumed.path if self.resumed else None
            self._place = _place(learned, source, again)
            self._samples = stack.enter_context(
                Samples(
                    state_directory / "samples",
                    quota_bytes=settings.keep_bytes,
                    boot=boot_id(),
                    clock=self._clock,
                )
            )
            losses = [*journal.recover(state_directory / "journal"), *self._samples.losses]
            self._seq = journal.next_seq(state_directory / "journal")
            self._programs = stack.enter_context(
                Programs(self.bundle, engine=settings.engine, threads=settings.threads, trace=settings.trace)
            )
            self._load()
            budget = manifest.memory_budget_bytes if settings.budget_bytes is None else settings.budget_bytes
            self._learning = Learning(
                self.bundle,
                self._programs,
                learned.states if learned else {},
                hyper=hyper,
                seed=settings.seed,
                budget_bytes=budget,
                now_ns=self._clock.monotonic_ns,
                note=self._note,
            )
            bank = learned.bank if learned else source_domain
            router = None
            if most > 1:
                assert manifest.router
                record = msgspec.structs.replace(manifest.router, domains=most)
                active = learned.active if learned else SOURCE
                router = Router(record, bank, hysteresis=settings.hysteresis, active=active)
            self._worker: Worker | None = None
            self._teaching = Teaching(
                manifest,
                read_head(self.bundle),
                self.resumed,
                seed=settings.seed,
                budget_bytes=settings.rehearsal_bytes,
            )
            self._domains = Domains(
                manifest,
                self._programs,
                self._learning,
                self._teaching,
                bank,
                router=router,
                signatures=signatures,
                rests=learned.active if learned else SOURCE,
                later=self._later,
                settled=self._checkpoint,
            )
            self._seq = max(self._seq, *(self._learning[domain.number].seen for domain in bank.domains))
            self._journal = stack.enter_context(
                journal.Journal(state_directory / "journal", boot=boot_id(), clock=self._clock)
            )
            for loss in losses:
                self._note(loss)
            self._note(self._run_record(source, hyper, budget))
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
            ),
            rehearse=settings.rehearse,
        )
        self._preprocess = Preprocess(manifest.input)
        self._detector = read_detector(self.bundle)
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
            seen = self._domains.see(self._preprocess.batch([x]))
            for turn in seen.turns:
                self._turned(turn)
            likeness = self._detector(seen.taps) if self._detector else None
            answer = answer_of(self._seq, seen.logits, self._teaching.names, likeness, self._domains.name(seen.domain))
            prediction = journal.Prediction(
                seq=answer.seq,
                label=answer.index,
                confidence=answer.confidence,
                entropy=answer.entropy,
                step=seen.state.step,
                position=position,
                y=y,
                similarity=answer.similarity,
                novel=answer.novel,
                domain=seen.domain,
                latency_ns=self._clock.monotonic_ns() - start_ns,
            )
            self._note(prediction)
            if likeness and self.manifest.detector:
                look = shift.look(self.manifest.detector.calibration, likeness.similarity)
                if changed := self._watch.note(look):
                    self._note(journal.Shift(seq=answer.seq, **asdict(changed)))
            self._samples.keep(answer.seq, position, x, y, seen.domain)
            self._seq += 1
            self._next = position + 1
        if batch := self._domains.collect(seen.domain, x, answer.seq):
            self._offer(batch)
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
        Raises BundleError: the bundle cannot learn from labels. ProgramError: the samples or labels do not fit it.
        """
        self._check_open()
        method = self.manifest.method("learn")
        samples, labels = self._labelled(x, y)
        outcomes: list[Outcome] = []
        for start in range(0, len(samples), method.batch):
            some, classes = samples[start : start + method.batch], labels[start : start + method.batch]
            rows = np.zeros((method.batch, len(self.manifest.classes)), np.float32)  # all zero: leave the sample out
            rows[np.arange(len(some)), classes] = 1
            padded = [some[i % len(some)] for i in range(method.batch)]
            batch = Batch(padded, self._seq, self._seq + len(some) - 1, self._domains.active, rows)
            self._seq += len(some)
            self._do(partial(self._update, batch, None, outcomes), wait=True)
        self._drain()
        return outcomes.count("committed")

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

    def _load(self) -> None:
        """Load what every run needs, so that it cannot fail later. The largest method first."""
        manifest, settings = self.manifest, self._settings
        infer = manifest.method("infer", 1)
        adapting = (manifest.method("adapt"), manifest.method("infer")) if manifest.has("adapt") else ()
        if settings.sync:
            self._programs.load(*adapting, infer)
        else:
            self._programs.load(infer, isolated=True)
            self._programs.load(*adapting)

    def _offer(self, batch: Batch) -> None:
        place = Place(source=self._place.source, position=self._next)
        if not self._do(partial(self._update, batch, place, []), wait=self._settings.wait):
            detail = f"samples {batch.first_seq} to {batch.last_seq}: learning is behind"
            self._learning.skip(guard.BUSY, detail, batch.domain)

    def _turned(self, turn: Turn) -> None:
        """Journal where the stream has come to."""
        self._note(
            journal.Domain(
                event=_EVENTS[turn.event],
                seq=self._seq,
                domain=turn.domain,
                name=self._domains.name(turn.domain),
                other=turn.other,
            )
        )

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
        place, bank, active = self._place, self._domains.bank, self._domains.here
        states = {domain.number: self._learning[domain.number] for domain in bank.domains}
        self._sync()
        learned = Learned(
            bundle=self.bundle.id,
            place=place,
            bank=bank,
            states=states,
            active=active,
            added=self._teaching.added,
            tries=self._teaching.tries(),
        )
        number, path = self._checkpoints.write(learned, self._teaching.parts())
        state = states[active]
        self._note(
            journal.Checkpoint(
                number=number,
                step=state.step,
                seen=state.seen,
                digest=state.digest,
                file=path.name,
                domains=[
                    journal.Kept(domain=d.number, name=d.name, step=kept.step, digest=kept.digest)
                    for d, kept in zip(bank.domains, states.values(), strict=True)
                ],
            )
        )
        self.checkpoint = path
        self._saved, self._since_checkpoint = place, 0

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
            self._later(self._sync)  # an answer does not wait for the disk

    def _sync(self) -> None:
        self._journal.sync()
        self._synced_ns = self._clock.monotonic_ns()

    def _note(self, record: journal.Record) -> None:
        with self._order:
            self._journal.append(record)
            count = self._count
            count.samples += isinstance(record, journal.Prediction)
            count.damaged += isinstance(record, journal.Damaged)
            count.updates += isinstance(record, journal.Update) and record.committed
            count.refused += isinstance(record, journal.Guard)
            if self._on_record:
                self._on_record(record)

    def _check_open(self) -> None:
        if not self._open:
            raise ProgramError("the loop is closed; open it again")
        if self._worker:
            self._worker.check()

    def _labelled(
        self, x: npt.NDArray[Any], y: int | Sequence[int] | npt.NDArray[np.integer[Any]]
    ) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.int64]]:
        """Samples and labels, both as many. Raises ProgramError."""
        if x.shape == self.manifest.input.shape:
            x = x[None]
        labels, classes = np.atleast_1d(np.asarray(y)), len(self.manifest.classes)
        if labels.shape != (len(x),) or (len(x) and labels.dtype.kind not in "iu"):
            raise ProgramError(f"labels: {labels.dtype}{list(labels.shape)}, not {len(x)} integers; give one a sample")
        if len(x) and (labels.min() < 0 or labels.max() >= classes):
            raise ProgramError(f"labels: {labels.min()} to {labels.max()}, the bundle has {classes} classes")
        return [self._preprocess.check(sample) for sample in x], labels.astype(np.int64)

    def _run_record(self, source: str, hyper: dict[str, float], budget_bytes: int) -> journal.Run:
        settings, manifest = self._settings, self.manifest
        told = {
            **{f"hyper.{name}": value for name, value in hyper.items()},
            "sync": settings.sync,
            "wait": settings.wait,
            "checkpoint_every": settings.checkpoint_every,
            "budget_bytes": budget_bytes,
            "engine": settings.engine,
            "domains": _domains(settings, manifest),
            "hysteresis": settings.hysteresis,
            "keep_bytes": settings.keep_bytes,
            "rehearsal_bytes": settings.rehearsal_bytes,
            "rehearse": settings.rehearse,
        }
        return journal.Run(
            bundle=self.bundle.id,
            name=manifest.name,
            learner=manifest.learner.name,
            settings=[journal.Setting(name=name, value=str(value)) for name, value in told.items()],
            seed=settings.seed,
            threads=settings.threads,
            edgecl=__version__,
            executorch=_runtime.EXECUTORCH_VERSION,
            arch=os.uname().machine,
            digest=self.state.digest,
            step=self.state.step,
            seen=self._seq,
            source=source,
            added=self._teaching.added,
            domain=self._domains.active,
        )


def _cached(path: Path, cache: Path) -> Bundle:
    """The bundle, and no other, in the cache of a state directory."""
    bundle = open_bundle(path, cache=cache)
    try:
        for other in cache.iterdir():
            if other.name != bundle.id:
                disk.remove(other)
    except OSError as error:
        raise StoreError(f"{cache}: {error.strerror or error}; give another --state") from None
    return bundle


def _place(learned: Learned | None, source: str, again: bool) -> Place:
    if learned and learned.place.source == source and not again:
        return learned.place
    return Place(source=source)


def _router_of(bundle: Bundle) -> tuple[Signatures | None, Bank]:
    """What makes signatures, and the bank as built, of which a bundle without a router has the source alone."""
    if found := read_router(bundle):
        assert bundle.manifest.router
        record, features = bundle.manifest.router, bundle.manifest.features
        return found.signatures, source_bank(record.calibration, found.prototype, features)
    nothing = Calibration(threshold=-1.0, mean=0.0, deviation=1.0, drift=1.0)
    return None, source_bank(nothing, np.zeros(0, np.uint8), bundle.manifest.features)


def _domains(settings: Settings, manifest: Manifest) -> int:
    """How many the bank may hold. Raises SettingError."""
    if settings.domains is None:
        return manifest.router.domains if manifest.router else 1
    if settings.domains > 1 and not manifest.router:
        raise SettingError(f"domains {settings.domains}: {manifest.name} names no taps to tell them by; give 1")
    return settings.domains


_EVENTS: Final = {
    "began": journal.Domain.BEGAN,
    "founded": journal.Domain.FOUNDED,
    "returned": journal.Domain.RETURNED,
    "refused": journal.Domain.REFUSED,
    "merged": journal.Domain.MERGED,
    "entered": journal.Domain.ENTERED,
}
