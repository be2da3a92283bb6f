"""Chooses, among the forms that a bundle carries, that of a new domain, by zero-cost scores on the domain's samples.

The same ranking as `edgecl search` makes on the host (export/search.py): rank(ZiCo) + rank(NASWOT) + rank(-kappa), ties
to the smaller state, as a mean over DRAWS draws of the pieces. A `score` method gives for one sample the gradients of
its summed logits and of its cross-entropy, and the inputs of the activations above; the rest is sums.

Labels are the network's own answers. No gradient is followed, so nothing is learned here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
import numpy.typing as npt

from edgecl.manifest import Manifest
from edgecl.programs import Programs
from edgecl.proxies import condition, naswot, rank_sums, zico
from edgecl.state import State

Floats = npt.NDArray[np.float32]

SCORED: Final = 32
"""Samples in a batch: two for ZiCo, the first of them for NASWOT, half of it for the kernel."""
SAMPLES: Final = 2 * SCORED
DRAWS: Final = 3
JITTER: Final = 0.1
"""How far a draw is from the pieces as built, in 1 / sqrt(fan-in). As built, all forms compute the same."""
_DRAWN: Final = 1 << 66
"""Where random numbers begin, apart from those of a learner's noise and of rehearsal."""


@dataclass(frozen=True)
class Scored:
    """What was found of one form; means over draws."""

    form: str
    """Empty for the first one."""
    zico: float
    naswot: float
    condition: float
    rank: float
    """From 0; lower is better."""


def choose(manifest: Manifest, programs: Programs, built: Sequence[State], x: Floats, y: Floats) -> list[Scored]:
    """Rank the forms, best first, on samples x [SAMPLES, ...] as the program takes them, and answers y [SAMPLES, C].

    `built`: the states as built, in the order of the manifest's forms. Raises ProgramError.
    """
    names = list(manifest.layouts)
    each = [
        [_scores(manifest, programs, form, _drawn(state, draw), x, y) for form, state in zip(names, built, strict=True)]
        for draw in range(DRAWS)
    ]
    places = [rank_sums(scores) for scores in each]
    found = [
        Scored(
            form=form,
            zico=fmean(scores[place][0] for scores in each),
            naswot=fmean(scores[place][1] for scores in each),
            condition=fmean(scores[place][2] for scores in each),
            rank=fmean(of[place] for of in places),
        )
        for place, form in enumerate(names)
    ]
    sizes = {form: layout.theta_size + layout.slots_size for form, layout in manifest.layouts.items()}
    return sorted(found, key=lambda one: (one.rank, sizes[one.form]))


def _scores(
    manifest: Manifest, programs: Programs, form: str, state: State, x: Floats, y: Floats
) -> tuple[float, float, float]:
    method = manifest.method("score", 1, form)
    gradients, tangents, gates = [], [], []
    for place in range(SAMPLES):
        out = programs.call(method, theta=state.theta, x=x[place : place + 1], y=y[place : place + 1])
        gradients.append(out["gradient"].astype(np.float64))
        if place < SCORED:
            gates.append(out["gates"] > 0 if "gates" in out else np.zeros(0, np.bool_))
        if place < SCORED // 2:
            tangents.append(out["tangent"].astype(np.float64))
    batches = np.stack([np.mean(gradients[:SCORED], axis=0), np.mean(gradients[SCORED:], axis=0)])
    trained = manifest.trained(form)
    layers = {
        piece.name: batches[:, piece.offset : piece.offset + piece.size]
        for piece in state.layout.theta
        if piece.name in trained
    }
    return zico(layers), naswot([np.stack(gates)]), condition(np.stack(tangents))


def _drawn(state: State, draw: int) -> State:
    random = np.random.Generator(np.random.Philox(key=np.array([0, draw], np.uint64), counter=_DRAWN))
    theta = state.theta.copy()
    for piece in state.layout.theta:
        fan_in = max(1, piece.size // piece.shape[0]) if piece.shape else 1
        theta[piece.offset : piece.offset + piece.size] += (
            JITTER / math.sqrt(fan_in) * random.standard_normal(piece.size, dtype=np.float32)
        )
    return State(state.layout, theta, state.slots)
