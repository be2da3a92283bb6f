"""ecotta: small meta networks beside frozen partitions, kept near the source (Song et al. 2023, CVPR).

With x~_0 the first tap, F_k the frozen part between taps k-1 and k:

    x_k = F_k(x~_{k-1})        x~_k = BN_k(x_k) + ReLU(BN'_k(Conv_k(x~_{k-1})))
    L = mean of H_i over samples with H_i < 0.4 ln C, plus lambda sum_k mean |x~_k - x_k|

The regulariser of partition k trains that partition only. One forward pass serves both terms: on the way back the
parameters of partition k take the gradient of both, and only the entropy's goes on below (so nothing goes below the
first partition, and the regulariser never enters a frozen one).

All statistics follow the stream as in `norm` (export/statistics.py), those of the frozen partitions too; `ecotta-
frozen` keeps the latter as trained and folds them away, as the paper does: faster, and weaker under shifts that
change the early layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from edgecl.errors import ProjectError
from export.encoder import Encoded, Encoder
from export.learners import Answer, Pieces, Step, answer
from export.learners.norm import Following
from export.objectives import below, cross_entropy, distance, entropy, entropy_margin, labelled, mean_over
from export.optimizers import leaves, paced, sgd, sgd_slots
from export.statistics import Anchor, Pair, measure, normalise

EPS = 1e-5
META_GAMMA = 0.1
"""Where gamma of BN'_k starts: a meta network begins as a small addition to its partition."""

Bn = Callable[[str, Tensor, Tensor, Tensor], Tensor]
"""bn(name, x [B, C, H, W], gamma [C], beta [C]): what is normalised, in the way that the pass needs."""


@dataclass(frozen=True)
class Partition:
    """What the way back needs of one partition."""

    entered: Tensor
    """x~_{k-1}"""
    left: Tensor
    """x_k"""
    adapted: Tensor
    """x~_k"""


@dataclass(frozen=True)
class Pass:
    """One pass through encoder and meta networks."""

    encoded: Encoded
    partitions: Sequence[Partition]
    last: Tensor
    """x~_K as what follows it saw it."""


class EcoTTA:
    """State: of each partition BN_k's gamma and beta, Conv_k's weight, BN'_k's gamma and beta.

    Mean and var of every normalisation.
    """

    open_norms: ClassVar = True
    hyper: Mapping[str, float] = {"lr": 5e-3, "momentum": 0.9, "lambda": 0.5, "margin": 0.4, "memory": 64.0}
    """`lr`: per 64 samples.

    `lambda`: weight of the regulariser. `margin`: of the entropy, in ln C. `memory`: samples that statistics go back.
    """
    report: Sequence[str] = ("loss", "selected", "regulariser")
    noise = 0

    def __init__(self, encoder: Encoder, kernel: int = 1, seed: int = 0) -> None:
        """`kernel`: size of Conv_k.

        Raises ProjectError: fewer than two taps, a tap that data goes around, sizes that do not fit.
        """
        if len(encoder.taps) < 2:
            raise ProjectError(
                'model.taps: ecotta needs two or more: where the first partition begins ("layer1:in"), and each end'
            )
        encoder.require_cuts()
        self.encoder, self.kernel = encoder, kernel
        self.count = len(encoder.taps) - 1
        generator = torch.Generator().manual_seed(seed)
        self.anchors = {site.name: site.anchor for site in encoder.norms}
        self.start: Pieces = {}
        for k in range(1, self.count + 1):
            entered, left = encoder.taps[k - 1].shape[0], encoder.taps[k].shape[0]
            weight = torch.randn(left, entered, kernel, kernel, generator=generator) * (2 / (left * kernel**2)) ** 0.5
            self.start |= {f"{k}.bn.gamma": torch.ones(left), f"{k}.bn.beta": torch.zeros(left), f"{k}.conv": weight}
            self.start |= {f"{k}.meta.gamma": torch.full((left,), META_GAMMA), f"{k}.meta.beta": torch.zeros(left)}
            for name in (f"{k}.bn", f"{k}.meta"):
                self.anchors[name] = Anchor(torch.zeros(left), torch.ones(left), torch.full((left,), EPS))
            self._stride(k)
        self.trained: Sequence[str] = list(self.start)

    def theta(self) -> Pieces:
        pieces = dict(self.start)
        for name, anchor in self.anchors.items():
            pieces |= {f"{name}.mean": anchor.mean, f"{name}.var": anchor.var}
        return pieces

    def slots(self) -> Pieces:
        statistics = {f"running.{name}": piece for name, piece in self.theta().items() if name not in self.start}
        return statistics | sgd_slots(self.start)

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(self._pass(theta, x, self._settled(theta)).encoded)

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        params, following = leaves(theta, self.trained), Following(slots, x, hyper["memory"])
        out = self._pass(
            params, x, lambda name, value, g, b: following(name, value, g, b, self.anchors[name]), cut=True
        )
        h = entropy(out.encoded.logits)
        selected = below(h, hyper["margin"] * entropy_margin(self.encoder.classes, 1.0))
        loss = mean_over(h, selected)
        grads, regulariser = self._gradients(params, out, loss, hyper["lambda"])
        new, slots = sgd(params, grads, slots, lr=paced(hyper["lr"], x), momentum=hyper["momentum"])
        report = {"loss": loss.detach(), "selected": selected.mean(), "regulariser": regulariser}
        some = torch.clamp(selected.sum(), max=1.0)
        return Step(answer(out.encoded), new | following.used, following.running | slots, report, some)

    def learn(self, theta: Pieces, slots: Pieces, x: Tensor, y: Tensor, hyper: Pieces) -> Step:
        """By cross-entropy, with the statistics that the stream left; they do not follow labelled samples."""
        params = leaves(theta, self.trained)
        out = self._pass(params, x, self._settled(theta), cut=True)
        loss = mean_over(cross_entropy(out.encoded.logits, y), labelled(y))
        grads, regulariser = self._gradients(params, out, loss, hyper["lambda"])
        new, slots = sgd(params, grads, slots, lr=paced(hyper["lr"], x), momentum=hyper["momentum"])
        share = labelled(y).mean()
        report = {"loss": loss.detach(), "selected": share, "regulariser": regulariser}
        return Step(answer(out.encoded), new, slots, report, torch.clamp(labelled(y).sum(), max=1.0))

    # before deployment: export/warmup.py

    def warm(self, params: Pieces, x: Tensor) -> Tensor:
        """Logits [B, C] with the statistics of the batch, gradients through everything."""

        def bn(name: str, value: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            eps = float(self.anchors[name].eps.mean())
            return torch.nn.functional.batch_norm(value, None, None, gamma, beta, True, 0.0, eps)

        return self._pass(params, x, bn).encoded.logits

    def begin(self, x: Tensor) -> None:
        """Make every BN_k pass on what it gets, for source data x [N, ...].

        Meta networks begin from the network as trained.
        """
        self.settle(self.start, x, identity=True)

    def settle(self, params: Pieces, x: Tensor, *, identity: bool = False) -> None:
        """Start from these parameters, and from the statistics that they see on source data x [N, ...]."""
        start = {name: piece.to(x) for name, piece in params.items()}

        def bn(name: str, value: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            anchor = measure(value, self.anchors[name].eps)
            self.anchors[name] = anchor
            if identity and name.endswith(".bn"):
                gamma, beta = torch.sqrt(anchor.var + anchor.eps), anchor.mean
                start.update({f"{name}.gamma": gamma, f"{name}.beta": beta})
            return normalise(value, Pair(anchor.mean, anchor.var), gamma, beta, anchor.eps)

        with torch.no_grad():
            self._pass(start, x, bn)
        self.start = {name: piece.detach().clone() for name, piece in start.items()}

    # parts

    def _settled(self, theta: Pieces) -> Bn:
        """Normalise with the pairs of theta."""

        def bn(name: str, value: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            used = Pair(theta[f"{name}.mean"], theta[f"{name}.var"])
            return normalise(value, used, gamma, beta, self.anchors[name].eps.to(value))

        return bn

    def _pass(self, params: Pieces, x: Tensor, bn: Bn, *, cut: bool = False) -> Pass:
        """One pass; `cut` makes each partition's input a leaf, so that each is differentiated on its own."""
        partitions: list[Partition] = []
        entered: list[Tensor] = []

        def norm(index: int, value: Tensor) -> Tensor:
            site = self.encoder.norms[index]
            return bn(site.name, value, site.gamma.to(value), site.beta.to(value))

        def tap(k: int, value: Tensor) -> Tensor:
            image = value if value.dim() == 4 else value.reshape(*value.shape, 1, 1)
            adapted = image
            if k:
                meta = conv2d(entered[-1], params[f"{k}.conv"], None, self._stride(k), self.kernel // 2)
                adapted = bn(f"{k}.bn", image, params[f"{k}.bn.gamma"], params[f"{k}.bn.beta"])
                adapted = adapted + torch.relu(
                    bn(f"{k}.meta", meta, params[f"{k}.meta.gamma"], params[f"{k}.meta.beta"])
                )
                partitions.append(Partition(entered[-1], image, adapted))
            entered.append(adapted.detach().requires_grad_(k > 0) if cut else adapted)
            return entered[-1].reshape(value.shape)

        encoded = self.encoder(x, norm=norm, tap=tap)
        return Pass(encoded, partitions, entered[-1])

    def _gradients(self, params: Pieces, out: Pass, loss: Tensor, weight: Tensor) -> tuple[Pieces, Tensor]:
        """Gradients of every parameter, and the sum of the regularisers."""
        (down,) = torch.autograd.grad(loss, [out.last])
        grads: Pieces = {}
        regulariser = loss.new_zeros(())
        for k in range(self.count, 0, -1):
            part = out.partitions[k - 1]
            adapted, left = part.adapted.detach(), part.left.detach()
            regulariser = regulariser + distance(adapted, left)
            pull = weight / adapted.numel() * torch.sgn(adapted - left)
            own = {name: params[name] for name in self.trained if name.startswith(f"{k}.")}
            both = torch.autograd.grad(part.adapted, list(own.values()), down + pull, retain_graph=True)
            grads |= dict(zip(own, both, strict=True))
            if k > 1:
                (down,) = torch.autograd.grad(part.adapted, [part.entered], down)
        return {name: grads[name] for name in self.trained}, regulariser

    def _stride(self, k: int) -> tuple[int, int]:
        entered, left = ((*tap.shape, 1, 1)[1:3] for tap in self.encoder.taps[k - 1 : k + 1])
        stride = tuple(-(-a // b) for a, b in zip(entered, left, strict=True))
        if any(-(-a // s) != b for a, b, s in zip(entered, left, stride, strict=True)):
            names = [tap.name for tap in self.encoder.taps[k - 1 : k + 1]]
            raise ProjectError(
                f"model.taps: {names[1]} is {list(left)}, no part of {names[0]}'s {list(entered)}; choose other taps"
            )
        return stride[0], stride[1]


class FrozenEcoTTA(EcoTTA):
    """EcoTTA with the batch normalisations of the encoder folded away."""

    open_norms: ClassVar = False
