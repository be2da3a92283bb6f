"""Measures what methods cost in memory, in a process that has what the running loop has and nothing else.

`python -m edgecl.measure PROGRAM METHOD...` prints the JSON of `Measured`. The first method is loaded isolated, as
the one that answers is. Inputs are zeros: memory does not depend on them.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import _runtime, resident

PAGE_BYTES = 4096


class Cost(msgspec.Struct, frozen=True):
    """Heap that one method takes."""

    method: str
    weights_bytes: int
    """By loading it: packed weights above all."""
    workspace_bytes: int
    """By executing it the first time, and kept."""


class Measured(msgspec.Struct, frozen=True):
    """What the child found."""

    base_bytes: int
    """Resident before any program was opened."""
    resident_bytes: int
    """Resident with all methods loaded and executed."""
    costs: tuple[Cost, ...]


def measure(program: Path, methods: list[str]) -> Measured:
    """Measure each method alone, then load and execute all of them as the loop does."""
    import edgecl.commands.run  # noqa: F401  what the base is made of

    _runtime.set_threads(1)
    base = resident.resident_bytes()
    for method in methods:
        _alone(program, method)  # what is made once a process, and kept, is not a method's
    costs = [_alone(program, method) for method in methods]
    _runtime.trim()
    largest_first = sorted(costs[1:], key=lambda cost: -cost.workspace_bytes)
    opened = [_load(program, [methods[0]], isolated=True)]
    opened.append(_load(program, [cost.method for cost in largest_first], isolated=False))
    found = Measured(base, resident.resident_bytes(), tuple(costs))
    for loaded in opened:
        loaded.close()
    return found


def _alone(program: Path, method: str) -> Cost:
    before = _runtime.heap_bytes()
    loaded = _runtime.Program(program)
    loaded.load(method, isolated=True)
    after = _runtime.heap_bytes()
    held = _execute(loaded, method)
    workspace = _runtime.heap_bytes() - after - sum(array.nbytes for array in held)
    cost = Cost(method, _pages(after - before), _pages(workspace))
    loaded.close()
    return cost


def _pages(count: int) -> int:
    """Whole pages: a build measures the same to the byte each time, an allocator's bookkeeping may not."""
    return max(0, -(-count // PAGE_BYTES) * PAGE_BYTES)


def _load(program: Path, methods: list[str], *, isolated: bool) -> _runtime.Program:
    loaded = _runtime.Program(program)
    for method in methods:
        loaded.load(method, isolated=isolated)
        _execute(loaded, method)
    return loaded


def _execute(loaded: _runtime.Program, method: str) -> list[npt.NDArray[Any]]:
    """Execute on zeros; the inputs and outputs, which the caller may keep or drop."""
    inputs = [np.zeros(spec.shape, spec.dtype) for spec in loaded.describe(method).inputs]
    return [*inputs, *loaded.execute(method, inputs)]


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measure(Path(sys.argv[1]), sys.argv[2:])))
