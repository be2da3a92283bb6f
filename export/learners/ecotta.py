"""ecotta: small meta networks beside frozen partitions, kept near the source by a local regulariser (Song et al. 2023, CVPR).

With x~_0 the first tap, F_k the frozen part between taps k-1 and k:

    x_k = F_k(x~_{k-1})        x~_k = BN_k(x_k) + ReLU(BN'_k(Conv_k(x~_{k-1})))
    L = mean of H_i over samples with H_i < 0.4 ln C, plus lambda sum_k mean |x~_k - x_k|

The regulariser of partition k trains that partition only. One forward pass serves both terms: on the way back the
parameters of partition k take the gradient of both, and only the entropy's goes on below (so nothing goes below the
first partition, and the regulariser never enters a frozen one).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from export import statistics
from export.encoder import Encoder
from export.learners import Answer, Pieces, Step, answer
from export.objectives import below, entropy, entropy_margin, mean_over
from export.optimizers import leaves, sgd, sgd_slots


@dataclass(frozen=True)
class _Partition:
    """What the way back needs of one partition."""

    entered: Tensor
    left: Tensor
    adapted: Tensor


class EcoTTA:
    """State: gamma, beta, mean, var of BN_k, the weight of Conv_k, and gamma, beta, mean, var of BN'_k."""

    hyper: Mapping[str, float] = {"lr": 5e-3, "momentum": 0.9, "lambda": 0.5, "margin": 0.4, "rate": 1.0}
    report: Sequence[str] = ("entropy", "selected", "regulariser")
    noise = 0
    open_norms = False

    def __init__(self, encoder: Encoder, kernel: int = 1, seed: int = 0) -> None:
        encoder.require_cuts()
        self.encoder, self.kernel, self.seed = encoder, kernel, seed
        self.count = len(encoder.taps) - 1
        self.trained = [n for n in self.theta() if not n.endswith((".mean", ".var"))]

    def theta(self) -> Pieces:
        pieces: Pieces = {}
        generator = torch.Generator().manual_seed(self.seed)
        for k in range(1, self.count + 1):
            entered, left = self.encoder.taps[k - 1].shape[0], self.encoder.taps[k].shape[0]
            fan_in = entered * self.kernel**2
            weight = torch.randn(left, entered, self.kernel, self.kernel, generator=generator) / fan_in**0.5
            for name in ("bn", "meta"):
                pieces |= {f"{k}.{name}.gamma": torch.ones(left), f"{k}.{name}.beta": torch.zeros(left)}
            pieces |= {f"{k}.conv": weight}
        for k in range(1, self.count + 1):
            left = self.encoder.taps[k].shape[0]
            for name in ("bn", "meta"):
                pieces |= {f"{k}.{name}.mean": torch.zeros(left), f"{k}.{name}.var": torch.ones(left)}
        return pieces

    def slots(self) -> Pieces:
        return sgd_slots(leaves(self.theta(), self.trained))

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(self._forward(theta, x, None, detach=False)[0])

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        params = leaves(theta, self.trained)
        encoded, partitions, moved = self._forward(theta | params, x, hyper["rate"], detach=True)
        h = entropy(encoded.logits)
        selected = below(h, hyper["margin"] * entropy_margin(self.encoder.classes, 1.0))
        down = _one(mean_over(h, selected), self.last)
        grads: Pieces = {}
        regulariser = torch.zeros(())
        for k in range(self.count, 0, -1):
            part = partitions[k - 1]
            difference = part.adapted.detach() - part.left.detach()
            regulariser = regulariser + difference.abs().mean()
            pull = hyper["lambda"] / difference.numel() * torch.sgn(difference)
            own = {name: params[name] for name in self.trained if name.startswith(f"{k}.")}
            both = torch.autograd.grad(part.adapted, list(own.values()), down + pull, retain_graph=True)
            grads |= dict(zip(own, both, strict=True))
            if k > 1:
                (down,) = torch.autograd.grad(part.adapted, [part.entered], down)
        grads = {name: grads[name] for name in self.trained}
        new, slots = sgd(params, grads, slots, lr=hyper["lr"], momentum=hyper["momentum"])
        some = torch.clamp(selected.sum(), max=1.0)
        report = {"entropy": h.mean(), "selected": selected.mean(), "regulariser": regulariser}
        return Step(answer(encoded), new | moved, slots, {k: v.detach() for k, v in report.items()}, some)

    def _forward(self, theta, x, rate, *, detach):
        partitions, moved = [], {}
        entered = None

        def bn(name, value):
            mean, var, gamma, beta = (theta[f"{name}.{p}"] for p in ("mean", "var", "gamma", "beta"))
            eps = torch.full_like(mean, 1e-5)
            if rate is None:
                return statistics.normalise(value, mean, var, gamma, beta, eps)
            out = statistics.adapt(value, mean, var, gamma, beta, eps, rate)
            moved.update({f"{name}.mean": out.mean.detach(), f"{name}.var": out.var.detach()})
            return out.y

        def tap(k, value):
            nonlocal entered
            if k == 0:
                adapted = value
            else:
                stride = self.encoder.taps[k - 1].shape[1] // self.encoder.taps[k].shape[1]
                meta = torch.nn.functional.conv2d(entered, theta[f"{k}.conv"], None, stride, self.kernel // 2)
                adapted = bn(f"{k}.bn", value) + torch.relu(bn(f"{k}.meta", meta))
                partitions.append(_Partition(entered, value, adapted))
            entered = adapted.detach().requires_grad_(k > 0) if detach else adapted
            if k == self.count:
                self.last = entered
            return entered

        encoded = self.encoder(x, tap=tap)
        return encoded, partitions, moved


def _one(loss: Tensor, leaf: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, [leaf])
    return gradient
