"""What has been learned, as one answer sees it: states, heads and classes of a single moment.

The thread that learns makes a view anew with every change; an answer takes the newest one and uses nothing else. Views
are numbered, and an answer is journalled with the number of its view, so that a replay gives it the same one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.detector import Code
from edgecl.head import Sums
from edgecl.state import State

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One moment. Nothing in it changes any more."""

    number: int = 0
    """Changes so far in this run."""
    states: Mapping[int, State] = field(default_factory=dict)
    """By domain; those that are not here are as built."""
    heads: Mapping[int, Sums] = field(default_factory=dict)
    """Of the domains where a head answers."""
    names: tuple[str, ...] = ()
    """Of all classes."""
    prototypes: Code | None = None
    """Of the classes that were added and have labels, for the detector."""

    def logits(self, domain: int, program: Floats, white: Floats | None) -> Floats:
        """Logits of all classes, by the head or by the program [C], for a sample with these whitened taps [F]."""
        head = self.heads.get(domain)
        if head and white is not None:
            scores: Floats = head.solve()(white[None])[0].astype(np.float32)
            return scores
        added = len(self.names) - program.size
        return np.pad(program, (0, added), constant_values=-np.inf) if added else program


class Views:
    """The views of one run. Only the thread that learns changes what is seen."""

    def __init__(self) -> None:
        self.now = View()

    def change(self, **parts: Any) -> None:
        """From here on these parts of the view are others."""
        self.now = replace(self.now, number=self.now.number + 1, **parts)

    def seen(self) -> View:
        """The view of the next answer."""
        return self.now
