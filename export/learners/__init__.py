"""Learners: pure functions from state and batch to answers and new state, one file each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeGuard

import torch
from torch import Tensor

from export.encoder import Encoded, Encoder

Pieces = dict[str, Tensor]
"""Named pieces of theta or slots; their order is the order of the layout."""


@dataclass(frozen=True)
class Answer:
    """Logits [B, C] and pooled taps [B, F] of a batch."""

    logits: Tensor
    taps: Tensor


@dataclass(frozen=True)
class Step:
    """What one update returns. Pieces that it does not name stay as they were."""

    answer: Answer
    theta: Pieces
    slots: Pieces
    report: Pieces
    applied: Tensor | None = None
    """A number, 1 or 0: where 0, theta and slots stay exactly as they were. None counts as 1."""


class Learner(Protocol):
    """Made once for an encoder; all that changes afterwards is in theta and slots."""

    open_norms: ClassVar[bool]
    """Whether its encoder keeps batch normalisations open, or folds them away."""
    encoder: Encoder
    """The frozen network; the build may put one in int8 in its place."""
    hyper: Mapping[str, float]
    """Numbers that a step takes at run time, with their defaults."""
    report: Sequence[str]
    """Names of the numbers that a step reports."""
    noise: int
    """Random numbers in [0, 1) that a step takes."""
    trained: Sequence[str]
    """Pieces of theta that gradients change."""

    def theta(self) -> Pieces:
        """The state as built."""

    def slots(self) -> Pieces:
        """Optimizer and running averages as built."""

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        """Answer x [B, ...]; nothing changes."""


class Adapts(Learner, Protocol):
    """A learner that learns without labels."""

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        """One update on x [B, ...]."""


class Trains(Learner, Protocol):
    """A learner that learns from labels."""

    def learn(self, theta: Pieces, slots: Pieces, x: Tensor, y: Tensor, hyper: Pieces) -> Step:
        """One update on x [B, ...] with y [B, C], class probabilities; a row of zeros leaves its sample out."""


class Scored(Learner, Protocol):
    """A learner of which a bundle may carry several forms, which the board ranks (edgecl/forms.py)."""

    def logits(self, pieces: Pieces, x: Tensor) -> Tensor:
        """Logits [B, C] of x [B, ...], differentiable in the trained pieces."""


class Warms(Learner, Protocol):
    """A learner whose parameters are trained on source data before deployment (export/warmup.py)."""

    start: Pieces
    """The parameters as built."""

    def begin(self, x: Tensor) -> None:
        """Choose the parameters to begin from, given source data x [N, ...]."""

    def warm(self, params: Pieces, x: Tensor) -> Tensor:
        """Logits [B, C] for source data x [B, ...], differentiable in the parameters."""

    def settle(self, params: Pieces, x: Tensor) -> None:
        """Make these the parameters as built, given source data x [N, ...]."""


def adapts(learner: Learner) -> TypeGuard[Adapts]:
    """Whether it learns without labels."""
    return hasattr(learner, "adapt")


def trains(learner: Learner) -> TypeGuard[Trains]:
    """Whether it learns from labels."""
    return hasattr(learner, "learn")


def scored(learner: Learner) -> TypeGuard[Scored]:
    """Whether its forms can be ranked."""
    return hasattr(learner, "logits")


def warms(learner: Learner) -> TypeGuard[Warms]:
    """Whether it is trained on source data before deployment."""
    return hasattr(learner, "warm")


def answer(encoded: Encoded) -> Answer:
    """Logits, and the taps averaged over their positions."""
    pooled = [tap.mean((2, 3)) if tap.dim() == 4 else tap.flatten(1) for tap in encoded.taps]
    taps = torch.cat(pooled, 1) if pooled else encoded.logits.new_zeros(len(encoded.logits), 0)
    return Answer(encoded.logits.detach(), taps.detach())
