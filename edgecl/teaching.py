"""What labels teach: per domain a head without gradients, and samples to rehearse; and classes that were added.

A head answers in a domain as soon as it is right more often than the program on the latest labelled samples, each
judged before it was learned (test-then-train; ties go to the program). So a head takes over where it is better, and a
class that was added is known to heads alone: the program never names it.

The head of the source goes on from the sums of all source samples. That of another domain starts from the same, moved
to where the domain's samples lie and weighing START samples (`edgecl/head.py`).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgecl import head, labels, rehearsal
from edgecl.bank import SOURCE, Bank, Domain
from edgecl.checkpoints import Parts, Resumed
from edgecl.detector import Code, Detector
from edgecl.head import HEADS, START, Sums
from edgecl.labels import Known
from edgecl.learning import Batch
from edgecl.manifest import Manifest
from edgecl.rehearsal import Rehearsal, Stored
from edgecl.view import Views

Floats = npt.NDArray[np.float32]

TRIES: Final = 64
"""Labelled samples that the choice between head and program goes back."""


@dataclass(frozen=True)
class Lesson:
    """A sample with its label, ready to be learned."""

    seq: int
    label: int
    domain: int
    x: npt.NDArray[Any]
    """As its source gave it."""
    taps: Floats
    """[F], of the network as built."""
    white: Floats
    """The same, whitened."""
    program: int
    """The class that the program gave it."""
    before: Known | None
    """The label that it had."""


@dataclass
class Taught:
    """One domain."""

    sums: Sums
    tries: deque[tuple[bool, bool]] = field(default_factory=lambda: deque(maxlen=TRIES))
    """Whether program and head were right, of each lesson before it was learned."""

    @property
    def answers(self) -> bool:
        """Whether the head does."""
        return sum(by_head for _, by_head in self.tries) > sum(by_program for by_program, _ in self.tries)


class Teaching:
    """Used by the thread that learns. Answers see it by its `views`."""

    def __init__(
        self,
        manifest: Manifest,
        source: Sums | None,
        detector: Detector | None,
        resumed: Resumed | None,
        *,
        seed: int,
        budget_bytes: int,
        views: Views,
    ) -> None:
        """`source`: the sums of source samples; without them there are no heads. Raises StoreError."""
        self._manifest, self._source, self._detector, self._views = manifest, source, detector, views
        self._members: dict[int, Floats] = {}  # by class that was added, the sum that its prototype is made of
        self._prototypes: Code | None = None
        self.added: tuple[str, ...] = resumed.learned.added if resumed else ()
        self._taught: dict[int, Taught] = {}
        self.known: dict[int, Known] = {}
        """By the number of the sample."""
        self._rehearsal = Rehearsal(budget_bytes, seed)
        if resumed and resumed.rehearsal:
            self._rehearsal = rehearsal.load(resumed.rehearsal, budget_bytes)
        if resumed and resumed.labels:
            self.known, self._members = labels.load(resumed.labels)
            self._prototype()
        if resumed and source:
            for number, path in resumed.heads.items():
                tries = ((a == "1", b == "1") for a, b in zip(*resumed.learned.tries[number].split("/"), strict=True))
                taught = Taught(head.load(path, self._start(resumed.learned.bank[number])))
                taught.tries.extend(tries)
                self._taught[number] = taught
        self._show()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all classes."""
        return self._manifest.classes + self.added

    @property
    def heads(self) -> bool:
        """Whether there can be any."""
        return self._source is not None

    def count(self, domain: int) -> int:
        """Labels that a domain has learned."""
        return sum(known.domain == domain for known in self.known.values())

    def answers(self, domain: int) -> bool:
        """Whether a head answers there."""
        taught = self._taught.get(domain)
        return taught is not None and taught.answers

    def add_class(self, name: str) -> int:
        """A class joins at the end; its index."""
        self.added = (*self.added, name)
        for taught in self._taught.values():
            taught.sums = taught.sums.widen(len(self.names))
        self._show()
        return len(self.names) - 1

    def learn(self, lessons: Sequence[Lesson], bank: Bank) -> None:
        """Learn lessons of domains of this bank, each in turn tried first."""
        for lesson in lessons:
            if lesson.before:
                self._forget(lesson)
            if self._source:
                taught = self._taught.setdefault(lesson.domain, Taught(self._start(bank[lesson.domain])))
                white, label = lesson.white[None], np.array([lesson.label])
                by_head = int(taught.sums.solve()(white)[0].argmax())
                taught.tries.append((lesson.program == lesson.label, by_head == lesson.label))
                taught.sums = taught.sums.add(white, label)
            self._member(lesson, lesson.label, 1)
            self._rehearsal.remove(lesson.seq)
            self._rehearsal.add(Stored(lesson.seq, lesson.label, lesson.domain, lesson.x))
            self.known[lesson.seq] = Known(lesson.label, lesson.domain)
        self._prototype()
        self._show()

    def batches(self, lessons: Sequence[Lesson], rehearse: int) -> list[Batch]:
        """Batches for `learn`: half new and half rehearsed samples; then `rehearse` times as many of rehearsed alone.

        Samples of classes that were added are left out: the program does not know them.
        """
        if not self._manifest.has("learn"):
            return []
        size, made = self._manifest.method("learn").batch, []
        for domain in sorted({lesson.domain for lesson in lessons}):
            own = [lesson for lesson in lessons if lesson.domain == domain and self._in_program(lesson.label)]
            half = max(1, size // 2)
            for start in range(0, len(own), half):
                new = own[start : start + half]
                chosen = [(lesson.x, lesson.label) for lesson in new]
                seqs = {lesson.seq for lesson in new}
                drawn = self._rehearsal.batch(domain, size, key=new[0].seq)
                chosen += [(s.x, s.label) for s in drawn if s.seq not in seqs and self._in_program(s.label)]
                made.append(self._batch(chosen[:size], domain, new[0].seq, new[-1].seq))
            for turn in range(rehearse * -(-len(own) // half)):
                drawn = self._rehearsal.batch(domain, size, key=(own[-1].seq << 16) + turn + 1)
                chosen = [(s.x, s.label) for s in drawn if self._in_program(s.label)]
                if chosen:
                    made.append(self._batch(chosen, domain, own[0].seq, own[-1].seq))
        return made

    def merge(self, one: int, other: int, bank: Bank) -> None:
        """What `other` was taught is `one`'s from here on, in a bank where they are one."""
        self._rehearsal.move(other, one)
        self.known = {
            seq: Known(known.label, one) if known.domain == other else known for seq, known in self.known.items()
        }
        both = [taught for taught in (self._taught.pop(one, None), self._taught.pop(other, None)) if taught]
        if both:
            merged = Taught(self._start(bank[one]))
            for taught in both:
                merged.sums = merged.sums.plus(taught.sums)
                merged.tries.extend(taught.tries)
            self._taught[one] = merged
        self._show()

    def forget(self, domain: int) -> None:
        """Forget what a domain was taught."""
        self._taught.pop(domain, None)
        self._rehearsal.drop(domain)
        self.known = {seq: known for seq, known in self.known.items() if known.domain != domain}
        self._show()

    def tries(self) -> Mapping[int, str]:
        """As a checkpoint keeps them: a digit a lesson, the program's before the stroke and the head's behind it."""
        return {
            number: "/".join("".join("01"[pair[which]] for pair in taught.tries) for which in (0, 1))
            for number, taught in self._taught.items()
        }

    def parts(self) -> Parts:
        """The files of a checkpoint."""
        return Parts(
            heads={number: head.dump(taught.sums) for number, taught in self._taught.items()},
            rehearsal=rehearsal.dump(self._rehearsal) if len(self._rehearsal) else None,
            labels=labels.dump(self.known, self._members) if self.known else None,
        )

    def _show(self) -> None:
        """Let answers see what was taught until now."""
        heads = {number: taught.sums for number, taught in self._taught.items() if taught.answers}
        self._views.change(heads=heads, names=self.names, prototypes=self._prototypes)

    def _start(self, domain: Domain) -> Sums:
        """The head of a domain before any label."""
        assert self._source
        nothing = HEADS[self._source.space.form].empty(
            self._source.space.features, len(self.names), self._source.space.seed
        )
        if domain.number == SOURCE:
            return nothing.upon(self._source, float(self._source.n))
        return nothing.upon(self._source, START, domain.mean)

    def _forget(self, lesson: Lesson) -> None:
        """Take back the label that a sample had."""
        assert lesson.before
        taught = self._taught.get(lesson.before.domain)
        if taught:
            taught.sums = taught.sums.remove(lesson.white[None], np.array([lesson.before.label]))
        self._member(lesson, lesson.before.label, -1)

    def _member(self, lesson: Lesson, label: int, times: int) -> None:
        """Add a sample to the prototype of its class, or take it off, where the class is not the bundle's."""
        if self._detector and not self._in_program(label):
            none = np.zeros(self._detector.record.dimensions, np.float32)
            self._members[label] = self._members.get(label, none) + times * self._detector.member(lesson.taps)

    def _prototype(self) -> None:
        """Make the prototypes anew; a class that has lost its labels has none."""
        sums = [self._members[label] for label in sorted(self._members) if self._members[label].any()]
        self._prototypes = self._detector.prototypes(np.stack(sums)) if self._detector and sums else None

    def _in_program(self, label: int) -> bool:
        return label < len(self._manifest.classes)

    def _batch(self, chosen: Sequence[tuple[npt.NDArray[Any], int]], domain: int, first: int, last: int) -> Batch:
        size = self._manifest.method("learn").batch
        rows = np.zeros((size, len(self._manifest.classes)), np.float32)  # all zero: leave the sample out
        rows[np.arange(len(chosen)), [label for _, label in chosen]] = 1
        return Batch([chosen[i % len(chosen)][0] for i in range(size)], first, last, domain, rows)
