"""Whether a merged state may be used: it answers held-out samples no worse than the best single state and the source.

Every state answers the same samples with the board's own programs, and learns nothing. Where enough labels are known,
the share of right answers decides. Where they are not, it is the share of answers that are what the board of each
sample gave, which had adapted to its own stream; and a state that answers one and the same has collapsed, however sure
it is. In both cases the canaries must be passed as on a board.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from edgecl.bundle import Bundle, read_state
from edgecl.errors import EXIT_REFUSED, EdgeclError
from edgecl.learning import Learning
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.settings import hyper_values
from edgecl.state import State
from edgecl.view import Views
from firmware_host.merge.held_out import Held

BUILT: Final = "as built"
MERGED: Final = "merged"
LEAST_LABELS: Final = 20
"""With fewer, accuracy says little."""

Floats = npt.NDArray[np.float32]


class GateError(EdgeclError):
    """A merged state is worse than what it was made of: merge others, or otherwise."""

    exit_code = EXIT_REFUSED


@dataclass
class Score:
    """How one state answered."""

    name: str
    answers: int = 0
    known: int = 0
    right: int = 0
    compared: int = 0
    """Samples whose board's answer is known."""
    agreeing: int = 0
    entropy: float = 0.0
    """Mean, nats."""
    canaries: float = 1.0
    """Share answered right, as a guard measures it."""
    classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """How often each was answered."""

    @property
    def accuracy(self) -> float | None:
        """Where labels are known."""
        return self.right / self.known if self.known else None

    @property
    def agreement(self) -> float | None:
        """With the boards."""
        return self.agreeing / self.compared if self.compared else None

    @property
    def spread(self) -> float:
        """Entropy of the shares of classes among the answers, in nats."""
        shares = self.classes[self.classes > 0] / max(1, self.answers)
        return abs(float((shares * np.log(shares)).sum()))

    def note(self, logits: Floats, held: Sequence[Held]) -> None:
        """Count answers [n, C]."""
        scaled = logits.astype(np.float64) - logits.max(1, keepdims=True)
        log_shares = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        entropies = -(np.exp(log_shares) * log_shares).sum(1)
        labels = logits.argmax(1)
        counts = np.bincount(labels, minlength=logits.shape[1])
        self.classes = self.classes + counts if self.answers else counts
        self.answers += len(held)
        self.entropy += float((entropies - self.entropy).sum()) / self.answers
        for label, one in zip(labels.tolist(), held, strict=True):
            self.known += one.truth is not None
            self.right += one.truth == label
            self.compared += one.board is not None
            self.agreeing += one.board == label


def score(bundle: Bundle, states: Mapping[str, State], held: Iterable[Held]) -> list[Score]:
    """How the source as built and these states answer. Raises ProgramError: the engine failed."""
    manifest = bundle.manifest
    form = manifest.form_of(next(iter(states.values())).layout)
    all_states = {BUILT: read_state(bundle, form), **states}
    scores = {name: Score(name) for name in all_states}
    preprocess, method = Preprocess(manifest.input), manifest.method("infer", form=form)
    with Programs(bundle) as programs:
        for part in _parts(held, method.batch):
            filled = [part[place % len(part)].x for place in range(method.batch)]
            x = preprocess.batch(filled)
            for name, state in all_states.items():
                logits = programs.call(method, theta=state.theta, x=x)["logits"][: len(part)]
                scores[name].note(logits, part)
        if manifest.canaries.count:
            learning = Learning(
                bundle,
                programs,
                {},
                hyper=hyper_values(manifest.learner, None),
                seed=0,
                crowded=lambda: "",
                now_ns=lambda: 0,
                note=lambda record: None,
                views=Views(),
            )
            for name, state in all_states.items():
                scores[name].canaries = learning.canary_accuracy(state)
    return list(scores.values())


def check(bundle: Bundle, scores: Sequence[Score], slack: float = 0.0) -> None:
    """Raises GateError: the merged state is worse than another by more than `slack`, or fails the canaries."""
    merged = next(one for one in scores if one.name == MERGED)
    others = [one for one in scores if one.name != MERGED]
    floor = bundle.manifest.guard.canary_floor
    if merged.canaries < floor:
        raise GateError(f"merged answers {merged.canaries:.1%} of the canaries right, the floor is {floor:.1%}")
    if merged.known >= LEAST_LABELS:
        best = max(others, key=lambda one: one.right)
        if (best.right - merged.right) / merged.known > slack:
            raise GateError(
                f"merged answers {_share(merged.accuracy)} of {merged.known} held-out samples right, "
                f"{best.name} {_share(best.accuracy)}"
            )
        return
    if not merged.compared:
        raise GateError("there is no held-out sample to judge by; give journals of boards that keep samples")
    best = max(others, key=lambda one: one.agreeing)
    if (best.agreeing - merged.agreeing) / merged.compared > slack:
        raise GateError(
            f"merged gives {_share(merged.agreement)} of {merged.compared} answers that the boards gave, "
            f"{best.name} {_share(best.agreement)}"
        )
    if merged.spread < bundle.manifest.guard.entropy_floor:
        raise GateError(
            f"merged answers nearly always the same: entropy of class shares {merged.spread:.3f} nats, the floor is "
            f"{bundle.manifest.guard.entropy_floor:.3f}"
        )


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _parts(held: Iterable[Held], size: int) -> Iterator[list[Held]]:
    part: list[Held] = []
    for one in held:
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
