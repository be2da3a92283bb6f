"""What the search chooses among, and which of it keeps to a budget: forms of adaptor at groups of taps."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from edgecl.devices import Profile
from edgecl.engine import open_program
from edgecl.errors import BudgetError, ProjectError
from export import trace
from export.adaptors import ADAPTORS, parameters
from export.encoder import Encoder
from export.learners.adaptor import Adaptor
from export.lower import lower
from export.passes import lean
from export.passes.rematerialise import rematerialise

Say = Callable[[str], None]

CALLS: Final = 15
"""Answers that the time is the least of: what slows one of them down is not the program's."""


@dataclass(frozen=True)
class Candidate:
    """A form of ADAPTORS, and the taps that it would stand at; none for a form before the encoder."""

    form: str
    at: tuple[str, ...]

    def learner(self, encoder: Encoder, seed: int = 0) -> Adaptor:
        """It, on an encoder. Raises ProjectError: it does not fit."""
        return Adaptor(encoder, self.form, self.at or None, seed=seed)


@dataclass(frozen=True)
class Sized:
    """A candidate, and what it needs."""

    candidate: Candidate
    parameters: int
    state_bytes: int
    """Of theta and slots."""
    workspace_bytes: int | None = None
    """Of `adapt`, estimated; None where it was not."""
    answer_ms: float | None = None
    """Of one answer on the device, estimated; None where it was not."""


def candidates(encoder: Encoder) -> list[Candidate]:
    """Every form at each tap, at all, at the first and at the second half of them; those that fit the encoder."""
    names = [tap.name for tap in encoder.taps]
    found = []
    for name, form in ADAPTORS.items():
        places = [()] if form.stands == "input" else _subsets(names[1 if form.reads_before else 0 :])
        for at in places:
            candidate = Candidate(name, at)
            try:
                candidate.learner(encoder)
            except ProjectError:  # such as a bottleneck that is wider than the tap
                continue
            found.append(candidate)
    return found


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    half = -(-len(names) // 2)
    groups = [*((name,) for name in names), tuple(names), tuple(names[:half]), tuple(names[half:])]
    return [at for at in dict.fromkeys(groups) if at]


def within(
    encoder: Encoder,
    wanted: Sequence[Candidate],
    *,
    state_bytes: int = 0,
    memory_bytes: int = 0,
    batch: int = 16,
    latency_ms: float = 0.0,
    profile: Profile | None = None,
    say: Say = lambda _: None,
) -> list[Sized]:
    """The candidates that keep to the budgets (0: none).

    They are of theta and slots, of what `adapt` needs at this batch, and of the time of an answer on a device.

    Raises BudgetError: none does. ProjectError: nothing is known of the device's speed.
    """
    found = []
    for candidate in wanted:
        learner = candidate.learner(encoder)
        state = 4 * (parameters(learner.theta()) + parameters(learner.slots()))
        one = Sized(candidate, parameters(learner.start), state)
        if not state_bytes or state <= state_bytes:
            found.append(one)
    if memory_bytes:
        say(f"estimating the memory of {len(found)} candidates")
        measured = [estimated(encoder, one, batch) for one in found]
        found = [one for one in measured if one.workspace_bytes is None or one.workspace_bytes <= memory_bytes]
    if latency_ms:
        say(f"timing {len(found)} candidates")
        timed = [answering(encoder, one, profile) for one in found]
        found = [one for one in timed if one.answer_ms is None or one.answer_ms <= latency_ms]
    if not found:
        raise BudgetError(f"search: none of {len(wanted)} candidates keeps to the budgets; raise them")
    return found


def estimated(encoder: Encoder, one: Sized, batch: int) -> Sized:
    """The candidate with the workspace of its compiled `adapt` (export/memory.py)."""
    if one.workspace_bytes is not None:
        return one
    x = torch.zeros(batch, *encoder.input_shape)
    method = trace.methods(one.candidate.learner(encoder), "adapt", batch, x, encoder.classes)
    graph = rematerialise(lean(trace.trace(method), method.example))
    return replace(one, workspace_bytes=lower({method.name: graph}).estimates[method.name].workspace_bytes)


def answering(encoder: Encoder, one: Sized, profile: Profile | None) -> Sized:
    """The candidate with the time of one answer: its compiled `infer`, run here, by the speed of the device.

    Raises ProjectError: the profile does not tell that speed.
    """
    learner, x = one.candidate.learner(encoder), torch.zeros(1, *encoder.input_shape)
    method = trace.methods(learner, "infer", 1, x, encoder.classes)
    lowered = lower({method.name: lean(trace.trace(method), method.example)})
    inputs = [value.numpy() for value in method.example]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pte"
        path.write_bytes(lowered.pte)
        program = open_program(path, methods=[method.name])
        try:
            times_ns = []
            for _ in range(CALLS):
                start_ns = time.perf_counter_ns()
                program.execute(method.name, inputs)
                times_ns.append(time.perf_counter_ns() - start_ns)
        finally:
            program.close()
    here_ms = min(times_ns) / 1e6
    there_ms = profile.estimate_ms(here_ms) if profile else here_ms
    if there_ms is None:
        assert profile
        raise ProjectError(f"device {profile.name}: its profile tells no speed; name another with --device")
    return replace(one, answer_ms=there_ms)
