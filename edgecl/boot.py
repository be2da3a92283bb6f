"""Which boot of the board this is: clocks and processes of another one say nothing here."""

from pathlib import Path
from typing import Final

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """32 hexadecimal digits that differ from boot to boot."""
    return BOOT_ID.read_text().strip().replace("-", "")
