"""Starts the processes whose memory is measured, and reads what they found."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from process import Memory

from edgecl.measure import Cost, Measured

HERE: Final = Path(__file__).parent
POLL_S: Final = 0.01


def costs(program: Path, methods: Sequence[str]) -> dict[str, Cost]:
    """Heap that each method takes, as every build measures it."""
    out = _output([sys.executable, "-m", "edgecl.measure", str(program), *methods])
    return {cost.method: cost for cost in msgspec.json.decode(out, type=Measured).costs}


def of_program(program: Path, methods: Sequence[str]) -> Memory:
    """A process without PyTorch that runs these methods."""
    return msgspec.json.decode(
        _output([sys.executable, str(HERE / "process.py"), "compiled", str(program), *methods]), type=Memory
    )


def of_torch(model: str, learner: str, kernel: int, batch: int) -> Memory:
    """A process that runs the peer in PyTorch eager."""
    words = [sys.executable, str(HERE / "process.py"), "eager", model, learner, str(kernel), str(batch)]
    return msgspec.json.decode(_output(words), type=Memory)


def of_command(words: Sequence[str]) -> tuple[Memory, str]:
    """A command watched from outside to its end: what it had last, the most it ever had, and what it printed."""
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    status = Path(f"/proc/{child.pid}/status")
    seen: dict[str, int] = {}
    while child.poll() is None:
        lines = [line.split() for line in status.read_text().splitlines()]
        seen |= {words[0]: int(words[1]) * 1024 for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
        time.sleep(POLL_S)
    assert child.stdout is not None
    said = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {child.returncode}: {said}")
    return Memory(seen["VmRSS:"], seen["VmHWM:"]), said


def _output(words: Sequence[str]) -> bytes:
    child = subprocess.run(words, capture_output=True)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)}: {child.stderr.decode()}")
    return child.stdout
