"""The learners that a project may name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from export.learners import Learner
from export.learners.adaptor import Adaptor
from export.learners.ecotta import EcoTTA, FrozenEcoTTA
from export.learners.norm import Norm
from export.learners.source import Source
from export.learners.tent import Tent


@dataclass(frozen=True)
class Entry:
    """A learner, and one line for `edgecl learners`."""

    make: Callable[..., Learner]
    open_norms: bool
    hyper: Mapping[str, float]
    says: str


LEARNERS: Final[Mapping[str, Entry]] = {
    "source": Entry(Source, Source.open_norms, Source.hyper, "the network as trained; it never changes"),
    "norm": Entry(Norm, Norm.open_norms, Norm.hyper, "normalisation statistics follow the input; no gradients"),
    "tent": Entry(
        Tent, Tent.open_norms, Tent.hyper, "norm, and entropy minimisation of scales and shifts (Wang et al. 2021)"
    ),
    "ecotta": Entry(
        EcoTTA, EcoTTA.open_norms, EcoTTA.hyper, "norm, and meta networks beside frozen partitions (Song et al. 2023)"
    ),
    "ecotta-frozen": Entry(
        FrozenEcoTTA,
        FrozenEcoTTA.open_norms,
        EcoTTA.hyper,
        "ecotta on an encoder with fixed statistics, as published: fastest",
    ),
    "adaptor": Entry(
        Adaptor,
        Adaptor.open_norms,
        Adaptor.hyper,
        "one form of adaptor at some taps of a frozen encoder, by entropy or labels; `edgecl search` chooses it",
    ),
}
