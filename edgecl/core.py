"""The loop without time, threads and disk: what samples, batches and labels make of a bundle.

A loop drives it as samples come (`edgecl/loop.py`); a replay drives it again as a journal tells. Who answers, learns
and asks are three threads at most, each named where it matters. Nothing in here looks at a clock, but to journal it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy.typing as npt

from edgecl import journal, records, samples, shift
from edgecl.answer import Answer, answer_of
from edgecl.bundle import Bundle, read_detector, read_head
from edgecl.checkpoints import Learned, Parts, Place, Resumed
from edgecl.domains import Domains, Later, Seen
from edgecl.learning import Learning, Outcome
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs, preload
from edgecl.routing import domains, routing
from edgecl.settings import Settings, hyper_values
from edgecl.shift import Watch
from edgecl.teaching import Lesson, Teaching
from edgecl.view import Views


@dataclass(frozen=True)
class Around:
    """What a core calls."""

    note: Callable[[journal.Record], None]
    """Journals a record."""
    later: Later
    settled: Callable[[], object]
    """In the thread that learns, whenever the bank of domains has changed there."""
    crowded: Callable[[], str]
    """Says, before each update, why there is no memory for it; empty where there is."""
    now_ns: Callable[[], int]


class Core:
    """A bundle, opened with settings, and all that is learned with it."""

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        resumed: Resumed | None,
        around: Around,
        views: Views,
        programs: Programs | None = None,
    ) -> None:
        """Go on from what was resumed. `programs` of this bundle may be given, that others use too; they stay open.

        Raises SettingError, BundleError, ProgramError, StoreError.
        """
        self.bundle, self.manifest, self._settings = bundle, bundle.manifest, settings
        self._note, self._now_ns = around.note, around.now_ns
        self._views = views
        self.hyper: Mapping[str, float] = hyper_values(self.manifest.learner, settings.hyper)
        before = resumed.learned if resumed else None
        self.most = domains(settings, self.manifest)
        """Domains that the bank may hold."""
        self._own = programs is None
        self.programs = programs or Programs(
            bundle, engine=settings.engine, threads=settings.threads, trace=settings.trace
        )
        try:
            labels = settings.keep_bytes > 0
            preload(self.programs, self.manifest, routed=self.most > 1, labels=labels, sync=settings.sync)
            self.learning = Learning(
                bundle,
                self.programs,
                before.states if before else {},
                hyper=self.hyper,
                seed=settings.seed,
                crowded=around.crowded,
                now_ns=around.now_ns,
                note=around.note,
                views=views,
            )
            start = routing(bundle, settings, resumed)
            self._told_by = start.digest
            self._detector = read_detector(bundle)
            self.teaching = Teaching(
                self.manifest,
                read_head(bundle),
                self._detector,
                resumed,
                seed=settings.seed,
                budget_bytes=settings.rehearsal_bytes,
                views=views,
            )
            self.domains = Domains(
                self.manifest,
                self.programs,
                self.learning,
                self.teaching,
                views,
                start,
                later=around.later,
                settled=around.settled,
                note=around.note,
            )
        except BaseException:
            self.close()
            raise
        self.preprocess = Preprocess(self.manifest.input)
        self._watch = Watch()
        states = (state.seen for state in self.learned(Place()).states.values())
        self.seq = max(*states, *(seq + 1 for seq in self.teaching.known), 0)
        """Number of the next sample."""

    @property
    def shifted(self) -> bool:
        """Whether the stream has become unlike the source; False where the bundle has no detector."""
        return self._watch.shifted

    def answer(self, x: npt.NDArray[Any], *, position: int, y: int | None, start_ns: int) -> tuple[Answer, Seen]:
        """Answer a checked sample, in the thread that answers. It is to be kept, and then collected by `domains`."""
        seen = self.domains.see(x, self.preprocess.batch([x]), self.seq)
        for turn in seen.turns:
            self._note(records.turn(turn, self.domains.name(turn.domain), self.seq))
        likeness = self._detector(seen.taps, seen.view.prototypes) if self._detector else None
        answer = answer_of(self.seq, seen.logits, seen.view.names, likeness, self.domains.name(seen.domain))
        latency_ns = self._now_ns() - start_ns
        self._note(records.prediction(answer, seen, position=position, y=y, latency_ns=latency_ns))
        if likeness and self.manifest.detector:
            look = shift.look(self.manifest.detector.calibration, likeness.similarity)
            if changed := self._watch.note(look):
                self._note(journal.Shift(seq=answer.seq, **asdict(changed)))
        self.seq += 1
        return answer, seen

    def teach(self, given: Sequence[tuple[journal.Sample, int]]) -> list[Outcome]:
        """Learn labels of samples that were answered, in the thread that learns: what came of each update."""
        lessons = [self._lesson(record, label) for record, label in given]
        for lesson in lessons:
            self._note(
                journal.Label(
                    seq=lesson.seq,
                    y=lesson.label,
                    name=self.teaching.names[lesson.label],
                    domain=lesson.domain,
                    before=lesson.before.label if lesson.before else None,
                )
            )
        self.teaching.learn(lessons, self.domains.bank)
        return [self.learning.update(batch) for batch in self.teaching.batches(lessons, self._settings.rehearse)]

    def add_class(self, name: str) -> int:
        """A class joins, in the thread that learns: its index."""
        self._note(journal.Class(index=len(self.teaching.names), name=name))
        return self.teaching.add_class(name)

    def learned(self, place: Place) -> Learned:
        """Everything, as it is now in the thread that learns."""
        bank = self.domains.bank
        return Learned(
            bundle=self.bundle.id,
            place=place,
            bank=bank,
            states={domain.number: self.learning[domain.number] for domain in bank.domains},
            active=self.domains.here,
            router=self._told_by,
            added=self.teaching.added,
            tries=self.teaching.tries(),
        )

    def parts(self) -> Parts:
        """What a checkpoint holds besides."""
        return self.teaching.parts()

    def close(self) -> None:
        """Free the programs, unless they were given."""
        if self._own:
            self.programs.close()

    def _lesson(self, record: journal.Sample, label: int) -> Lesson:
        x = samples.array(record)
        placed = self.domains.place(record.domain, self.preprocess.batch([self.preprocess.check(x)]))
        return Lesson(
            seq=record.seq,
            label=label,
            domain=placed.domain,
            x=x,
            taps=placed.taps,
            white=placed.white,
            program=int(placed.logits.argmax()),
            before=self.teaching.known.get(record.seq),
        )
