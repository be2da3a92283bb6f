"""What people ask of a loop besides answers: its domains and classes, and labels for samples that it has answered.

Every operation is done when its call returns, learned and in a checkpoint; or it raised, and what is on the disk is as
it was. Any thread may call. Answers go on meanwhile, but for moments.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from edgecl import disk, journal, state
from edgecl.bank import SOURCE
from edgecl.core import Core
from edgecl.errors import RequestError, StoreError
from edgecl.labels import Given, Labelled, Refused
from edgecl.learning import Outcome
from edgecl.samples import Samples

T = TypeVar("T")

MAX_NAME: int = 100
"""Characters in the name of a domain or a class."""
MAX_CLASSES: int = 4096


class DomainFacts(msgspec.Struct, frozen=True):
    """One domain of the bank."""

    number: int
    name: str
    active: bool
    """Whether the stream is in it."""
    step: int
    """Updates of its state."""
    labels: int
    """It was given."""
    answers: str
    """`program`, or `head` where that has proved better."""
    bytes: int
    """Its state, signatures and head on the disk, about."""
    digest: str
    """Of its state."""


class ClassFacts(msgspec.Struct, frozen=True):
    """One class."""

    index: int
    name: str
    added: bool
    """On this board; the others are the bundle's."""
    labels: int
    """That named it."""


@dataclass(frozen=True)
class Doing:
    """How an operation gets at the threads of a loop."""

    turn: threading.RLock
    """Held while a sample is answered."""
    later: Callable[[Callable[[], object]], None]
    """Does a job in the thread that learns."""
    drain: Callable[[], object]
    """Waits until that has nothing left to do."""
    checkpoint: Callable[[], object]
    """Only in the thread that learns."""
    note: Callable[[journal.Record], None]
    next_seq: Callable[[], int]
    check_room: Callable[[], None]
    """Raises RequestError: the journal has no room for a change."""


class Operations:
    """Of one open loop."""

    def __init__(self, core: Core, kept: Samples, doing: Doing) -> None:
        self._core, self._manifest, self._domains = core, core.manifest, core.domains
        self._learning, self._teaching, self._samples, self._doing = core.learning, core.teaching, kept, doing
        self._one = threading.Lock()
        self.held = False
        """While it is set, samples are answered and nothing is learned from them."""

    def snapshot(self) -> None:
        """Write a checkpoint now, of all that has been answered and learned before."""
        with self._one:
            self._teach(self._doing.checkpoint)

    # domains

    def domains(self) -> tuple[DomainFacts, ...]:
        """All of the bank, the source first."""
        with self._doing.turn:
            bank = self._domains.known
            active = self._domains.active if self._domains.routed else self._domains.here
        heads = self._teaching.parts().heads
        facts = []
        for domain in bank.domains:
            number, learned = domain.number, self._learning[domain.number]
            size = learned.theta.nbytes + learned.slots.nbytes + domain.founders.nbytes + domain.prototype.nbytes
            facts.append(
                DomainFacts(
                    number=number,
                    name=domain.name,
                    active=number == active,
                    step=learned.step,
                    labels=self._teaching.count(number),
                    answers="head" if self._teaching.answers(number) else "program",
                    bytes=size + domain.mean.nbytes + len(heads.get(number, b"")),
                    digest=learned.digest,
                )
            )
        return tuple(facts)

    def rename(self, name: str, to: str) -> None:
        """Give a domain another name. Raises RequestError."""
        _check_name(to, "domain")
        with self._one:
            number = self._number(name)
            if any(domain.name == to for domain in self._domains.known.domains) or to.isdecimal():
                raise RequestError(f"domain {to}: there is one of that name; give another")
            self._change(number, journal.Domain.RENAMED, lambda: self._domains.rename(number, to), name=to)

    def drop(self, name: str) -> None:
        """Forget a domain, its state and its labels. Raises RequestError: the source, or there is none of that name."""
        with self._one:
            number = self._number(name, keep=True)
            self._change(number, journal.Domain.DROPPED, lambda: self._domains.drop(number))

    def merge(self, name: str, other: str) -> None:
        """Make one domain of two; the earlier keeps its name. Raises RequestError."""
        with self._one:
            one, two = sorted((self._number(name, keep=True), self._number(other, keep=True)))
            if one == two:
                raise RequestError(f"domain {name}: give two different ones")
            self._change(two, journal.Domain.MERGED, lambda: self._domains.merge(one, two), other=one)

    def export(self, name: str, file: Path) -> None:
        """Write the state of a domain. Raises RequestError, StoreError."""
        number = self._number(name)
        if not file.name or not file.is_absolute():
            raise RequestError(f"{file}: not the absolute path of a file; give one")
        try:
            disk.replace(file, state.dump(self._learning[number]))
        except OSError as error:
            raise StoreError(f"{file}: {error.strerror}; give another file") from None

    # classes

    def classes(self) -> tuple[ClassFacts, ...]:
        """All of them, those of the bundle first."""
        counts = np.bincount(
            [known.label for known in self._teaching.known.values()], minlength=len(self._teaching.names)
        )
        return tuple(
            ClassFacts(index, name, index >= len(self._manifest.classes), int(counts[index]))
            for index, name in enumerate(self._teaching.names)
        )

    def add_class(self, name: str) -> int:
        """A class joins; its index. Raises RequestError: there is one of that name, or too many."""
        _check_name(name, "class")
        self._doing.check_room()
        with self._one:
            if name in self._teaching.names:
                raise RequestError(f"class {name}: there is one of that name; give another")
            if len(self._teaching.names) >= MAX_CLASSES:
                raise RequestError(f"class {name}: there are {MAX_CLASSES} already, and no more can be added")
            if not self._teaching.heads:
                raise RequestError(f"class {name}: {self._manifest.name} has no head to tell it; build it with one")

            def add() -> int:
                index = self._core.add_class(name)
                self._doing.checkpoint()
                return index

            return self._teach(add)

    # labels

    def label(self, given: Sequence[Given]) -> Labelled:
        """Learn labels of samples that were answered. Those that cannot be learned are told; the others are.

        Raises RequestError: the journal is full.
        """
        with self._one:
            self._doing.check_room()
            self._doing.drain()
            known = set(self._teaching.known)
            learnable, unchanged, refused = self._learnable(given)
            if not learnable:
                return Labelled(0, 0, unchanged, 0, refused)

            def learn() -> list[Outcome]:
                outcomes = self._core.teach(learnable)
                self._doing.checkpoint()
                return outcomes

            outcomes = self._teach(learn)
            corrected = sum(record.seq in known for record, _ in learnable)
            return Labelled(len(learnable), corrected, unchanged, outcomes.count("committed"), refused)

    def _learnable(self, given: Sequence[Given]) -> tuple[list[tuple[journal.Sample, int]], int, tuple[Refused, ...]]:
        """What can be learned, in the order given; how many labels are known already; what cannot be."""
        found = self._samples.find({one.seq for one in given})
        names = {name: index for index, name in enumerate(self._teaching.names)}
        learnable: dict[int, tuple[journal.Sample, int]] = {}
        refused, unchanged = [], 0
        for row, one in enumerate(given):
            record = found.get(one.seq)
            if one.name not in names:
                known = ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")
                refused.append(Refused(row, one.seq, f"no class {one.name!r}; there are {known}; or add it first"))
            elif record is None:
                why = "is not kept" if one.seq < self._doing.next_seq() else "was not answered yet"
                refused.append(Refused(row, one.seq, f"sample {one.seq} {why}; only samples kept can be learned"))
            else:
                before = self._teaching.known.get(one.seq)
                if before and before.label == names[one.name]:
                    unchanged += one.seq not in learnable
                    learnable.pop(one.seq, None)
                else:
                    learnable[one.seq] = record, names[one.name]
        return list(learnable.values()), unchanged, tuple(refused)

    # parts

    def _number(self, name: str, *, keep: bool = False) -> int:
        """Of a domain. Raises RequestError: there is none, or it is the source and `keep` says to keep that."""
        with self._doing.turn:
            try:
                number = self._domains.known.named(name).number
            except KeyError:
                have = ", ".join(domain.name for domain in self._domains.known.domains)
                raise RequestError(f"domain {name}: there is none of that name; there are {have}") from None
        if keep and number == SOURCE:
            raise RequestError(f"domain {name}: the source stays as it is; name another")
        return number

    def _change(
        self,
        number: int,
        what: journal.Domain.Event.ValueType,
        change: Callable[[], None],
        *,
        name: str = "",
        other: int | None = None,
    ) -> None:
        """Note a change of the bank, make it, and wait until it has settled. Raises RequestError."""
        self._doing.check_room()
        with self._doing.turn:
            name = name or self._domains.name(number)
            seq = self._doing.next_seq()
            self._doing.note(journal.Domain(what=what, seq=seq, domain=number, name=name, other=other, asked=True))
            change()
        self._doing.drain()

    def _teach(self, job: Callable[[], T]) -> T:
        """Do a job in the thread that learns, and wait for it; what it raises is raised here, and goes no further."""
        done: list[T] = []
        failed: list[Exception] = []

        def guarded() -> None:
            try:
                done.append(job())
            except Exception as error:
                failed.append(error)

        self._doing.later(guarded)
        self._doing.drain()
        if failed:
            raise failed[0]
        return done[0]


def _check_name(name: str, what: str) -> None:
    if not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
        raise RequestError(f"{what} {name!r}: give 1 to {MAX_NAME} printable characters")
