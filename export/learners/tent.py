"""tent: entropy minimisation of the affine parameters of batch normalisation (Wang et al. 2021, ICLR).

The statistics follow the stream as in `norm`, and count as constants on the way back. The learning rate is per 64
samples, so that a bundle may change its batch size without changing how fast it learns.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from export.encoder import Encoder
from export.learners import Answer, Pieces, Step, answer
from export.learners.norm import Following, affine, follow_encoder, run, running, statistics
from export.objectives import cross_entropy, entropy, labelled, mean_over
from export.optimizers import adam, adam_slots, gradients, leaves, paced


class Tent:
    """State: gamma, beta, mean and var of every batch normalisation. Slots: running statistics, and those of Adam."""

    open_norms: ClassVar = True
    hyper: Mapping[str, float] = {"lr": 1e-3, "memory": 64.0}
    """`lr`: of Adam, per 64 samples. `memory`: samples that the running statistics go back."""
    report: Sequence[str] = ("loss",)
    noise = 0

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.trained: Sequence[str] = list(affine(encoder))

    def theta(self) -> Pieces:
        return affine(self.encoder) | statistics(self.encoder)

    def slots(self) -> Pieces:
        return running(self.encoder) | adam_slots(affine(self.encoder))

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(run(self.encoder, theta, x))

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        params, following = leaves(theta, self.trained), Following(slots, x, hyper["memory"])
        encoded = follow_encoder(self.encoder, params, following, x)
        loss = entropy(encoded.logits).mean()
        params, moments = adam(params, gradients(loss, params), slots, lr=paced(hyper["lr"], x))
        return Step(answer(encoded), params | following.used, following.running | moments, {"loss": loss.detach()})

    def learn(self, theta: Pieces, slots: Pieces, x: Tensor, y: Tensor, hyper: Pieces) -> Step:
        """By cross-entropy, with the statistics that the stream left; they do not follow labelled samples."""
        params = leaves(theta, self.trained)
        encoded = run(self.encoder, theta | params, x)
        loss = mean_over(cross_entropy(encoded.logits, y), labelled(y))
        params, moments = adam(params, gradients(loss, params), slots, lr=paced(hyper["lr"], x))
        some = torch.clamp(labelled(y).sum(), max=1.0)
        return Step(answer(encoded), params, moments, {"loss": loss.detach()}, some)
