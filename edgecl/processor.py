"""Which kind of processor this is: on two of one kind, the same programs compute the same bits."""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")

NAMES: Final = ("model name", "cpu family", "model", "CPU implementer", "CPU part", "CPU variant")
"""Lines of the first processor that say what it is. Which instructions it has decides which kernels run."""
INSTRUCTIONS: Final = ("flags", "Features")


@cache
def processor(cpuinfo: Path = CPUINFO) -> str:
    """Architecture, model, and eight digits for its instructions; the architecture alone where there is no more."""
    try:
        first = cpuinfo.read_text(errors="replace").split("\n\n")[0]
    except OSError:
        first = ""
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    named = [told[name] for name in NAMES if told.get(name)]
    instructions = " ".join(sorted(next((told[name] for name in INSTRUCTIONS if name in told), "").split()))
    digits = [hashlib.sha256(instructions.encode()).hexdigest()[:8]] if instructions else []
    return " ".join([os.uname().machine, *named, *digits])
