"""What a bundle says of a sample: class, probability, entropy, and how like the source it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecl.detector import Likeness


@dataclass(frozen=True)
class Answer:
    """What the bundle says of a sample."""

    seq: int
    """Number of the sample over the life of the state directory."""
    label: str
    """The most probable class."""
    index: int
    """Its index."""
    confidence: float
    """Its probability, 0 to 1; not a number where the logits are not finite."""
    entropy: float
    """Of all class probabilities, in nats."""
    logits: npt.NDArray[np.float32]
    """One number a class."""
    similarity: float | None = None
    """To the source, -1 to 1; None where the bundle has no detector."""
    novel: bool = False
    """Whether that is below the detector's threshold."""
    domain: str = "source"
    """Whose state answered."""


def answer_of(
    seq: int, logits: npt.NDArray[np.float32], classes: Sequence[str], likeness: Likeness | None, domain: str
) -> Answer:
    """The answer that logits [C] give to sample `seq`; minus infinity is a class that cannot be."""
    index = int(logits.argmax())
    similarity, novel = (likeness.similarity, likeness.novel) if likeness else (None, False)
    if not np.isfinite(logits[logits != -np.inf]).all() or not np.isfinite(logits[index]):
        return Answer(seq, classes[index], index, math.nan, math.nan, logits, similarity, novel, domain)
    odds = np.exp((logits - logits[index]).astype(np.float64))
    shares = odds / odds.sum()
    entropy = -float((shares * np.log(np.maximum(shares, np.finfo(np.float64).tiny))).sum())
    return Answer(seq, classes[index], index, float(shares[index]), abs(entropy), logits, similarity, novel, domain)
