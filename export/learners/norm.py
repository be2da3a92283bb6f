"""norm: batch-normalisation statistics that follow the input; no gradients.

Schneider et al. 2020 (NeurIPS) and Nado et al. 2020 replace the statistics by those of the batch; see export/statistics.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from export import statistics
from export.encoder import Encoded, Encoder
from export.learners import Answer, Pieces, Step, answer


class Norm:
    """State: mean and var of every batch normalisation."""

    hyper: Mapping[str, float] = {"rate": 0.1}
    report: Sequence[str] = ("entropy",)
    noise = 0
    open_norms = True

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def theta(self) -> Pieces:
        pieces: Pieces = {}
        for site in self.encoder.norms:
            pieces |= {f"{site.name}.mean": site.mean, f"{site.name}.var": site.var}
        return pieces

    def slots(self) -> Pieces:
        return {}

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(run(self.encoder, affine(self.encoder) | theta, x, None)[0])

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        from export.objectives import entropy

        encoded, moved = run(self.encoder, affine(self.encoder) | theta, x, hyper["rate"])
        return Step(answer(encoded), moved, slots, {"entropy": entropy(encoded.logits).mean()})


def affine(encoder: Encoder) -> Pieces:
    """gamma and beta of every norm, as trained."""
    pieces: Pieces = {}
    for site in encoder.norms:
        pieces |= {f"{site.name}.gamma": site.gamma, f"{site.name}.beta": site.beta}
    return pieces


def run(encoder: Encoder, theta: Pieces, x: Tensor, rate: Tensor | None) -> tuple[Encoded, Pieces]:
    """One pass with the norms' pieces from theta; with a rate, the statistics move and are returned."""
    moved: Pieces = {}

    def norm(index: int, value: Tensor) -> Tensor:
        site = encoder.norms[index]
        mean, var, gamma, beta = (theta[f"{site.name}.{part}"].to(value) for part in ("mean", "var", "gamma", "beta"))
        if rate is None:
            return statistics.normalise(value, mean, var, gamma, beta, site.eps.to(value))
        out = statistics.adapt(value, mean, var, gamma, beta, site.eps.to(value), rate)
        moved.update({f"{site.name}.mean": out.mean.detach(), f"{site.name}.var": out.var.detach()})
        return out.y

    return encoder(x, norm=norm), moved
