"""A learner of one's own: it moves the bias of the logits until each class is as probable as it should be."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from export.encoder import Encoder
from export.learners import Answer, Pieces, Step, answer
from export.optimizers import gradients, leaves, paced


class BiasOnly:
    """State: one number a class, added to its logit. Slots: how probable each class was lately, on average.

    The loss is the cross-entropy -sum_c prior_c ln share_c: least where the shares are the prior.
    """

    open_norms = False
    hyper: Mapping[str, float] = {"lr": 8.0, "keep": 0.9}
    report: Sequence[str] = ("loss",)
    noise = 0
    trained: Sequence[str] = ("bias",)

    def __init__(self, encoder: Encoder, prior: Sequence[float] | None = None) -> None:
        """`prior`: how probable each class should be; all the same when left out."""
        self.encoder = encoder
        self.prior = torch.full((encoder.classes,), 1 / encoder.classes) if prior is None else torch.tensor(prior)

    def theta(self) -> Pieces:
        return {"bias": torch.zeros(self.encoder.classes)}

    def slots(self) -> Pieces:
        return {"shares": self.prior.clone()}

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        encoded = answer(self.encoder(x))
        return Answer(encoded.logits + theta["bias"], encoded.taps)

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        params = leaves(theta, self.trained)
        out = self.infer(params, x)
        batch = torch.softmax(out.logits, 1).mean(0)
        shares = hyper["keep"] * slots["shares"] + (1 - hyper["keep"]) * batch
        loss = -(self.prior * torch.log(shares)).sum()
        slope = gradients(loss, params)["bias"]
        bias = theta["bias"] - paced(hyper["lr"], x) * slope
        now = Answer(out.logits.detach(), out.taps)
        return Step(now, {"bias": bias}, {"shares": shares.detach()}, {"loss": loss.detach()})
