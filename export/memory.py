"""Bytes that a method needs, estimated from its delegate at build time; edgecl/measure.py measures them.

The estimate follows what XNNPACK does. Every tensor between two operators lives from the operator that writes it to the
last that reads it; an elementwise operator writes over an input that nothing reads later; and tensors are put, largest
first, at the lowest place free over their whole life. A convolution with a window keeps a pointer for every place of
the window at every pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnn

from export.xnnpack.graph import INVALID, Builder

OVER_READ = 16
"""XNN_EXTRA_BYTES: what XNNPACK leaves behind every tensor, because kernels may read past the end."""

POINTER_BYTES = 8

OPERATOR_BYTES = 1700
"""What XNNPACK and ExecuTorch keep of an operator: measured 1560 to 1920 on steps of 470 to 650 operators."""

PACKING = 1.05
"""Packed weights over weights: channels are filled up to whole tiles."""


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
    """Packed weights and operators."""
    workspace_bytes: int
    """Tensors between operators, and pointers."""
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
    pointers = sum(_pointers(builder, node.xnode_union) for node in builder.nodes) * POINTER_BYTES
    weights = int(_weights(builder) * PACKING) + OPERATOR_BYTES * len(builder.nodes)
    return Estimate(weights, _arena(tensors) + pointers, tuple(at_peak[:5]))


def _weights(builder: Builder) -> int:
    """Bytes of all constants, those of a convolution as often as one packs them."""
    packed = [id for node in builder.nodes for id in _packs(node.xnode_union)]
    copies = sum(builder.bytes_of(id) for id in packed) - sum(builder.bytes_of(id) for id in set(packed))
    return builder.constant_bytes + copies


def _packs(operator: Any) -> list[int]:
    """Ids of the constants that an operator keeps in a form of its own."""
    if not isinstance(operator, xnn.XNNConv2d | xnn.XNNDepthwiseConv2d | xnn.XNNConvTranspose2d):
        return []
    return [id for id in (operator.filter_id, operator.bias_id) if id != INVALID]


def _lives(builder: Builder) -> list[Live]:
    last: dict[int, int] = {}
    for step, node in enumerate(builder.nodes):
        for id in inputs(node.xnode_union):
            last[id] = step
    lives: dict[int, Live] = {}
    for step, node in enumerate(builder.nodes):
        operator = node.xnode_union
        id = operator.output_id
        tensor = builder.tensor(id)
        if tensor.flags:  # the caller's memory
            continue
        size, end = builder.bytes_of(id) + OVER_READ, last.get(id, step)
        over = next((i for i in inputs(operator) if i in lives and last[i] == step and lives[i].bytes == size), None)
        if over is not None and isinstance(operator, IN_PLACE):
            lives[id] = replace(lives.pop(over), last=end)
        else:
            what = f"{type(operator).__name__.removeprefix('XNN')} {list(tensor.dims)}"
            lives[id] = Live(size, step, end, what)
    return list(lives.values())


IN_PLACE = (
    xnn.XNNAdd, xnn.XNNSubtract, xnn.XNNMultiply, xnn.XNNDiv, xnn.XNNMaximum, xnn.XNNMinimum, xnn.XNNClamp, xnn.XNNAbs,
    xnn.XNNCeiling, xnn.XNNCos, xnn.XNNExp, xnn.XNNFloor, xnn.XNNGelu, xnn.XNNHardswish, xnn.XNNLog, xnn.XNNNegate,
    xnn.XNNReciprocalSquareRoot, xnn.XNNSigmoid, xnn.XNNSin, xnn.XNNSquareRoot, xnn.XNNTanh, xnn.XNNStaticReshape,
    xnn.XNNCopy,
)  # fmt: skip
"""Operators that write over an input that ends with them."""


def _pointers(builder: Builder, operator: Any) -> int:
    """How many an operator with a window keeps; those of one image serve for all."""
    if isinstance(operator, xnn.XNNConv2d | xnn.XNNDepthwiseConv2d | xnn.XNNConvTranspose2d):
        window = operator.kernel_height * operator.kernel_width
        step = operator.subsampling_height * operator.subsampling_width
    elif isinstance(operator, xnn.XNNMaxPooling2d | xnn.XNNAvgPooling2d):
        window, step = operator.pooling_height * operator.pooling_width, 2
    else:
        return 0
    _, height, width, _ = builder.tensor(operator.output_id).dims
    if isinstance(operator, xnn.XNNConvTranspose2d):
        window = -(-window // step)
    elif isinstance(operator, xnn.XNNDepthwiseConv2d):  # neighbours share columns of the window
        window = operator.kernel_height * min(operator.subsampling_width, operator.kernel_width)
    return int(height * width * window) if window * step > 1 else 0


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
