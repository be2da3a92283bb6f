"""norm: batch-normalisation statistics that follow the input; no gradients.

Schneider et al. 2020 (NeurIPS) and Nado et al. 2020 replace the statistics by those of the batch. Here they follow
the stream at any batch size, and stay those of the source while the input does: export/statistics.py.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from export.encoder import Encoded, Encoder
from export.learners import Answer, Pieces, Step, answer
from export.objectives import entropy
from export.statistics import Anchor, Pair, draw, follow, normalise, pace


class Norm:
    """State: mean and var that every batch normalisation uses. Slots: the running ones."""

    open_norms: ClassVar = True
    hyper: Mapping[str, float] = {"memory": 64.0}
    """`memory`: samples that the running statistics go back."""
    report: Sequence[str] = ("entropy",)
    noise = 0
    trained: Sequence[str] = ()

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def theta(self) -> Pieces:
        return statistics(self.encoder)

    def slots(self) -> Pieces:
        return running(self.encoder)

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(run(self.encoder, affine(self.encoder, x) | theta, x))

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        following = Following(slots, x, hyper["memory"])
        encoded = follow_encoder(self.encoder, affine(self.encoder, x), following, x)
        return Step(answer(encoded), following.used, following.running, {"entropy": entropy(encoded.logits).mean()})


def affine(encoder: Encoder, like: Tensor | None = None) -> Pieces:
    """gamma and beta of every norm, as trained."""
    pieces: Pieces = {}
    for site in encoder.norms:
        pieces |= {f"{site.name}.gamma": site.gamma, f"{site.name}.beta": site.beta}
    return pieces if like is None else {name: piece.to(like) for name, piece in pieces.items()}


def statistics(encoder: Encoder) -> Pieces:
    """mean and var of every norm, as built: those of the source."""
    pieces: Pieces = {}
    for site in encoder.norms:
        pieces |= {f"{site.name}.mean": site.anchor.mean, f"{site.name}.var": site.anchor.var}
    return pieces


def running(encoder: Encoder) -> Pieces:
    """The running statistics, as built."""
    return {f"running.{name}": piece for name, piece in statistics(encoder).items()}


def run(encoder: Encoder, theta: Pieces, x: Tensor) -> Encoded:
    """One pass with mean, var, gamma and beta of every norm from theta."""

    def norm(index: int, value: Tensor) -> Tensor:
        name, eps = encoder.norms[index].name, encoder.norms[index].anchor.eps.to(value)
        used = Pair(theta[f"{name}.mean"], theta[f"{name}.var"])
        return normalise(value, used, theta[f"{name}.gamma"], theta[f"{name}.beta"], eps)

    encoded: Encoded = encoder(x, norm=norm)
    return encoded


class Following:
    """Normalisations whose statistics follow one batch; keeps what they used and where the running statistics went."""

    def __init__(self, slots: Pieces, x: Tensor, memory: Tensor) -> None:
        self.used: Pieces = {}
        self.running: Pieces = {}
        self._slots, self._pace = slots, pace(memory, len(x))

    def __call__(self, name: str, x: Tensor, gamma: Tensor, beta: Tensor, anchor: Anchor) -> Tensor:
        """Normalise x [B, C, H, W]."""
        anchor = anchor.to(x)
        now = follow(x, Pair(self._slots[f"running.{name}.mean"], self._slots[f"running.{name}.var"]), self._pace)
        used = draw(now, anchor, self._pace)
        self.running |= {f"running.{name}.mean": now.mean, f"running.{name}.var": now.var}
        self.used |= {f"{name}.mean": used.mean, f"{name}.var": used.var}
        return normalise(x, used, gamma, beta, anchor.eps)


def follow_encoder(encoder: Encoder, affines: Pieces, following: Following, x: Tensor) -> Encoded:
    """One pass in which the statistics of every norm follow x."""

    def norm(index: int, value: Tensor) -> Tensor:
        site = encoder.norms[index]
        return following(site.name, value, affines[f"{site.name}.gamma"], affines[f"{site.name}.beta"], site.anchor)

    encoded: Encoded = encoder(x, norm=norm)
    return encoded
