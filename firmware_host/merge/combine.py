"""Several states of one layout become one.

Statistics of normalisations are means and variances of what came in; a mean of variances is none of a mixture. So each
pair of pieces `<name>.mean` and `<name>.var` is pooled, by the number of samples that each state has learned from.
Everything else of theta is averaged, or merged one after another; everything else of the slots (momentum) is averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from edgecl.manifest import Piece
from edgecl.state import State, Vector
from firmware_host.merge import formulas
from firmware_host.merge.formulas import Doubles

Method = Literal["average", "sequential"]
Weights = Literal["updates", "equal"]

MEAN: Final = ".mean"
VAR: Final = ".var"


@dataclass(frozen=True)
class Recipe:
    """How states are merged."""

    method: Method = "average"
    weights: Weights = "updates"
    """By which states count: that of one with more updates more, or all alike. Sequential merging itself has none."""
    alpha: float = formulas.ALPHA


def merge(states: Sequence[State], built: State, recipe: Recipe) -> State:
    """One state, of as many updates as the one that has most. `built` is what all began from."""
    counts = [float(state.step) if recipe.weights == "updates" else 1.0 for state in states]
    shares = formulas.shares(counts)
    layout = built.layout
    theta = _statistics(layout.theta, [state.theta for state in states], shares)
    weights = [piece for piece in layout.theta if piece.name not in theta]
    if recipe.method == "sequential":
        moved = formulas.sequential(
            [
                {piece.name: _cut(state.theta, piece) - _cut(built.theta, piece) for piece in weights}
                for state in states
            ],
            recipe.alpha,
        )
        theta |= {piece.name: _cut(built.theta, piece) + moved[piece.name] for piece in weights}
    else:
        theta |= _averages(weights, [state.theta for state in states], shares)
    slots = _statistics(layout.slots, [state.slots for state in states], shares)
    rest = [piece for piece in layout.slots if piece.name not in slots]
    slots |= _averages(rest, [state.slots for state in states], shares)
    return State(
        layout,
        _vector(layout.theta, theta),
        _vector(layout.slots, slots),
        max(state.step for state in states),
        max(state.seen for state in states),
    )


def pairs(pieces: Sequence[Piece]) -> list[tuple[Piece, Piece]]:
    """Means and variances that belong together."""
    named = {piece.name: piece for piece in pieces}
    found = []
    for piece in pieces:
        other = named.get(piece.name.removesuffix(MEAN) + VAR) if piece.name.endswith(MEAN) else None
        if other and other.shape == piece.shape:
            found.append((piece, other))
    return found


def _statistics(pieces: Sequence[Piece], vectors: Sequence[Vector], shares: Sequence[float]) -> dict[str, Doubles]:
    found: dict[str, Doubles] = {}
    for mean, var in pairs(pieces):
        found[mean.name], found[var.name] = formulas.pooled(
            [_cut(vector, mean) for vector in vectors], [_cut(vector, var) for vector in vectors], shares
        )
    return found


def _averages(pieces: Sequence[Piece], vectors: Sequence[Vector], shares: Sequence[float]) -> dict[str, Doubles]:
    return {piece.name: formulas.mean([_cut(vector, piece) for vector in vectors], shares) for piece in pieces}


def _cut(vector: Vector, piece: Piece) -> Doubles:
    return vector[piece.offset : piece.offset + piece.size].reshape(piece.shape).astype(np.float64)


def _vector(pieces: Sequence[Piece], values: Mapping[str, Doubles]) -> Vector:
    flat = np.zeros(sum(piece.size for piece in pieces), np.float32)
    for piece in pieces:
        flat[piece.offset : piece.offset + piece.size] = values[piece.name].reshape(-1)
    return flat
