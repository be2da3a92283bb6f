"""source: the network as trained. It answers and never changes; what all others are compared with."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from export.encoder import Encoder
from export.learners import Answer, Pieces, answer


class Source:
    """No state, no update."""

    hyper: Mapping[str, float] = {}
    report: Sequence[str] = ()
    noise = 0
    trained: Sequence[str] = ()
    open_norms: ClassVar = False

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def theta(self) -> Pieces:
        return {}

    def slots(self) -> Pieces:
        return {}

    def infer(self, theta: Pieces, x: Tensor) -> Answer:
        return answer(self.encoder(x))
