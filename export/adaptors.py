"""Adaptor forms: the small trainable parts that stand at the taps of a frozen encoder, or before its input.

A form is told a place and gives named pieces to start with, so that the network with them answers as it was trained;
`apply` computes what stands there from now on. `ADAPTORS` is the table. Vectors [C] count as images [C, 1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Final, Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from edgecl.errors import ProjectError
from export.learners import Pieces


@dataclass(frozen=True)
class Place:
    """Where an adaptor stands; shapes are [channels, height, width]."""

    name: str
    shape: tuple[int, int, int]
    before: tuple[int, int, int] | None = None
    """Of the tap before this one, if there is one."""


class Form(Protocol):
    """Makes pieces for a place, and applies them."""

    stands: ClassVar[Literal["taps", "input"]]
    """At taps, or before the encoder."""
    reads_before: ClassVar[bool]
    """Whether it takes what stands at the tap before, too."""

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        """Pieces with which nothing changes, float32. Raises ProjectError: the form does not fit the place."""

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        """What follows x [B, C, H, W], of the same shape; `before` is x itself at the first tap."""


@dataclass(frozen=True)
class Film:
    """gamma x + beta, a number of each for a channel (Perez et al. 2018, Eq. 2; Panos et al. 2023 adapt with it)."""

    stands: ClassVar[Literal["taps", "input"]] = "taps"
    reads_before: ClassVar[bool] = False

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        return {"gamma": torch.ones(place.shape[0]), "beta": torch.zeros(place.shape[0])}

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        return _affine(x, pieces["gamma"], pieces["beta"])


@dataclass(frozen=True)
class Depthwise:
    """A 3x3 kernel of its own for every channel, the identity at first (Ge et al. 2023, CLR, section 3).

    There it follows every convolution and shares its place with new normalisations; here it stands at taps alone. An
    image of one row or column has no neighbours there, and gets no kernel in that direction.
    """

    stands: ClassVar[Literal["taps", "input"]] = "taps"
    reads_before: ClassVar[bool] = False

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        channels, height, width = place.shape
        kernel = torch.zeros(channels, 3 if height > 1 else 1, 3 if width > 1 else 1)
        kernel[:, kernel.shape[1] // 2, kernel.shape[2] // 2] = 1
        return {"kernel": kernel}

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        # As sums of products: XNNPACK has no depthwise convolution whose weights change, nor its gradients.
        kernel = pieces["kernel"]
        rows, columns = kernel.shape[1:]
        height, width = x.shape[2:]
        wide = pad(x, [columns // 2, columns // 2, rows // 2, rows // 2])
        total = x.new_zeros(())
        for i in range(rows):
            for j in range(columns):
                total = total + wide[:, :, i : i + height, j : j + width] * kernel[:, i, j].reshape(1, -1, 1, 1)
        return total


@dataclass(frozen=True)
class Bottleneck:
    """x + U ReLU(D x + b) with `width` channels between, as 1x1 convolutions; U is zero at first.

    Houlsby et al. 2019, section 2.1; with convolutions Rebuffi et al. 2018. The bias of U is left out.
    """

    width: int
    stands: ClassVar[Literal["taps", "input"]] = "taps"
    reads_before: ClassVar[bool] = False

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        return {"down": _down(self.width, place, random), "bias": torch.zeros(self.width), "up": _up(self.width, place)}

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        return x + conv2d(torch.relu(conv2d(x, pieces["down"], pieces["bias"])), pieces["up"])


@dataclass(frozen=True)
class LowRank:
    """x + U D x, of rank `width`; U is zero at first (Hu et al. 2022, Eq. 3, on the identity and without alpha)."""

    width: int
    stands: ClassVar[Literal["taps", "input"]] = "taps"
    reads_before: ClassVar[bool] = False

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        return {"down": _down(self.width, place, random), "up": _up(self.width, place)}

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        return x + conv2d(conv2d(x, pieces["down"]), pieces["up"])


OPEN: Final = 0.1
"""Where the ReLU of a meta block stands at first: open, so that gradients pass; what it adds is taken off again."""


@dataclass(frozen=True)
class Meta:
    """gamma x + beta + ReLU(gamma' Conv1x1(x~) + beta'), x~ being what stands at the tap before.

    The meta block of Song et al. 2023 (EcoTTA, section 3.1) in one forward pass; the statistics of its normalisations
    stay those of the source, so that each is an affine map. There Conv is random and warmed up on source data; here it
    is zero, so that nothing changes and there is nothing to warm up. `ecotta` is the learner of that paper.
    """

    stands: ClassVar[Literal["taps", "input"]] = "taps"
    reads_before: ClassVar[bool] = True

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        if place.before is None:
            raise ProjectError(f"tap {place.name}: a meta block reads the tap before; it cannot stand at the first one")
        channels, entered = place.shape[0], place.before[0]
        strides = [-(-a // b) for a, b in zip(place.before[1:], place.shape[1:], strict=True)]
        if any(-(-a // s) != b for a, s, b in zip(place.before[1:], strides, place.shape[1:], strict=True)):
            raise ProjectError(
                f"tap {place.name}: {list(place.shape[1:])} is no part of {list(place.before[1:])} at the tap before"
            )
        return {
            "gamma": torch.ones(channels),
            "beta": torch.full((channels,), -OPEN),
            "conv": torch.zeros(channels, entered, 1, 1),
            "meta.gamma": torch.ones(channels),
            "meta.beta": torch.full((channels,), OPEN),
        }

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        stride = [-(-a // b) for a, b in zip(before.shape[2:], x.shape[2:], strict=True)]
        meta = _affine(conv2d(before, pieces["conv"], stride=stride), pieces["meta.gamma"], pieces["meta.beta"])
        return _affine(x, pieces["gamma"], pieces["beta"]) + torch.relu(meta)


@dataclass(frozen=True)
class Input:
    """scale (x + Mix x) + shift before the encoder: Mix is a `kernel` x `kernel` convolution over all channels, 0 at
    first.

    Of this project, for sensors that fade or turn: one transform for all pixels, where visual prompts have a number
    for each (Gan et al. 2023).
    """

    kernel: int
    stands: ClassVar[Literal["taps", "input"]] = "input"
    reads_before: ClassVar[bool] = False

    def start(self, place: Place, random: torch.Generator) -> Pieces:
        channels, *size = place.shape
        if self.kernel > 1 and min(size) == 1:
            raise ProjectError(f"adaptor input{self.kernel}: samples are no images; choose input")
        mix = torch.zeros(channels, channels, self.kernel, self.kernel)
        return {"scale": torch.ones(channels), "shift": torch.zeros(channels), "mix": mix}

    def apply(self, pieces: Pieces, x: Tensor, before: Tensor) -> Tensor:
        return _affine(x + conv2d(x, pieces["mix"], padding=self.kernel // 2), pieces["scale"], pieces["shift"])


ADAPTORS: Final[Mapping[str, Form]] = {
    "film": Film(),
    "depthwise": Depthwise(),
    "bottleneck4": Bottleneck(4),
    "bottleneck8": Bottleneck(8),
    "bottleneck16": Bottleneck(16),
    "lowrank4": LowRank(4),
    "lowrank8": LowRank(8),
    "lowrank16": LowRank(16),
    "meta": Meta(),
    "input": Input(1),
    "input3": Input(3),
}
"""Name of a form -> what makes it."""


def find(name: str) -> Form:
    """The form of this name. Raises ProjectError: there is none."""
    if name not in ADAPTORS:
        raise ProjectError(f'adaptor form "{name}": unknown; choose {", ".join(ADAPTORS)}')
    return ADAPTORS[name]


def parameters(pieces: Pieces) -> int:
    """How many numbers the pieces hold."""
    return sum(piece.numel() for piece in pieces.values())


def as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """[C], [C, L] or [C, H, W] as [C, H, W]."""
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape[0], 1, prod(shape[1:]))


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def _down(width: int, place: Place, random: torch.Generator) -> Tensor:
    channels = place.shape[0]
    if width >= channels:
        raise ProjectError(f"tap {place.name}: {channels} channels do not narrow to {width}; choose a smaller width")
    down: Tensor = torch.randn(width, channels, 1, 1, generator=random) * (2 / channels) ** 0.5
    return down


def _up(width: int, place: Place) -> Tensor:
    return torch.zeros(place.shape[0], width, 1, 1)
