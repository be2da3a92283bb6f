"""Judges every update before it counts: numbers that are not finite, collapse, canaries. See docs/guide/guard.md."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from edgecl import manifest

MEMORY: Final = "memory"
NOT_FINITE: Final = "not-finite"
COLLAPSE: Final = "collapse"
CANARIES: Final = "canaries"
BUSY: Final = "busy"
HELD: Final = "held"
GONE: Final = "gone"


@dataclass(frozen=True)
class Verdict:
    """What becomes of an update."""

    action: Literal["commit", "drop", "roll back"]
    reason: str = ""
    """One word; empty for a commit."""
    detail: str = ""
    good: bool = False
    """Whether the canaries have just been passed: this state may be rolled back to."""


class Guard:
    """Keeps count of updates and recent answers. It decides; the loop acts."""

    def __init__(self, settings: manifest.Guard, classes: int, *, canaries: bool) -> None:
        self._settings = settings
        self._classes = classes
        self._canaries = canaries and settings.canary_every > 0
        self._recent: deque[int] = deque(maxlen=settings.window)
        self._since_canaries = 0

    def answered(self, labels: npt.NDArray[np.int64]) -> None:
        """Note the classes that an update predicted for its batch."""
        self._recent.extend(int(label) for label in labels)

    def judge(self, finite: bool, canary_accuracy: Callable[[], float]) -> Verdict:
        """Judge an update; `canary_accuracy` measures the new state, and is called only when it is time to."""
        if not finite:
            return Verdict("drop", NOT_FINITE, "the update holds numbers that are not finite")
        self._since_canaries += 1
        shares = self.entropy_of_shares()
        collapsed = shares is not None and shares < self._settings.entropy_floor
        if self._canaries and (collapsed or self._since_canaries >= self._settings.canary_every):
            self._since_canaries = 0
            accuracy, floor = canary_accuracy(), self._settings.canary_floor
            if accuracy < floor:
                self._recent.clear()
                return Verdict("roll back", CANARIES, f"canary accuracy {accuracy:.3f}, the floor is {floor:.3f}")
            return Verdict("commit", good=True)
        if collapsed:
            self._recent.clear()
            return Verdict(
                "roll back",
                COLLAPSE,
                f"entropy of class shares {shares:.3f} nats, the floor is {self._settings.entropy_floor:.3f}",
            )
        return Verdict("commit")

    def entropy_of_shares(self) -> float | None:
        """Entropy, in nats, of the shares of classes among recent answers; None before the window is full."""
        if len(self._recent) < self._settings.window:
            return None
        shares = np.bincount(np.array(self._recent), minlength=self._classes) / len(self._recent)
        present = shares[shares > 0]
        return abs(float((present * np.log(present)).sum()))
