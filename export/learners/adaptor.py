"""adaptor: one form of adaptor (export/adaptors.py) at some taps of an encoder that is folded and frozen.

Without labels it minimises the entropy of sure samples, as in EATA (Niu et al. 2022, Eq. 3); with labels the cross-
entropy, or the loss of proxy-based contrastive replay (Lin et al. 2023, PCR). The head stays as trained, unless it is
to learn too: then labels move it, and nothing else does.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor

from edgecl.errors import ProjectError
from export import adaptors
from export.adaptors import Place
from export.encoder import Encoded, Encoder
from export.learners import Answer, Pieces, Step, answer
from export.objectives import below, cross_entropy, entropy, entropy_margin, labelled, mean_over, proxy_contrast
from export.optimizers import gradients, leaves, paced, sgd, sgd_slots

LOSSES: Final = ("cross-entropy", "pcr")

HEAD: Final = "head"
PROXIES: Final = f"{HEAD}.weight"
"""What PCR compares features with: the rows of the head. It leaves their bias alone."""
HEAD_MOMENTUM: Final = f"{HEAD}.momentum"
INPUT: Final = "input"


class Adaptor:
    """State: the pieces of the form at each place, then `head.weight` and `head.bias` where the head learns.

    Slots: momentum.
    """

    open_norms: ClassVar = False
    hyper: Mapping[str, float] = {"lr": 1e-3, "momentum": 0.9, "margin": 0.4, "temperature": 0.09}
    """`lr`: per 64 samples; with more, some forms collapse on a ResNet-20 under corruption. `margin`: of the entropy,
    in ln C. `temperature`: of `pcr`.
    """
    report: Sequence[str] = ("loss", "selected")
    noise = 0

    def __init__(
        self,
        encoder: Encoder,
        form: str = "film",
        at: Sequence[str] | None = None,
        loss: Literal["cross-entropy", "pcr"] = "cross-entropy",
        head: bool = False,
        seed: int = 0,
    ) -> None:
        """`form`: a name of ADAPTORS. `at`: names of taps, all that the form can stand at when left out. `loss`: of
        learning with labels. `head`: whether the final linear layer learns. `seed`: of what is random at first.

        Raises ProjectError: unknown names, no taps, a form that does not fit, a head that is no linear layer.
        """
        self.encoder, self.form = encoder, adaptors.find(form)
        if loss not in LOSSES:
            raise ProjectError(f'learner.settings.loss "{loss}": unknown; choose {", ".join(LOSSES)}')
        trained = encoder.head
        if trained is None and (head or loss == "pcr"):
            raise ProjectError("learner.settings: head and pcr need a network that ends in a linear layer")
        self.loss = loss
        self.places = self._places(form, at)
        random = torch.Generator().manual_seed(seed)
        self.start: Pieces = {}
        for key, place in self.places.items():
            pieces = self.form.start(place, random)
            self.start |= {f"{key}.{name}": piece for name, piece in pieces.items()}
        self._head: Pieces = {}
        if trained is not None:
            parts = {"weight": trained.weight, "bias": trained.bias}
            self._head = {f"{HEAD}.{name}": part for name, part in parts.items() if part is not None}
        self._learned = {}
        if head:
            self._learned = {name: part for name, part in self._head.items() if loss != "pcr" or name == PROXIES}
        self.trained: Sequence[str] = [*self.start, *self._learned]

    def theta(self) -> Pieces:
        return self.start | self._learned

    def slots(self) -> Pieces:
        head = {HEAD_MOMENTUM: sgd_slots(self._learned)["momentum"]} if self._learned else {}
        return sgd_slots(self.start) | head

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(self._pass(theta, x))

    def adapt(self, theta: Pieces, slots: Pieces, x: Tensor, noise: Tensor, hyper: Pieces) -> Step:
        params = leaves(theta, list(self.start))
        encoded = self._pass(theta | params, x)
        h = entropy(encoded.logits)
        selected = below(h, hyper["margin"] * entropy_margin(self.encoder.classes, 1.0))
        loss = mean_over(h, selected)
        new, moved = self._descend(params, gradients(loss, params), slots, x, hyper)
        report = {"loss": loss.detach(), "selected": selected.mean()}
        return Step(answer(encoded), new, moved, report, torch.clamp(selected.sum(), max=1.0))

    def learn(self, theta: Pieces, slots: Pieces, x: Tensor, y: Tensor, hyper: Pieces) -> Step:
        """By cross-entropy or PCR, whose joint batch of new and stored samples is the batch given."""
        params = leaves(theta, self.trained)
        encoded = self._pass(theta | params, x)
        known = labelled(y)
        if self.loss == "pcr":
            assert encoded.features is not None
            proxies = (self._head | params)[PROXIES].to(x)
            losses = proxy_contrast(encoded.features, proxies, y, hyper["temperature"])
        else:
            losses = cross_entropy(encoded.logits, y)
        loss = mean_over(losses, known)
        new, moved = self._descend(params, gradients(loss, params), slots, x, hyper)
        report = {"loss": loss.detach(), "selected": known.mean()}
        return Step(answer(encoded), new, moved, report, torch.clamp(known.sum(), max=1.0))

    def logits(self, pieces: Pieces, x: Tensor) -> Tensor:
        """Of x [B, ...], differentiable in the pieces: what export/search.py scores."""
        return self._pass(pieces, x).logits

    # parts

    def _places(self, form: str, at: Sequence[str] | None) -> dict[str, Place]:
        """By the name that their pieces begin with: the number of the tap from 1, or `input`."""
        if self.form.stands == "input":
            if at:
                raise ProjectError(f"learner.settings.at: {form} stands before the encoder; leave it out")
            return {INPUT: Place(INPUT, adaptors.as_image(self.encoder.input_shape))}
        taps = self.encoder.taps
        known = [tap.name for tap in taps]
        wanted = known[1 if self.form.reads_before else 0 :] if at is None else at
        for name in wanted:
            if name not in known:
                raise ProjectError(
                    f'learner.settings.at: no tap "{name}"; model.taps names {", ".join(known) or "none"}'
                )
        if not wanted:
            raise ProjectError(f"model.taps: {form} stands at taps, and there are too few; name some")
        shapes = [adaptors.as_image(tap.shape) for tap in taps]
        return {
            str(k + 1): Place(name, shapes[k], shapes[k - 1] if k else None)
            for k, name in enumerate(known)
            if name in wanted
        }

    def _pass(self, pieces: Pieces, x: Tensor) -> Encoded:
        before: list[Tensor] = []

        def adapted(key: str, value: Tensor) -> Tensor:
            image = value.reshape(len(value), *adaptors.as_image(tuple(value.shape[1:])))
            if key in self.places:
                own = {name[len(key) + 1 :]: piece for name, piece in pieces.items() if name.startswith(f"{key}.")}
                image = self.form.apply(own, image, before[-1] if before else image)
            before.append(image)
            return image.reshape(value.shape)

        def classify(features: Tensor) -> Tensor:
            head = self._head | pieces
            logits = features @ head[PROXIES].t()
            return logits + head[f"{HEAD}.bias"].to(x) if f"{HEAD}.bias" in head else logits

        x = adapted(INPUT, x) if INPUT in self.places else x
        encoded: Encoded = self.encoder(
            x, tap=lambda k, value: adapted(str(k + 1), value), head=classify if self._learned else None
        )
        return encoded

    def _descend(self, params: Pieces, grads: Pieces, slots: Pieces, x: Tensor, hyper: Pieces) -> tuple[Pieces, Pieces]:
        """SGD with momentum; the head has a momentum of its own, as it does not always learn."""
        new: Pieces = {}
        moved: Pieces = {}
        for slot, names in (("momentum", list(self.start)), (HEAD_MOMENTUM, list(self._learned))):
            own = {name: params[name] for name in names if name in params}
            if own:
                pull, momentum = {name: grads[name] for name in own}, {"momentum": slots[slot]}
                step, after = sgd(own, pull, momentum, lr=paced(hyper["lr"], x), momentum=hyper["momentum"])
                new |= step
                moved[slot] = after["momentum"]
        return new, moved
