"""The clocks of a simulated board: they go on as it is told, and a little whenever somebody looks.

So the journal has latencies, and the same ones every time; they are made up, and say nothing of any processor.
"""

import itertools
from typing import Final

import numpy as np

from edgecl.journal import Stamp

BOOT_NS: Final = 20 * 10**9
"""From power to the first sample."""
LOOK_NS: Final = 400_000
"""A look at the clock takes that, about."""
LOOKS: Final = 1021
"""Different ones, one after the other, in a circle."""


class SimulatedClock:
    """Of one board."""

    def __init__(self, chance: np.random.Generator, wall_ns: int) -> None:
        """`wall_ns`: when it is switched on."""
        speed = LOOK_NS * chance.uniform(0.6, 2.0)
        self._looks = itertools.cycle((speed * chance.lognormal(0, 0.3, LOOKS)).astype(int).tolist())
        self._since_boot_ns = BOOT_NS
        self._offset_ns = wall_ns - BOOT_NS

    def monotonic_ns(self) -> int:
        self._since_boot_ns += next(self._looks)
        return self._since_boot_ns

    def wall_ns(self) -> int:
        return self._offset_ns + self._since_boot_ns

    def quality(self) -> Stamp.Quality.ValueType:
        return Stamp.SYNCHRONISED

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self._since_boot_ns += ns

    def until(self, wall_ns: int) -> None:
        """Let time pass up to then, if it is not over."""
        self.advance(max(0, wall_ns - self.wall_ns()))

    def reboot(self, without_power_ns: int) -> None:
        """Power comes back after so long."""
        self._offset_ns = self.wall_ns() + without_power_ns
        self._since_boot_ns = BOOT_NS
        self._offset_ns -= BOOT_NS
