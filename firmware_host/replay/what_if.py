"""Other settings on the stream of a board: every sample is decoded once, and answered by all of them in turn.

Tries of one bundle share its programs, and what those have just computed.

A try learns from each batch at once, as with `--sync`: how busy a board was is not its settings' doing. It is not
stopped when the board was. Labels, classes and changes of domains come to it where they came to the board.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import journal, samples
from edgecl.bundle import Bundle
from edgecl.core import Around, Core
from edgecl.errors import EdgeclError, ProjectError
from edgecl.journal import Checkpoint, Class, Domain, Guard, Label, Prediction, Record, Run, Update
from edgecl.learning import Batch
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.settings import Settings, hyper_values
from edgecl.view import Views
from firmware_host.replay.bundles import Bundles, missing
from firmware_host.replay.lanes import learning
from firmware_host.replay.recording import Hole, Recording, Tape, records
from firmware_host.replay.remembering import Remembering
from firmware_host.replay.rerun import MissingError, settings_of

PARTS: Final = 10
"""That the stream is divided in, to see how accuracy went."""
MAX_FILE_BYTES: Final = 1 << 20
UNCHANGED: Final = "unchanged"


class Try(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One what-if. What is not given is as the board had it."""

    name: str
    bundle: str = ""
    """Path, from where the file is, or id."""
    hyper: dict[str, float] = {}
    guard: dict[str, float] = {}
    seed: int | None = None
    domains: int | None = None
    hysteresis: int | None = None
    rehearse: int | None = None
    rehearsal_bytes: int | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tries: tuple[Try, ...] = msgspec.field(name="try")


@dataclass
class Result:
    """What became of one try, or of the board."""

    name: str
    answers: int = 0
    known: int = 0
    """Answers to samples whose label is known."""
    right: int = 0
    agreeing: int = 0
    """Answers that are the board's."""
    entropy: float = 0.0
    """Mean, nats."""
    updates: int = 0
    """Committed."""
    refused: int = 0
    """Dropped or taken back by the guard."""
    domains: int = 0
    passed_over: int = 0
    """Labels and changes that meant nothing here: another class, another domain."""
    seconds: float = 0.0
    parts: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(PARTS)])
    """Known and right, in equal parts of the stream."""

    @property
    def accuracy(self) -> float | None:
        """Where labels are known."""
        return self.right / self.known if self.known else None


def read(path: Path) -> tuple[Try, ...]:
    """The tries of a file. Raises ProjectError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ProjectError(f"{path}: too large for what-ifs")
        tries = msgspec.toml.decode(path.read_bytes(), type=_File).tries
    except OSError as error:
        raise ProjectError(f"{path}: {error.strerror}; give a file of what-ifs") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path}: {error}; see docs/guide/replay.md") from None
    names = [one.name for one in tries]
    if not names or len(set(names)) < len(names) or UNCHANGED in names:
        raise ProjectError(f"{path}: give one or more [[try]], each with a name of its own that is not {UNCHANGED!r}")
    return tries


class _Trial:
    """A core that learns at once, and what became of it."""

    def __init__(self, name: str, bundle: Bundle, settings: Settings, programs: Programs) -> None:
        self.result = Result(name)
        self._label, self._refused = 0, False
        around = Around(
            note=self._note,
            later=_now,
            settled=lambda: None,
            crowded=lambda: "",
            now_ns=lambda: 0,
        )
        self.core = Core(bundle, settings, None, around, Views(), programs)

    def answer(self, x: npt.NDArray[Any], sample: journal.Sample, label: int, truth: str, part: int) -> None:
        """Answer a sample, and learn where that makes a batch."""
        start = time.perf_counter()
        self.core.seq = sample.seq
        answer, seen = self.core.answer(x, position=sample.position, y=None, start_ns=0)
        if batch := self.core.domains.collect(seen.domain, x, answer.seq):
            self.core.learning.update(batch)
        result = self.result
        result.answers += 1
        result.entropy += (answer.entropy - result.entropy) / result.answers
        result.agreeing += answer.index == label
        if truth:
            result.known += 1
            result.right += answer.label == truth
            result.parts[part][0] += 1
            result.parts[part][1] += answer.label == truth
        result.seconds += time.perf_counter() - start

    def do(self, job: Callable[[Core], object]) -> None:
        """Something that was asked of the board, where it means something here."""
        start = time.perf_counter()
        try:
            job(self.core)
        except (KeyError, ValueError, EdgeclError):
            self.result.passed_over += 1
        self.result.seconds += time.perf_counter() - start

    def close(self) -> Result:
        self.result.domains = len(self.core.domains.bank.domains)
        self.core.close()
        return self.result

    def _note(self, record: Record) -> None:
        self.result.updates += isinstance(record, Update) and record.committed
        self.result.refused += isinstance(record, Guard)


@dataclass(frozen=True)
class _Known:
    """What a first look at a journal found."""

    answers: int
    labels: Mapping[int, str]
    """By sample, the name of its class."""
    first: Run


def what_if(recording: Recording, tries: Sequence[Try], bundles: Bundles, *, folder: Path) -> list[Result]:
    """The board's own answers, the same settings again, and all tries; `folder` is where their paths begin.

    Raises EdgeclError: a bundle or a sample is missing, or a try has a setting that it cannot have.
    """
    known = _look(recording)
    bundle = bundles.find(known.first.bundle)
    if not bundle:
        raise EdgeclError(missing(known.first, recording.name))
    board = Result("the board")
    trials: list[_Trial] = []
    with contextlib.ExitStack() as stack:
        shared: dict[str, Programs] = {}
        for one in (Try(name=UNCHANGED), *tries):
            own = _bundle(one, bundle, bundles, folder)
            settings = _settings(one, settings_of(known.first), own)
            if own.id not in shared:
                remembering = Remembering(own, engine=settings.engine, threads=settings.threads)
                shared[own.id] = stack.enter_context(remembering)
            trials.append(_Trial(one.name, own, settings, shared[own.id]))
        _Stream(recording, known, bundle, board, trials).to_end()
        return [board, *(trial.close() for trial in trials)]


class _Stream:
    """Goes through a journal and tells all trials."""

    def __init__(
        self, recording: Recording, known: _Known, bundle: Bundle, board: Result, trials: list[_Trial]
    ) -> None:
        self._recording, self._known, self._board, self._trials = recording, known, board, trials
        self._names = list(bundle.manifest.classes)
        self._preprocess = Preprocess(bundle.manifest.input)
        self._tape = Tape(recording.samples, frozenset(known.labels))
        self._labels: list[Label] = []
        self._teaching = False

    def to_end(self) -> None:
        for record in records(self._recording.segments):
            if isinstance(record, Hole):
                continue  # answers that were not journalled; the stream goes on behind them
            if learning(record) and not isinstance(record, Label):
                self._teach()
            if isinstance(record, Prediction):
                self._answer(record)
            elif isinstance(record, Label):
                self._labels.append(record)
                self._teaching = True
            elif isinstance(record, Class):
                self._names.append(record.name)
                self._all(partial(_add_class, name=record.name))
            elif isinstance(record, Checkpoint):
                self._teaching = False
            elif isinstance(record, Domain) and record.asked:
                self._all(partial(_change, record=record))
            elif isinstance(record, Update) and record.kind == Update.LEARN and not self._teaching:
                self._learn(record)
            if isinstance(record, Update):
                self._board.updates += record.committed
            elif isinstance(record, Run):
                self._board.domains = len(record.domains)
                self._labels, self._teaching = [], False
            elif isinstance(record, Checkpoint):
                self._board.domains = len(record.domains)
            self._board.refused += isinstance(record, Guard)

    def _answer(self, record: Prediction) -> None:
        sample = self._tape.find(record.seq)
        if sample is None:
            return  # dropped by the quota, or lost in a crash
        x = self._preprocess.check(samples.array(sample))
        truth = self._known.labels.get(record.seq, "")
        if not truth and sample.HasField("y") and sample.y < len(self._names):
            truth = self._names[sample.y]
        board, part = self._board, self._board.answers * PARTS // max(1, self._known.answers)
        board.answers += 1
        board.entropy += (record.entropy - board.entropy) / board.answers
        board.agreeing += 1
        if truth:
            right = record.label < len(self._names) and self._names[record.label] == truth
            board.known += 1
            board.right += right
            board.parts[part][0] += 1
            board.parts[part][1] += right
        for trial in self._trials:
            trial.answer(x, sample, record.label, truth, part)

    def _teach(self) -> None:
        """Labels that were given together are learned together."""
        given = [(sample, label.name) for label in self._labels if (sample := self._tape.find(label.seq))]
        self._labels = []
        if given:
            self._all(lambda core: core.teach([(sample, core.teaching.names.index(name)) for sample, name in given]))

    def _learn(self, record: Update) -> None:
        """Samples that were learned from with labels at hand."""
        found = [sample for seq in range(record.first_seq, record.last_seq + 1) if (sample := self._tape.find(seq))]
        if not found:
            return
        x = [self._preprocess.check(samples.array(sample)) for sample in found]

        def learn(core: Core) -> None:
            rows = np.zeros((core.manifest.method("learn").batch, len(core.manifest.classes)), np.float32)
            if len(rows) < len(x):
                raise ValueError("batches are smaller here")
            rows[np.arange(len(x)), [sample.y for sample in found]] = 1
            filled = [x[place % len(x)] for place in range(len(rows))]
            core.learning.update(Batch(filled, record.first_seq, record.last_seq, core.domains.active, rows))

        self._all(learn)

    def _all(self, job: Callable[[Core], object]) -> None:
        for trial in self._trials:
            trial.do(job)


def _look(recording: Recording) -> _Known:
    labels: dict[int, str] = {}
    answers, first = 0, None
    for record in records(recording.segments):
        if isinstance(record, Run):
            first = first or record
        elif isinstance(record, Label):
            labels[record.seq] = record.name
        answers += isinstance(record, Prediction)
    if first is None:
        raise EdgeclError(f"{recording.name}: no run begins in this journal; give its first segments too")
    if not recording.samples:
        raise MissingError(f"{recording.name}: no samples were kept; a run keeps them with --keep")
    return _Known(answers, labels, first)


def _bundle(one: Try, own: Bundle, bundles: Bundles, folder: Path) -> Bundle:
    """Raises EdgeclError."""
    bundle = own
    if one.bundle:
        path = folder / one.bundle
        found = bundles.open(path) if path.exists() else bundles.find(one.bundle)
        if not found:
            raise EdgeclError(f"what-if {one.name}: no bundle {one.bundle}; give its path, or its id and --bundles DIR")
        bundle = found
        if bundle.manifest.input != own.manifest.input:
            raise EdgeclError(f"what-if {one.name}: {one.bundle} takes other samples than the board has kept")
    if not one.guard:
        return bundle
    guard = bundle.manifest.guard
    unknown = one.guard.keys() - {entry.name for entry in msgspec.structs.fields(guard)}
    if unknown:
        raise EdgeclError(f"what-if {one.name}: a guard has no {', '.join(sorted(unknown))}; see docs/guide/guard.md")
    given = {name: int(value) if value.is_integer() else value for name, value in one.guard.items()}
    try:
        changed = msgspec.convert({**msgspec.structs.asdict(guard), **given}, type(guard))
    except msgspec.ValidationError as error:
        raise EdgeclError(f"what-if {one.name}: guard: {error}; see docs/guide/guard.md") from None
    return dataclasses.replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, guard=changed))


def _settings(one: Try, board: Settings, bundle: Bundle) -> Settings:
    """Raises SettingError."""
    own = {hyper.name for hyper in bundle.manifest.learner.hyper}
    same = {} if one.bundle else {name: value for name, value in (board.hyper or {}).items() if name in own}
    names = ("seed", "domains", "hysteresis", "rehearse", "rehearsal_bytes")
    given = {name: value for name in names if (value := getattr(one, name)) is not None}
    if one.bundle and not bundle.manifest.router and one.domains is None:
        given["domains"] = 1
    hyper = hyper_values(bundle.manifest.learner, {**same, **one.hyper})
    return replace(board, hyper=hyper, sync=True, **given)


def _now(job: Callable[[], object]) -> None:
    job()


def _add_class(core: Core, name: str) -> None:
    if name in core.teaching.names or not core.teaching.heads:
        raise ValueError("known, or there is no head to tell it")
    core.add_class(name)


def _change(core: Core, record: Domain) -> None:
    """Raises KeyError: there is no such domain here."""
    known = core.domains.known
    if record.domain not in known or (record.HasField("other") and record.other not in known):
        raise KeyError(record.domain)
    if record.what == Domain.RENAMED:
        core.domains.rename(record.domain, record.name)
    elif record.what == Domain.DROPPED:
        core.domains.drop(record.domain)
    else:
        core.domains.merge(record.other, record.domain)
