"""The learning half of the loop: runs updates, asks the guard, writes down what was decided, and keeps the state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgecl import guard, resident
from edgecl.bundle import Bundle, read_canaries, read_state
from edgecl.guard import Guard, Verdict
from edgecl.journal import Guard as GuardRecord
from edgecl.journal import Record, Update
from edgecl.manifest import Kind, Manifest
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.state import State

Floats = npt.NDArray[np.float32]

Outcome = Literal["committed", "dropped", "rolled back", "skipped"]
"""What becomes of a batch; skipped, nothing was computed."""


@dataclass(frozen=True)
class Batch:
    """Samples for one update, as sources gave them."""

    samples: Sequence[npt.NDArray[Any]]
    first_seq: int
    last_seq: int
    y: Floats | None = None
    """Class probabilities [B, C] for `learn`; None for `adapt`."""


class Learning:
    """Turns batches into states. One thread at a time uses it; `state` may be read from any.

    A decision is noted before it takes effect, so a journal tells of a state before it tells of what that answered.
    """

    def __init__(
        self,
        bundle: Bundle,
        programs: Programs,
        resumed: State | None,
        *,
        hyper: Mapping[str, float],
        seed: int,
        budget_bytes: int,
        now_ns: Callable[[], int],
        note: Callable[[Record], None],
    ) -> None:
        self._built = read_state(bundle)
        self.state = self._good = resumed or self._built
        self._manifest: Manifest = bundle.manifest
        self._programs = programs
        self._preprocess = Preprocess(self._manifest.input)
        self._hyper = np.array([hyper[h.name] for h in self._manifest.learner.hyper], np.float32)
        self._seed, self._budget_bytes, self._now_ns, self._note = seed, budget_bytes, now_ns, note
        canaries = read_canaries(bundle)
        self._canaries = [self._preprocess.check(x) for x in canaries.x]
        self._canary_labels = canaries.y
        self._guard = Guard(
            self._manifest.guard,
            len(self._manifest.classes),
            canaries=len(self._canaries) > 0 and bool(self._manifest.learner.trained),
        )

    def update(self, batch: Batch) -> Outcome:
        """Take one step on a batch: `adapt` without labels, `learn` with them.

        Raises ProgramError: the engine failed. Whatever `note` raises, the state is then as it was.
        """
        used = resident.resident_bytes()
        if self._budget_bytes and used > self._budget_bytes:
            self.skip(guard.MEMORY, f"{used} bytes resident, the budget is {self._budget_bytes}")
            return "skipped"
        start_ns = self._now_ns()
        kind: Kind = "adapt" if batch.y is None else "learn"
        before = self.state
        out = self._run(kind, before, self._preprocess.batch(batch.samples), batch.y)
        after = before.after(out["theta"], out["slots"], seen=batch.last_seq + 1)
        if "logits" in out:
            self._guard.answered(out["logits"].argmax(1))
        verdict = self._guard.judge(after.finite, lambda: self.canary_accuracy(after))
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
            )
        )
        if verdict.action == "commit":
            self.state = after
            if verdict.good:
                self._good = after
            return "committed"
        if verdict.action == "drop":
            self._acted(GuardRecord.SKIPPED, verdict.reason, verdict.detail, before)
            return "dropped"
        self._roll_back(verdict, after)
        return "rolled back"

    def canary_accuracy(self, state: State) -> float:
        """Share of canaries answered right with the trained pieces of a state, and all other pieces as built.

        Canaries are source samples. Statistics that have followed the stream elsewhere answer them badly and are none
        the worse for it; what gradients changed should still do the source task.
        """
        theta = self._built.theta.copy()
        for piece in self._manifest.layout.theta:
            if piece.name in self._manifest.learner.trained:
                there = slice(piece.offset, piece.offset + piece.size)
                theta[there] = state.theta[there]
        mixed = replace(self._built, theta=theta)
        batch = self._manifest.method("infer").batch
        right, count = 0, len(self._canaries)
        for start in range(0, count, batch):
            places = [i % count for i in range(start, start + batch)]  # the last batch begins again at the front
            x = self._preprocess.batch([self._canaries[i] for i in places])
            labels = self._run("infer", mixed, x, None)["logits"].argmax(1)
            kept = min(batch, count - start)
            right += int((labels[:kept] == self._canary_labels[places[:kept]]).sum())
        return right / count if count else 1.0

    def skip(self, reason: str, detail: str) -> None:
        """Note that a batch was not learned from."""
        self._acted(GuardRecord.SKIPPED, reason, detail, self.state)

    def _run(self, kind: Kind, state: State, x: Floats, y: Floats | None) -> dict[str, Floats]:
        given = {"theta": state.theta, "slots": state.slots, "x": x, "hyper": self._hyper}
        if y is not None:
            given["y"] = y
        given["noise"] = noise(self._seed, state.step, self._manifest.learner.noise)
        out = self._programs.call(self._manifest.method(kind, len(x)), **given)
        return {"theta": state.theta, "slots": state.slots} | out  # what has no elements is no output

    def _roll_back(self, verdict: Verdict, after: State) -> None:
        reset = self._good is self._built
        restored = replace(self._good, step=after.step, seen=after.seen)
        self._acted(GuardRecord.RESET if reset else GuardRecord.ROLLED_BACK, verdict.reason, verdict.detail, restored)
        self.state = restored
        self._good = self._built  # until another state passes: what led astray once is not gone back to twice

    def _acted(self, action: GuardRecord.Action.ValueType, reason: str, detail: str, state: State) -> None:
        self._note(GuardRecord(action=action, step=state.step, reason=reason, detail=detail, digest=state.digest))


def noise(seed: int, step: int, count: int) -> Floats:
    """The random numbers of a step, in [0, 1): they depend on the seed and the step alone, so a replay has the same."""
    if not count:
        return np.zeros(0, np.float32)  # without loading numpy.random
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64))).random(count, dtype=np.float32)
