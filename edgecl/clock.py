"""The board's clocks, and which boot this is."""

import time
from pathlib import Path
from typing import Final

from edgecl.journal import Stamp

SYNCHRONISED: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes this file once it has set the clock."""

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The real clocks. Many boards have no battery for theirs, so a wall time says how far it can be trusted."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def quality(self) -> Stamp.Quality.ValueType:
        return Stamp.SYNCHRONISED if SYNCHRONISED.exists() else Stamp.UNKNOWN


def boot_id() -> str:
    """32 hexadecimal digits that differ from boot to boot."""
    return BOOT_ID.read_text().strip().replace("-", "")
