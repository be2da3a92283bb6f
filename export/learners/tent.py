"""tent: entropy minimisation of the affine parameters of batch normalisation (Wang et al. 2021, ICLR)."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from export.encoder import Encoder
from export.learners import Answer, Pieces, Step, answer
from export.learners.norm import affine, run
from export.objectives import entropy
from export.optimizers import adam, adam_slots, gradients, leaves


class Tent:
    """State: gamma, beta, mean and var of every batch normalisation."""

    hyper: Mapping[str, float] = {"lr": 1e-3, "rate": 0.1}
    report: Sequence[str] = ("entropy",)
    noise = 0
    open_norms = True

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.trained = list(affine(encoder))

    def theta(self) -> Pieces:
        pieces = affine(self.encoder)
        for site in self.encoder.norms:
            pieces |= {f"{site.name}.mean": site.mean, f"{site.name}.var": site.var}
        return pieces

    def slots(self) -> Pieces:
        return adam_slots(affine(self.encoder))

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(run(self.encoder, theta, x, None)[0])

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        params = leaves(theta, self.trained)
        encoded, moved = run(self.encoder, theta | params, x, hyper["rate"])
        loss = entropy(encoded.logits).mean()
        params, slots = adam(params, gradients(loss, params), slots, lr=hyper["lr"])
        return Step(answer(encoded), params | moved, slots, {"entropy": loss.detach()})
