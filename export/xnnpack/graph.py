"""The delegate under construction: values, constants, nodes, and where each tensor's numbers lie in memory.

XNNPACK keeps images as [N, H, W, C], ATen as [N, C, H, W]. A `Value` says how its stored dimensions map to the graph's,
so that a permute costs nothing, a reshape costs nothing while the order in memory agrees, and a transpose is emitted
only where an operator needs one.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnn
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
from executorch.exir._serialize._named_data_store import NamedDataStore
from torch import Tensor

INVALID = 2**32 - 1
"""XNN_INVALID_ID: no such value, or no external number."""
IN_NAMED_DATA = 2**64 - 1
"""Offset that says: the constant is in the program's named data, which all methods share."""
EXTERNAL_INPUT, EXTERNAL_OUTPUT = 1, 2
ALIGNMENT = 16
"""Bytes; what XNNPACK's kernels may assume of constants."""

REUSE = 32
"""Operators after which a tensor that was laid out anew is laid out once more rather than kept."""

NHWC = (0, 2, 3, 1)


@dataclass(frozen=True)
class PerTensor:
    """int8 with one scale for the whole tensor: real = (stored - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class PerImage:
    """Float now; int8 with a scale for each image, or for each pixel, as soon as a convolution reads it ("qd8")."""

    pixels: bool = False


Quantized = PerTensor | PerImage


@dataclass(frozen=True)
class Value:
    """A tensor: XNNPACK knows it as `id` with `dims`; stored dimension i is dimension order[i] of `shape`."""

    id: int
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    order: tuple[int, ...]
    quantized: Quantized | None = None

    @property
    def stored(self) -> tuple[int, ...]:
        """The dimensions in the order in which they lie in memory."""
        return tuple(self.shape[i] for i in self.order)


@dataclass(frozen=True)
class Constant:
    """A tensor known at build time; it is laid out as its users need it."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)


def contiguous(rank: int) -> tuple[int, ...]:
    """The order of ATen: as the graph counts dimensions."""
    return tuple(range(rank))


def same_memory(shape: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two orders of the same shape put the same number in the same place."""
    return [i for i in one if shape[i] > 1] == [i for i in other if shape[i] > 1]


def preferred(shape: Sequence[int]) -> tuple[int, ...]:
    """The order for a tensor that lies contiguously: that of an image where this is the same."""
    rank = len(shape)
    return NHWC if rank == 4 and same_memory(shape, NHWC, contiguous(rank)) else contiguous(rank)


class Builder:
    """Collects values and nodes; constants go to the store that all methods of a program share."""

    def __init__(self, store: NamedDataStore) -> None:
        self.store = store
        self.values: list[Any] = []
        self.nodes: list[xnn.XNode] = []
        self.producer: dict[int, xnn.XNode] = {}
        self._constants: dict[tuple[Any, ...], int] = {}
        self._moved: dict[tuple[int, tuple[int, ...], tuple[int, ...]], tuple[Value, int]] = {}
        self._per_image: dict[tuple[int, tuple[int, ...], bool], tuple[int, int]] = {}
        self._data = [xnn.ConstantDataOffset(0, 0)]  # number 0 means "no data"
        self._externals = 0

    # values

    def value(self, shape: Sequence[int], order: Sequence[int], quantized: Quantized | None = None) -> Value:
        """A new tensor for a node to write."""
        dims = tuple(shape[i] for i in order)
        if isinstance(quantized, PerTensor):
            params = xnn.PerTensorQuant(quantized.scale, quantized.zero_point)
            id = self._define(dims, xnn.XNNDatatype.xnn_datatype_qint8, params)
        else:
            id = self._define(dims, xnn.XNNDatatype.xnn_datatype_fp32, None)
        return Value(id, dims, tuple(shape), tuple(order), quantized)

    def real(self, value: Value) -> Value:
        """The value as float."""
        if not isinstance(value.quantized, PerTensor):
            return value
        key = (value.id, value.dims, ())
        made, when = self._moved.get(key, (None, 0))
        if made is None or len(self.nodes) - when > REUSE:
            made = self.value(value.dims, contiguous(len(value.dims)))
            self.node(xnn.XNNConvert(input_id=value.id, output_id=made.id, flags=0))
        self._moved[key] = (made, len(self.nodes))
        return Value(made.id, value.dims, value.shape, value.order)

    def per_image(self, source: Value, *, pixels: bool) -> int:
        """A float value as int8, quantised when the program runs, for each image or each pixel on its own."""
        key = (source.id, source.dims, pixels)
        made, when = self._per_image.get(key, (INVALID, 0))
        if made == INVALID or len(self.nodes) - when > REUSE:
            params = xnn.PerTokenDynamicQuant(1 if pixels else len(source.dims) - 1)
            made = self._define(source.dims, xnn.XNNDatatype.xnn_datatype_qdint8, params)
            self.node(xnn.XNNConvert(input_id=source.id, output_id=made, flags=0))
        self._per_image[key] = (made, len(self.nodes))
        return made

    def input(self, shape: Sequence[int]) -> Value:
        """The next tensor that the caller passes in."""
        value = self.value(shape, contiguous(len(shape)))
        self._expose(value.id, EXTERNAL_INPUT)
        order = preferred(shape)
        return Value(value.id, value.dims, tuple(shape), order)

    def output(self, value: Value) -> None:
        """The next tensor that the caller gets: `value`, lying as the graph counts dimensions."""
        order = contiguous(len(value.shape))
        ready = self.lay(self.real(value), order)
        if ready.id not in self.producer or self.tensor(ready.id).flags:  # an input, a constant, or out already
            out = self.value(value.shape, order)
            self.node(xnn.XNNCopy(input_id=ready.id, output_id=out.id, flags=0))
            ready = out
        self._expose(ready.id, EXTERNAL_OUTPUT)

    def constant(self, tensor: Tensor, order: Sequence[int] | None = None) -> Value:
        """A float constant, laid out in this order."""
        order = contiguous(tensor.dim()) if order is None else tuple(order)
        laid = tensor.detach().permute(*order).to(torch.float32).contiguous()
        key = ("float", tuple(laid.shape), _digest(laid))
        if key not in self._constants:
            kind = xnn.XNNDatatype.xnn_datatype_fp32
            self._constants[key] = self._define(tuple(laid.shape), kind, None, self._keep(laid))
        return Value(self._constants[key], tuple(laid.shape), tuple(tensor.shape), tuple(order))

    def quantized_constant(self, tensor: Tensor, scales: Tensor, axis: int) -> int:
        """An int8 or int32 constant with a scale for each channel along `axis`, as it lies."""
        kinds = {torch.int8: xnn.XNNDatatype.xnn_datatype_qcint8, torch.int32: xnn.XNNDatatype.xnn_datatype_qcint32}
        tensor, scales = tensor.contiguous(), scales.detach().to(torch.float32).contiguous()
        key = ("int", tuple(tensor.shape), axis, _digest(tensor), _digest(scales))
        if key not in self._constants:
            params = xnn.PerChannelQuant([], axis, scale_buffer_idx=self._keep(scales), num_scales=scales.numel())
            self._constants[key] = self._define(tuple(tensor.shape), kinds[tensor.dtype], params, self._keep(tensor))
        return self._constants[key]

    def quantized_number(self, number: float) -> int:
        """A number as int8 tensor [1]: 127, or -127, with a scale of its own."""
        scale = max(abs(number), 1e-30) / 127
        key = ("number", number)
        if key not in self._constants:
            stored = torch.tensor([127 if number >= 0 else -127], dtype=torch.int8)
            params = xnn.PerTensorQuant(scale, 0)
            self._constants[key] = self._define((1,), xnn.XNNDatatype.xnn_datatype_qint8, params, self._keep(stored))
        return self._constants[key]

    def lay(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its dimensions in memory in this order, and XNNPACK knowing it by just these dimensions."""
        order = tuple(order)
        dims = tuple(value.shape[i] for i in order)
        if value.dims == dims and same_memory(value.shape, value.order, order):
            return Value(value.id, dims, value.shape, order, value.quantized)
        key = (value.id, value.shape, order)
        moved, when = self._moved.get(key, (None, 0))
        if moved is None or len(self.nodes) - when > REUSE:
            moved = self._move(value, order)
        self._moved[key] = (moved, len(self.nodes))
        return replace(moved, quantized=value.quantized)

    def _move(self, value: Value, order: tuple[int, ...]) -> Value:
        if same_memory(value.shape, value.order, order):
            return self._reshape(value, order)
        if value.dims != value.stored:
            value = self._reshape(value, value.order)
        out = self.value(value.shape, order, value.quantized)
        perm = [value.order.index(i) for i in order]
        self.node(xnn.XNNStaticTranspose(len(perm), perm, value.id, out.id, 0))
        return out

    def _reshape(self, value: Value, order: Sequence[int]) -> Value:
        out = self.value(value.shape, order, value.quantized)
        self.node(xnn.XNNStaticReshape(len(out.dims), list(out.dims), value.id, out.id, 0))
        return out

    def view(self, value: Value, shape: Sequence[int]) -> Value:
        """The value read in another shape."""
        if not same_memory(value.shape, value.order, contiguous(len(value.shape))):
            value = self.lay(value, contiguous(len(value.shape)))
        assert math.prod(shape) == math.prod(value.shape)
        return Value(value.id, value.dims, tuple(shape), preferred(shape), value.quantized)

    # nodes

    def node(self, operator: Any, low: float | None = None, high: float | None = None) -> None:
        """Append an operator, its result held between low and high where given."""
        node = xnn.XNode(xnode_union=operator, debug_handle=len(self.nodes), output_min_max=_limits(low, high))
        self.nodes.append(node)
        self.producer[operator.output_id] = node

    def clamp_into(self, value: Value, low: float | None, high: float | None) -> bool:
        """Let the operator that makes `value` do the clamping; False where it cannot."""
        node = self.producer.get(value.id)
        if node is None or node.output_min_max is not None or not isinstance(node.xnode_union, _CLAMPING):
            return False
        node.output_min_max = _limits(low, high)
        return True

    # the whole

    def tensor(self, id: int) -> xnn.XNNTensorValue:
        """What XNNPACK is told of a tensor."""
        union: Any = self.values[id].xvalue_union
        return union.tensor_value if isinstance(union, xnn.XNNQuantizedTensorValue) else union

    def bytes_of(self, id: int) -> int:
        """Bytes of a tensor."""
        tensor = self.tensor(id)
        return int(math.prod(tensor.dims)) * _WIDTH[tensor.datatype]

    @property
    def constant_bytes(self) -> int:
        """Bytes of all constants; packing them for the kernels takes about as much."""
        return sum(entry.size for entry in self._data)

    def serialize(self) -> bytes:
        """The delegate's bytes."""
        inputs = [id for id in range(len(self.values)) if self.tensor(id).flags & EXTERNAL_INPUT]
        outputs = [id for id in range(len(self.values)) if self.tensor(id).flags & EXTERNAL_OUTPUT]
        graph = xnn.XNNGraph("0", self.nodes, self.values, self._externals, inputs, outputs, self._data)
        return bytes(serialize_xnnpack_binary(graph, bytearray()))

    def _define(self, dims: tuple[int, ...], kind: Any, params: Any, data: int = 0) -> int:
        tensor = xnn.XNNTensorValue(kind, len(dims), list(dims), data, INVALID, 0, len(self.values))
        union = tensor if params is None else xnn.XNNQuantizedTensorValue(tensor, params)
        self.values.append(xnn.XValue(union))
        return int(tensor.id_out)

    def _keep(self, tensor: Tensor) -> int:
        raw = tensor.numpy().tobytes()
        name = hashlib.sha256(raw).hexdigest()
        self.store.add_named_data(name, raw, alignment=ALIGNMENT)
        self._data.append(xnn.ConstantDataOffset(IN_NAMED_DATA, len(raw), name))
        return len(self._data) - 1

    def _expose(self, id: int, flag: int) -> None:
        tensor = self.tensor(id)
        tensor.flags, tensor.external_id = flag, self._externals
        self._externals += 1


_WIDTH = {
    xnn.XNNDatatype.xnn_datatype_fp32: 4,
    xnn.XNNDatatype.xnn_datatype_qint8: 1,
    xnn.XNNDatatype.xnn_datatype_qdint8: 1,
    xnn.XNNDatatype.xnn_datatype_qcint8: 1,
    xnn.XNNDatatype.xnn_datatype_qcint32: 4,
}
_CLAMPING = (
    xnn.XNNConv2d, xnn.XNNDepthwiseConv2d, xnn.XNNConvTranspose2d, xnn.XNNFullyConnected, xnn.XNNAdd,
    xnn.XNNSubtract, xnn.XNNMultiply, xnn.XNNDiv,
)  # fmt: skip


def _limits(low: float | None, high: float | None) -> xnn.OutputMinMax | None:
    if low is None and high is None:
        return None
    return xnn.OutputMinMax("-inf" if low is None else low, "inf" if high is None else high)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
