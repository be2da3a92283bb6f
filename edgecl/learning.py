"""The learning half of the loop: runs updates on its own program, asks the guard, and keeps the state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl import guard, resident
from edgecl.bundle import Bundle, read_canaries, read_state
from edgecl.engine import Program
from edgecl.guard import Guard, Verdict
from edgecl.journal import Guard as GuardRecord
from edgecl.journal import Record, Update
from edgecl.manifest import Manifest, signature
from edgecl.preprocess import Preprocess
from edgecl.state import State

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Samples for one update, as sources gave them."""

    samples: Sequence[npt.NDArray[Any]]
    first_seq: int
    last_seq: int
    y: Floats | None = None
    """Class probabilities [B, C] for `learn`; None for `adapt`."""


class Learning:
    """Turns batches into states. One thread at a time uses it; `state` may be read from any."""

    def __init__(
        self,
        bundle: Bundle,
        program: Program,
        state: State,
        *,
        hyper: Mapping[str, float],
        seed: int,
        budget_bytes: int,
        now_ns: Callable[[], int],
    ) -> None:
        self.state = state
        self._good = state
        self._built = read_state(bundle)
        self._manifest: Manifest = bundle.manifest
        self._program = program
        self._preprocess = Preprocess(self._manifest.input)
        self._hyper = np.array([hyper[h.name] for h in self._manifest.learner.hyper], np.float32)
        self._seed, self._budget_bytes, self._now_ns = seed, budget_bytes, now_ns
        canaries = read_canaries(bundle)
        self._canaries = [self._preprocess.check(x) for x in canaries.x]
        self._canary_labels = canaries.y
        self._guard = Guard(self._manifest.guard, len(self._manifest.classes), canaries=len(self._canaries) > 0)

    def update(self, batch: Batch) -> list[Record]:
        """Take one step on a batch, and say in records what came of it.

        `adapt` without labels, `learn` with them. Raises ProgramError: the engine failed.
        """
        used = resident.resident_bytes()
        if self._budget_bytes and used > self._budget_bytes:
            return [self.skipped(guard.MEMORY, f"{used} bytes resident, the budget is {self._budget_bytes}")]
        start_ns = self._now_ns()
        kind = "adapt" if batch.y is None else "learn"
        before = self.state
        out = self._run(kind, before, self._preprocess.batch(batch.samples), batch.y)
        after = before.after(out["theta"], out["slots"], seen=batch.last_seq + 1)
        if "logits" in out:
            self._guard.answered(out["logits"].argmax(1))
        verdict = self._guard.judge(after.finite, lambda: self.canary_accuracy(after))
        if verdict.action == "commit":
            self.state = after
            if verdict.good:
                self._good = after
        records: list[Record] = [
            Update(
                kind=Update.ADAPT if kind == "adapt" else Update.LEARN,
                step=after.step,
                first_seq=batch.first_seq,
                last_seq=batch.last_seq,
                report=out["report"].tolist(),
                digest=after.digest,
                committed=verdict.action == "commit",
                duration_ns=self._now_ns() - start_ns,
            )
        ]
        if verdict.action != "commit":
            records.append(self._turn_down(verdict, after))
        return records

    def canary_accuracy(self, state: State) -> float:
        """Share of canaries answered right by the adapting forward pass from a state, its new state thrown away.

        So the statistics may follow the canaries, and what is measured is whether the learned parameters still do the
        source task. Without an `adapt` method, by `infer`.
        """
        method = self._manifest.method("adapt" if self._manifest.has("adapt") else "infer")
        right = 0
        count = len(self._canaries)
        for start in range(0, count, method.batch):
            places = [i % count for i in range(start, start + method.batch)]  # the last batch begins again at the front
            x = self._preprocess.batch([self._canaries[i] for i in places])
            labels = self._run(method.kind, state, x, None)["logits"].argmax(1)
            kept = min(method.batch, count - start)
            right += int((labels[:kept] == self._canary_labels[places[:kept]]).sum())
        return right / count if count else 1.0

    def skipped(self, reason: str, detail: str) -> Record:
        """The record of a batch that was not learned from."""
        return self._acted(GuardRecord.SKIPPED, reason, detail)

    def _run(self, kind: str, state: State, x: Floats, y: Floats | None) -> dict[str, Floats]:
        method = self._manifest.method(kind, len(x))  # type: ignore[arg-type]
        inputs, outputs = signature(self._manifest, method.kind, method.batch)
        given = {"theta": state.theta, "slots": state.slots, "x": x, "y": y, "hyper": self._hyper}
        given["noise"] = noise(self._seed, state.step, self._manifest.learner.noise)
        values = self._program.execute(method.name, [given[t.name] for t in inputs])
        out = dict(zip((t.name for t in outputs), values, strict=True))
        return {"theta": state.theta, "slots": state.slots} | out

    def _turn_down(self, verdict: Verdict, after: State) -> Record:
        if verdict.action != "roll back":
            return self._acted(GuardRecord.SKIPPED, verdict.reason, verdict.detail)
        reset = self._good is self._built
        self.state = replace(self._good, step=after.step, seen=after.seen)
        self._good = self._built  # until another state passes: what led astray once is not gone back to twice
        return self._acted(GuardRecord.RESET if reset else GuardRecord.ROLLED_BACK, verdict.reason, verdict.detail)

    def _acted(self, action: GuardRecord.Action.ValueType, reason: str, detail: str) -> Record:
        state = self.state
        return GuardRecord(action=action, step=state.step, reason=reason, detail=detail, digest=state.digest)


def noise(seed: int, step: int, count: int) -> Floats:
    """The random numbers of a step, in [0, 1): they depend on the seed and the step alone, so a replay has the same."""
    return np.random.Generator(np.random.Philox(key=[seed, step])).random(count, dtype=np.float32)
