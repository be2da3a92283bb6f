"""Learners: pure functions from state and batch to answers and new state, one file each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from export.encoder import Encoded

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

    hyper: Mapping[str, float]
    """Numbers that a step takes at run time, with their defaults."""
    report: Sequence[str]
    """Names of the numbers that a step reports."""
    noise: int
    """Random numbers in [0, 1) that a step takes."""

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


def answer(encoded: Encoded) -> Answer:
    """Logits, and the taps averaged over their positions."""
    pooled = [tap.mean((2, 3)) if tap.dim() == 4 else tap.flatten(1) for tap in encoded.taps]
    taps = torch.cat(pooled, 1) if pooled else encoded.logits.new_zeros(len(encoded.logits), 0)
    return Answer(encoded.logits.detach(), taps.detach())
