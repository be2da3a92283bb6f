"""The board's clocks."""

import time
from pathlib import Path
from typing import Final

from edgecl.journal import Clock, ClockSet, Stamp

SYNCHRONISED: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes this file once it has set the clock."""

LOOK_NS: Final = 10**9
"""Between two looks for that file: a record costs less than to look."""


class SystemClock:
    """The real clocks. Many boards have no battery for theirs, so a wall time says how far it can be trusted."""

    def __init__(self) -> None:
        self._looked_ns = -LOOK_NS
        self._quality = Stamp.UNKNOWN

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def quality(self) -> Stamp.Quality.ValueType:
        now_ns = self.monotonic_ns()
        if now_ns - self._looked_ns >= LOOK_NS:
            self._looked_ns = now_ns
            self._quality = Stamp.SYNCHRONISED if SYNCHRONISED.exists() else Stamp.UNKNOWN
        return self._quality


STEP_NS: Final = 500_000_000
"""A wall clock that has moved so far against the one that counts from boot has been set, or has drifted for long."""


class Watch:
    """Tells when somebody has set the wall clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: ClockSet | None = None
        self._quality = Stamp.UNKNOWN

    def look(self) -> ClockSet | None:
        """A record where there is something to tell; always the first time."""
        offset_ns, quality = self._clock.wall_ns() - self._clock.monotonic_ns(), self._clock.quality()
        moved_ns = offset_ns - self._told.offset_ns if self._told else 0
        if self._told and abs(moved_ns) < STEP_NS and quality == self._quality:
            return None
        self._told, self._quality = ClockSet(offset_ns=offset_ns, moved_ns=moved_ns), quality
        return self._told
