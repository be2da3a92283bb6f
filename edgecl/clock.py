"""The board's clocks."""

import time
from pathlib import Path
from typing import Final

from edgecl.journal import Stamp

SYNCHRONISED: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes this file once it has set the clock."""


class SystemClock:
    """The real clocks. Many boards have no battery for theirs, so a wall time says how far it can be trusted."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def quality(self) -> Stamp.Quality.ValueType:
        return Stamp.SYNCHRONISED if SYNCHRONISED.exists() else Stamp.UNKNOWN
