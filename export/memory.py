"""Bytes that a method needs, estimated from its delegate at build time; edgecl/measure.py measures them.

The estimate follows what XNNPACK does: every tensor between two operators lives from the operator that writes it to the
last that reads it, and tensors are put, largest first, at the lowest place free over their whole life.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.xnnpack.graph import Builder

OVER_READ = 16
"""XNN_EXTRA_BYTES: what XNNPACK leaves behind every tensor, because kernels may read past the end."""


@dataclass(frozen=True)
class Live:
    """A tensor between operators."""

    bytes: int
    first: int
    last: int
    what: str


@dataclass(frozen=True)
class Estimate:
    """What one method would need."""

    weights_bytes: int
    workspace_bytes: int
    largest: tuple[Live, ...]
    """The tensors alive when most is alive, largest first."""

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.workspace_bytes


def estimate(builder: Builder) -> Estimate:
    """Estimate the memory of the delegate that the builder holds."""
    tensors = _lives(builder)
    steps = range(len(builder.nodes))
    alive = [sum(t.bytes for t in tensors if t.first <= step <= t.last) for step in steps]
    peak = max(steps, key=lambda step: alive[step], default=0)
    at_peak = sorted((t for t in tensors if t.first <= peak <= t.last), key=lambda t: -t.bytes)
    return Estimate(builder.constant_bytes, _arena(tensors), tuple(at_peak[:5]))


def _lives(builder: Builder) -> list[Live]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step, node in enumerate(builder.nodes):
        first.setdefault(node.xnode_union.output_id, step)
        for id in (*inputs(node.xnode_union), node.xnode_union.output_id):
            last[id] = step
    lives = []
    for id, step in first.items():
        tensor = builder.tensor(id)
        if tensor.flags:  # the caller's memory
            continue
        size = builder.bytes_of(id) + OVER_READ
        what = f"{type(builder.nodes[step].xnode_union).__name__.removeprefix('XNN')} {list(tensor.dims)}"
        lives.append(Live(size, step, last[id], what))
    return lives


def inputs(operator: Any) -> list[int]:
    """Ids that an operator reads."""
    names = ("input_id", "input1_id", "input2_id", "input3_id", "input4_id", "input5_id", "filter_id", "bias_id")
    return [getattr(operator, name) for name in names if hasattr(operator, name)]


def _arena(tensors: Sequence[Live]) -> int:
    """Bytes of one buffer that holds them all, each at the lowest offset free over its life, largest first."""
    placed: list[tuple[int, Live]] = []
    end = 0
    for tensor in sorted(tensors, key=lambda t: -t.bytes):
        offset = 0
        for start, other in sorted(placed, key=lambda p: p[0]):
            if other.last < tensor.first or other.first > tensor.last:
                continue
            if offset + tensor.bytes <= start:
                break
            offset = max(offset, start + other.bytes)
        placed.append((offset, tensor))
        end = max(end, offset + tensor.bytes)
    return end
