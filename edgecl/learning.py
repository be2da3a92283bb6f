"""The learning half of the loop: runs updates, asks the guard, writes down what was decided, and keeps the states.

Each domain has a state of its own, with its own guard: an update reads and writes that of its batch's domain alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgecl import guard
from edgecl.bank import SOURCE
from edgecl.bundle import Bundle, read_canaries, read_state
from edgecl.forms import SAMPLES, Scored, choose
from edgecl.guard import Guard, Verdict
from edgecl.journal import Guard as GuardRecord
from edgecl.journal import Record, Update
from edgecl.manifest import Kind, Manifest
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.state import State
from edgecl.view import Views

Floats = npt.NDArray[np.float32]

Outcome = Literal["committed", "dropped", "rolled back", "skipped"]
"""What becomes of a batch; skipped, nothing was computed."""


@dataclass(frozen=True)
class Batch:
    """Samples for one update, as sources gave them."""

    samples: Sequence[npt.NDArray[Any]]
    first_seq: int
    last_seq: int
    domain: int = SOURCE
    y: Floats | None = None
    """Class probabilities [B, C] for `learn`; None for `adapt`."""


@dataclass
class Track:
    """How the state of one domain has come along."""

    state: State
    good: State
    """That is gone back to."""
    guard: Guard


class Learning:
    """Turns batches into states, in one thread at a time. Answers see them by its `views`.

    A decision is noted before it takes effect, so a journal tells of a state before it tells of what that answered.
    """

    def __init__(
        self,
        bundle: Bundle,
        programs: Programs,
        resumed: Mapping[int, State],
        *,
        hyper: Mapping[str, float],
        seed: int,
        crowded: Callable[[], str],
        now_ns: Callable[[], int],
        note: Callable[[Record], None],
        views: Views,
    ) -> None:
        """`crowded` says, before each update, why there is no memory for it; empty where there is."""
        self._built = {form: read_state(bundle, form) for form in bundle.manifest.layouts}
        self.built = self._built[""]
        """The source's, as built."""
        self._manifest: Manifest = bundle.manifest
        self._programs = programs
        self._preprocess = Preprocess(self._manifest.input)
        self._hyper = np.array([hyper[h.name] for h in self._manifest.learner.hyper], np.float32)
        self._seed, self._crowded, self._now_ns, self._note = seed, crowded, now_ns, note
        self._views = views
        canaries = read_canaries(bundle)
        self._canaries = [self._preprocess.check(x) for x in canaries.x]
        self._canary_labels = canaries.y
        self._tracks: dict[int, Track] = {}
        self._gone: set[int] = set()
        self.canaries: float | None = None
        """Share answered right when a guard last looked."""
        for domain, state in ({SOURCE: self.built} | dict(resumed)).items():
            self._begin(domain, state)
        self._show()

    def _begin(self, domain: int, state: State) -> Track:
        """A domain begins from this state."""
        built = self._built[self._manifest.form_of(state.layout)]
        if state.theta is not built.theta and np.array_equal(state.theta, built.theta):
            state = replace(state, theta=built.theta)  # by which an answer is known to need no second inference
        canaries = len(self._canaries) > 0 and bool(self._manifest.learner.trained)
        guard = Guard(self._manifest.guard, len(self._manifest.classes), canaries=canaries)
        self._tracks[domain] = Track(state, state, guard)
        return self._tracks[domain]

    def _show(self) -> None:
        """Let answers see the states as they are now."""
        self._views.change(states={domain: track.state for domain, track in self._tracks.items()})

    def form(self, domain: int, samples: Sequence[npt.NDArray[Any]]) -> list[Scored]:
        """Choose the form of a domain by its own samples, and let it begin anew where that is another one.

        Gives the ranking, best first. Raises ProgramError.
        """
        x = self._preprocess.batch(samples[-SAMPLES:])
        answers = np.concatenate([self._run("infer", self.built, part, None)["logits"] for part in self._parts(x)])
        y = np.eye(answers.shape[1], dtype=np.float32)[answers[: len(x)].argmax(1)]
        ranking = choose(self._manifest, self._programs, list(self._built.values()), x, y)
        if ranking[0].form != self._manifest.form_of(self[domain].layout):
            self._begin(domain, self._built[ranking[0].form])
            self._show()
        return ranking

    def _parts(self, x: Floats) -> list[Floats]:
        """Batches of the size that `infer` takes, the last one filled up with its own samples."""
        size = self._manifest.method("infer").batch
        return [x[np.resize(np.arange(start, min(start + size, len(x))), size)] for start in range(0, len(x), size)]

    def forget(self, domain: int) -> None:
        """A domain is gone, and no answer asks for it any more."""
        self._tracks.pop(domain, None)
        self._gone.add(domain)

    def merge(self, one: int, other: int) -> None:
        """The state of `one` becomes the mean of both, weighted by their updates; `other` is gone.

        Of two different forms the state with more updates stays, as there is no mean.
        """
        first, second = self[one], self[other]
        if first.layout != second.layout:
            self.forget(other)
            self._begin(one, max(first, second, key=lambda state: state.step))
            self._show()
            return
        weight = second.step / max(1, first.step + second.step)
        theta, slots = (
            (1 - weight) * a + weight * b for a, b in ((first.theta, second.theta), (first.slots, second.slots))
        )
        mean = State(
            first.layout,
            theta.astype(np.float32),
            slots.astype(np.float32),
            max(first.step, second.step),
            max(first.seen, second.seen),
        )
        self.forget(other)
        self._begin(one, mean)
        self._show()

    def __getitem__(self, domain: int) -> State:
        """Of a domain; of one that has learned nothing, or is gone, as built."""
        track = self._tracks.get(domain)
        return track.state if track else self.built

    def update(self, batch: Batch) -> Outcome:
        """Take one step on a batch: `adapt` without labels, `learn` with them.

        Raises ProgramError: the engine failed. Whatever `note` raises, the state is then as it was.
        """
        if why := self._crowded():
            self.skip(guard.MEMORY, why, batch)
            return "skipped"
        if batch.domain in self._gone:
            self.skip(guard.GONE, f"domain {batch.domain} is no more", batch)
            return "skipped"
        start_ns = self._now_ns()
        kind: Kind = "adapt" if batch.y is None else "learn"
        track = self._tracks.get(batch.domain) or self._begin(batch.domain, self.built)
        before = track.state
        out = self._run(kind, before, self._preprocess.batch(batch.samples), batch.y)
        after = before.after(out["theta"], out["slots"], seen=batch.last_seq + 1)
        if "logits" in out:
            track.guard.answered(out["logits"].argmax(1))
        verdict = track.guard.judge(after.finite, lambda: self._measured(after))
        self._note(
            Update(
                kind=Update.ADAPT if kind == "adapt" else Update.LEARN,
                step=after.step,
                first_seq=batch.first_seq,
                last_seq=batch.last_seq,
                report=out["report"].tolist() if "report" in out else [],
                digest=after.digest,
                committed=verdict.action == "commit",
                duration_ns=self._now_ns() - start_ns,
                domain=batch.domain,
            )
        )
        if verdict.action == "commit":
            track.state = after
            if verdict.good:
                track.good = after
            self._show()
            return "committed"
        if verdict.action == "drop":
            self._acted(GuardRecord.SKIPPED, verdict.reason, verdict.detail, before, batch)
            return "dropped"
        self._roll_back(verdict, after, track, batch)
        return "rolled back"

    def _measured(self, state: State) -> float:
        self.canaries = self.canary_accuracy(state)
        return self.canaries

    def canary_accuracy(self, state: State) -> float:
        """Share of canaries answered right with the trained pieces of a state, and all other pieces as built.

        Canaries are source samples. Statistics that have followed the stream elsewhere answer them badly and are none
        the worse for it; what gradients changed should still do the source task.
        """
        form = self._manifest.form_of(state.layout)
        built, trained = self._built[form], self._manifest.trained(form)
        theta = built.theta.copy()
        for piece in state.layout.theta:
            if piece.name in trained:
                there = slice(piece.offset, piece.offset + piece.size)
                theta[there] = state.theta[there]
        mixed = replace(built, theta=theta)
        batch = self._manifest.method("infer", form=form).batch
        right, count = 0, len(self._canaries)
        for start in range(0, count, batch):
            places = [i % count for i in range(start, start + batch)]  # the last batch begins again at the front
            x = self._preprocess.batch([self._canaries[i] for i in places])
            labels = self._run("infer", mixed, x, None)["logits"].argmax(1)
            kept = min(batch, count - start)
            right += int((labels[:kept] == self._canary_labels[places[:kept]]).sum())
        return right / count if count else 1.0

    def skip(self, reason: str, detail: str, batch: Batch, state: State | None = None) -> None:
        """Note that a batch was not learned from; `state` is what answered, where that is who skips it."""
        self._acted(GuardRecord.SKIPPED, reason, detail, state or self[batch.domain], batch)

    def _run(self, kind: Kind, state: State, x: Floats, y: Floats | None) -> dict[str, Floats]:
        given = {"theta": state.theta, "slots": state.slots, "x": x, "hyper": self._hyper}
        if y is not None:
            given["y"] = y
        given["noise"] = noise(self._seed, state.step, self._manifest.learner.noise)
        out = self._programs.call(self._manifest.method(kind, len(x), self._manifest.form_of(state.layout)), **given)
        return {"theta": state.theta, "slots": state.slots} | out  # what has no elements is no output

    def _roll_back(self, verdict: Verdict, after: State, track: Track, batch: Batch) -> None:
        built = self._built[self._manifest.form_of(track.state.layout)]
        reset = track.good is built
        restored = replace(track.good, step=after.step, seen=after.seen)
        action = GuardRecord.RESET if reset else GuardRecord.ROLLED_BACK
        self._acted(action, verdict.reason, verdict.detail, restored, batch)
        track.state = restored
        track.good = built  # until another state passes: what led astray once is not gone back to twice
        self._show()

    def _acted(
        self, action: GuardRecord.Action.ValueType, reason: str, detail: str, state: State, batch: Batch
    ) -> None:
        self._note(
            GuardRecord(
                action=action,
                step=state.step,
                reason=reason,
                detail=detail,
                digest=state.digest,
                domain=batch.domain,
                first_seq=batch.first_seq,
                last_seq=batch.last_seq,
            )
        )


def noise(seed: int, step: int, count: int) -> Floats:
    """The random numbers of a step, in [0, 1): they depend on the seed and the step alone, so a replay has the same."""
    if not count:
        return np.zeros(0, np.float32)  # without loading numpy.random
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64))).random(count, dtype=np.float32)
