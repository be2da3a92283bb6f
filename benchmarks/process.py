"""Runs steps in this process, which has what they need and nothing else, and prints its memory as JSON.

python benchmarks/process.py compiled PROGRAM METHOD...             the first method isolated, as the one that answers
python benchmarks/process.py eager MODEL LEARNER KERNEL BATCH       benchmarks/peers.py
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from edgecl import resident

ROUNDS: Final = 10


class Memory(msgspec.Struct, frozen=True):
    """Of a whole process."""

    resident_bytes: int
    peak_bytes: int


def compiled(program: Path, methods: Sequence[str]) -> object:
    """Execute every method in turn, all of them loaded. Returns what holds the memory."""
    import edgecl.loop  # noqa: F401  what the board has loaded anyway
    from edgecl import _runtime

    _runtime.set_threads(1)
    opened = [_runtime.Program(program), _runtime.Program(program)]
    calls = []
    for place, method in enumerate(methods):
        engine = opened[min(place, 1)]
        engine.load(method, isolated=place == 0)
        inputs = [np.zeros(spec.shape, spec.dtype) for spec in engine.describe(method).inputs]
        calls.append((engine, method, inputs))
    for _ in range(ROUNDS):
        for engine, method, inputs in calls:
            engine.execute(method, inputs)
    return calls


def eager(model: str, learner: str, kernel: int, batch: int) -> object:
    """Answer one sample and adapt to a batch, in turn. Returns what holds the memory."""
    import models
    import peers
    import torch

    torch.set_num_threads(1)
    make: Callable[[], models.Split] = getattr(models, model)
    network = make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stub lacks it
    steps = [(peers.infer_step(learner, network, kernel), 1)]
    if learner == "source":
        steps.append((steps[0][0], batch))
    else:
        steps.append((peers.adapt_step(learner, network, kernel), batch))
    for _ in range(ROUNDS):
        for step, size in steps:
            step(torch.randn(size, 3, network.size, network.size).to(memory_format=torch.channels_last))
    return steps


if __name__ == "__main__":
    if sys.argv[1] == "compiled":
        held = compiled(Path(sys.argv[2]), sys.argv[3:])
    else:
        held = eager(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    found = Memory(resident.resident_bytes(), resident.peak_resident_bytes())
    sys.stdout.buffer.write(msgspec.json.encode(found))
