"""Memory of this process, as the kernel counts it. Raspberry Pi OS sets no limit, so the loop looks for itself."""

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES


def over(budget_bytes: int) -> str:
    """What to say where this process has more than a budget; nothing where it has not, or where the budget is 0."""
    used = resident_bytes()
    return f"{used} bytes resident, the budget is {budget_bytes}" if budget_bytes and used > budget_bytes else ""


def peak_resident_bytes() -> int:
    """The most that ever were."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resident_bytes()  # a kernel without it


def available_bytes() -> int:
    """What this process may have in all: what it has, and what the kernel could give it without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return resident_bytes() + int(line.split()[1]) * 1024
    return 1 << 62  # a kernel that does not tell
