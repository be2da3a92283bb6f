"""How each ATen operator becomes XNNPACK nodes: the table of what one delegate can hold."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as xnn
from torch import Tensor, fx

from export.xnnpack import int8
from export.xnnpack.graph import INVALID, NHWC, Builder, Constant, PerImage, PerTensor, Value, contiguous, preferred

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

KEEP_DIMS = 0x40
"""XNN_FLAG_KEEP_DIMS: averages stay [N, 1, 1, C]; [N, C] would meet the columns of an image."""

TRANSPOSE_WEIGHTS = 1
"""XNN_FLAG_TRANSPOSE_WEIGHTS: the matrix comes as [inputs, outputs]."""

Operand = Value | Constant | float | int
Emit = Callable[[Builder, fx.Node, Sequence[Any]], Value]


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape) or (
        1,
    )  # a number is a vector of one: XNNPACK has no tensors without dimensions


def _value(builder: Builder, operand: Operand) -> Value:
    if isinstance(operand, Value):
        return operand
    return builder.constant(operand.tensor if isinstance(operand, Constant) else torch.tensor([float(operand)]))


# elementwise


def _raised(builder: Builder, operand: Operand, rank: int, order: Sequence[int]) -> Value:
    """An operand of a binary operator with all its dimensions, stored in this order."""
    if isinstance(operand, Constant) and operand.tensor.numel() > 1:
        tensor = operand.tensor
        return builder.constant(tensor.reshape([1] * (rank - tensor.dim()) + list(tensor.shape)), order)
    if isinstance(operand, Value) and operand.shape:
        more = rank - len(operand.shape)
        shape = (1,) * more + operand.shape
        grown = (*range(more), *(i + more for i in operand.order))
        return builder.lay(Value(operand.id, operand.dims, shape, grown), order)
    if isinstance(operand, Constant):
        return builder.constant(operand.tensor.reshape(1))
    return _value(builder, operand)


def _binary(kind: Any) -> Emit:
    def emit(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
        if node.kwargs.get("alpha", 1) != 1:
            raise Unsupported("add or sub with alpha")
        if (done := int8.binary(kind, builder, node, args[:2])) is not None:
            return done
        args = _as_float(builder, args)
        shape = _shape(node)
        whole = [a.order for a in args[:2] if isinstance(a, Value) and a.shape == shape]
        order = NHWC if NHWC in whole or (len(shape) == 4 and not whole) else (*whole, preferred(shape))[0]
        one, other = (_raised(builder, a, len(shape), order) for a in args[:2])
        out = builder.value(shape, order)
        builder.node(kind(one.id, other.id, out.id, 0))
        return out

    return emit


def _unary(kind: Any) -> Emit:
    def emit(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
        if node.kwargs.get("approximate", "none") != "none":
            raise Unsupported("gelu by another formula than that with erf")
        source = args[0]
        out = Value(
            builder.value((*source.dims,), contiguous(len(source.dims))).id, source.dims, source.shape, source.order
        )
        builder.node(kind(input_id=source.id, output_id=out.id, flags=0))
        return out

    return emit


def _clamp(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    source: Value = args[0]
    low, high = _limits(node)
    if _read_once(node.args[0]) and builder.clamp_into(source, low, high):
        return source
    out = Value(builder.value(source.dims, contiguous(len(source.dims))).id, source.dims, source.shape, source.order)
    builder.node(xnn.XNNClamp(input_id=source.id, output_id=out.id, flags=0), low, high)
    return out


def _read_once(node: Any) -> bool:
    """Whether nothing else reads the value, also not from before it was seen in another shape."""
    while len(node.users) == 1 and node.target in (aten.reshape.default, aten.permute.default):
        node = node.args[0]
    return len(node.users) == 1


def _limits(node: fx.Node) -> tuple[float | None, float | None]:
    if node.target is aten.relu.default:
        return 0.0, None
    given: list[Any] = [*node.args[1:], None, None]
    low: Any = node.kwargs.get("min", given[0])
    high: Any = node.kwargs.get("max", given[1])
    return (None if low is None else float(low)), (None if high is None else float(high))


# shapes


def _permute(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    source: Value = args[0]
    perm = [d % len(source.shape) for d in args[1]]
    order = tuple(perm.index(i) for i in source.order)
    return Value(source.id, source.dims, _shape(node), order, source.quantized)


def _reshape(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    return builder.view(args[0], _shape(node))


def _slice(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    if len(args) > 4 and args[4] != 1:
        raise Unsupported("slice with a step")
    if len(node.users) == 1 and next(iter(node.users)).target is aten.slice.Tensor:
        whole: Value = args[0]
        return whole  # the next one takes its part of the whole, in one piece
    source = builder.lay(args[0], args[0].order)
    starts = [0] * len(source.shape)
    cut: Any = node
    while cut is node or (cut.target is aten.slice.Tensor and len(cut.users) == 1):
        dim = (cut.args[1] if len(cut.args) > 1 else 0) % len(starts)
        start = cut.args[2] if len(cut.args) > 2 and cut.args[2] is not None else 0
        starts[dim] += start if start >= 0 else start + cut.args[0].meta["val"].shape[dim]
        cut = cut.args[0]
    out = builder.value(_shape(node), source.order, source.quantized)
    offsets = [starts[i] for i in source.order]
    builder.node(xnn.XNNStaticSlice(len(offsets), offsets, list(out.dims), source.id, out.id, 0))
    return out


def _cat(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    parts: Sequence[Any] = args[0]
    if len({p.quantized if isinstance(p, Value) else None for p in parts}) > 1:
        parts = _as_float(builder, parts)
    dim = (args[1] if len(args) > 1 else 0) % len(_shape(node))
    order = next((p.order for p in parts if isinstance(p, Value)), contiguous(len(_shape(node))))
    laid = [
        builder.lay(p, order) if isinstance(p, Value) else builder.constant(p.tensor, order)
        for p in parts
        if 0 not in p.shape
    ]
    while len(laid) > 1:
        laid = [_join(builder, laid[i : i + 5], dim) for i in range(0, len(laid), 5)]
    return laid[0]


def _join(builder: Builder, parts: list[Value], dim: int) -> Value:
    if len(parts) == 1:
        return parts[0]
    shape = list(parts[0].shape)
    shape[dim] = sum(p.shape[dim] for p in parts)
    out = builder.value(shape, parts[0].order, parts[0].quantized)
    kinds = (xnn.XNNConcatenate2, xnn.XNNConcatenate3, xnn.XNNConcatenate4, xnn.XNNConcatenate5)
    ids = [p.id for p in parts] + [INVALID] * (5 - len(parts))
    axis = parts[0].order.index(dim)
    builder.node(
        kinds[len(parts) - 2](
            axis=axis, input1_id=ids[0], input2_id=ids[1], input3_id=ids[2], input4_id=ids[3], input5_id=ids[4],
            output_id=out.id, flags=0,
        )
    )  # fmt: skip
    return out


def _pad(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    fill = float(args[2]) if len(args) > 2 and args[2] is not None else 0.0
    source = builder.lay(builder.real(args[0]) if fill else args[0], args[0].order)
    rank = len(source.shape)
    before, after = [0] * rank, [0] * rank
    for place in range(0, len(args[1]), 2):
        before[rank - 1 - place // 2], after[rank - 1 - place // 2] = args[1][place], args[1][place + 1]
    out = builder.value(_shape(node), source.order, source.quantized)
    pre, post = [before[i] for i in source.order], [after[i] for i in source.order]
    builder.node(xnn.XNNStaticConstantPad(pre, post, fill, source.id, out.id, 0))
    return out


# reductions, products, pools


def _mean_hw(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    rank = len(args[0].shape)
    if rank != 4 or sorted(d % 4 for d in args[1]) != [2, 3] or not (len(args) > 2 and args[2]):
        raise Unsupported("mean over other than the last two of four dimensions")
    source = builder.lay(args[0], NHWC)
    out = builder.value(_shape(node), NHWC)
    builder.node(xnn.XNNGlobalAvgPooling2d(input_id=source.id, output_id=out.id, flags=KEEP_DIMS))
    return out


def _bmm(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    one, other = (_value(builder, a) for a in args)
    batch, rows, inner = one.shape
    columns = other.shape[2]
    if batch == 1 and one.dims[-1] == inner and one.order == contiguous(3):
        # The rows may lie in any dimensions: no need to flatten an image into a matrix of pixels first.
        matrix = builder.lay(Value(other.id, other.dims, (inner, columns), _inner_order(other)), (0, 1))
        dims = (*one.dims[:-1], columns)
        out = builder.value(dims, contiguous(len(dims)))
        builder.node(xnn.XNNFullyConnected(one.id, matrix.id, INVALID, out.id, TRANSPOSE_WEIGHTS))
        return Value(out.id, dims, (1, rows, columns), contiguous(3))
    one, other = builder.lay(one, contiguous(3)), builder.lay(other, contiguous(3))
    out = builder.value(_shape(node), contiguous(3))
    builder.node(xnn.XNNBatchMatrixMultiply(one.id, other.id, out.id, 0))
    return out


def _inner_order(value: Value) -> tuple[int, ...]:
    """Order of the last two of three dimensions, the first being 1."""
    return tuple(i - 1 for i in value.order if i)


def _softmax(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    rank = len(args[0].shape)
    if args[1] % rank != rank - 1:
        raise Unsupported("softmax over another than the last dimension")
    source = builder.lay(args[0], contiguous(rank))
    out = builder.value(_shape(node), contiguous(rank))
    builder.node(xnn.XNNSoftmax(input_id=source.id, output_id=out.id, flags=0))
    return out


def _pool(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    kernel = _pair(args[1])
    stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
    padding = _pair(args[3] if len(args) > 3 else 0)
    dilation = _pair(args[4] if len(args) > 4 else 1) if node.target is aten.max_pool2d.default else (1, 1)
    average = node.target is aten.avg_pool2d.default
    ceil, divisor = (args[4:5], args[6:7]) if average else (args[5:6], ())
    if any(ceil) or any(divisor) or (average and any(padding)):
        raise Unsupported("pooling with ceil_mode or a divisor, or an average over padding")
    source = builder.lay(builder.real(args[0]) if average else args[0], NHWC)
    out = builder.value(_shape(node), NHWC, source.quantized)
    kind = xnn.XNNAvgPooling2d if average else xnn.XNNMaxPooling2d
    builder.node(
        kind(padding[0], padding[1], padding[0], padding[1], *kernel, *stride, *dilation, source.id, out.id, 0)
    )
    return out


def _pair(number: Any) -> tuple[int, int]:
    if isinstance(number, int):
        return number, number
    return (number[0], number[0]) if len(number) == 1 else (number[0], number[1])


# int8


def _quantize(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    source: Value = args[0]
    params = PerTensor(float(args[1]), int(args[2]))
    if source.quantized == params:
        return source
    source = builder.real(source)
    out = builder.value(source.dims, contiguous(len(source.dims)), params)
    builder.node(xnn.XNNConvert(input_id=source.id, output_id=out.id, flags=0))
    return Value(out.id, out.dims, source.shape, source.order, params)


def _dequantize(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    source: Value = args[0]
    if source.quantized != PerTensor(float(args[1]), int(args[2])):
        raise Unsupported("dequantising with another scale than the tensor has")
    return source  # as float only where an operator needs it


def _per_image(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    # Convolutions will quantise it; to any other operator the rounding makes no difference that it was meant to make.
    return replace(builder.real(args[0]), quantized=PerImage(*args[1:]))


def _as_float(builder: Builder, args: Sequence[Any]) -> Sequence[Any]:
    return [
        _as_float(builder, a) if isinstance(a, list) else builder.real(a) if isinstance(a, Value) else a for a in args
    ]


def _of_floats(emit: Emit) -> Emit:
    return lambda builder, node, args: emit(builder, node, _as_float(builder, args))


# convolutions


def _convolution(builder: Builder, node: fx.Node, args: Sequence[Any]) -> Value:
    x, w, bias, stride, padding, dilation, transposed, adjustment, groups = args
    if not isinstance(w, Constant) or w.tensor.dim() != 4 or not isinstance(bias, Constant | None):
        raise Unsupported("convolution with a weight computed at run time")
    depthwise = not transposed and w.shape[1] == 1 and groups > 1
    parts = None
    if not transposed:
        shift = bias.tensor if bias else None
        product = w.shape[2:] == (1, 1) and list(stride) == [1, 1] and not any(padding) and groups == 1
        parts = int8.convolution(builder, node, x, w.tensor, shift, depthwise=depthwise, product=product)
    if transposed:
        within, outputs = w.shape[0] // groups, w.shape[1]
        kind, filter = xnn.XNNConvTranspose2d, _transposed_filter(w.tensor, groups)
        kernel = w.shape[2:]
    else:
        within, outputs = w.shape[1], w.shape[0] // groups
        kernel = w.shape[2:]
        kind = xnn.XNNDepthwiseConv2d if depthwise else xnn.XNNConv2d
        filter = w.tensor.permute(1, 2, 3, 0) if depthwise else w.tensor.permute(0, 2, 3, 1)
    if parts is None:
        added = INVALID if bias is None else builder.constant(bias.tensor).id
        source = builder.lay(builder.real(x), NHWC)
        out = builder.value(_shape(node), NHWC)
        parts = int8.Parts(source.id, builder.constant(filter).id, added, out)
    builder.node(
        kind(
            padding_top=padding[0], padding_right=padding[1], padding_bottom=padding[0], padding_left=padding[1],
            kernel_height=kernel[0], kernel_width=kernel[1], subsampling_height=stride[0], subsampling_width=stride[1],
            dilation_height=dilation[0], dilation_width=dilation[1], group_input_channels=within,
            group_output_channels=outputs, groups=groups, adjustment_height=adjustment[0],
            adjustment_width=adjustment[1], input1_id=parts.source, filter_id=parts.filter, bias_id=parts.bias,
            output_id=parts.out.id, flags=0,
        )
    )  # fmt: skip
    return parts.out


def _transposed_filter(w: Tensor, groups: int) -> Tensor:
    """[inputs, outputs / groups, kh, kw] of ATen as [outputs, kh, kw, inputs / groups]."""
    inputs, outputs, kh, kw = w.shape
    split = w.reshape(groups, inputs // groups, outputs, kh, kw).permute(0, 2, 3, 4, 1)
    return split.reshape(groups * outputs, kh, kw, inputs // groups)


class Unsupported(Exception):
    """This use of an operator cannot go into the delegate; the text says which."""


_OF_FLOATS: dict[Any, Emit] = {
    aten.div.Tensor: _binary(xnn.XNNDiv),
    aten.maximum.default: _binary(xnn.XNNMaximum),
    aten.minimum.default: _binary(xnn.XNNMinimum),
    aten.abs.default: _unary(xnn.XNNAbs),
    aten.ceil.default: _unary(xnn.XNNCeiling),
    aten.cos.default: _unary(xnn.XNNCos),
    aten.exp.default: _unary(xnn.XNNExp),
    aten.floor.default: _unary(xnn.XNNFloor),
    aten.gelu.default: _unary(xnn.XNNGelu),
    aten.hardswish.default: _unary(xnn.XNNHardswish),
    aten.log.default: _unary(xnn.XNNLog),
    aten.neg.default: _unary(xnn.XNNNegate),
    aten.rsqrt.default: _unary(xnn.XNNReciprocalSquareRoot),
    aten.sigmoid.default: _unary(xnn.XNNSigmoid),
    aten.sin.default: _unary(xnn.XNNSin),
    aten.sqrt.default: _unary(xnn.XNNSquareRoot),
    aten.tanh.default: _unary(xnn.XNNTanh),
    aten.clamp.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.relu.default: _clamp,
    aten.mean.dim: _mean_hw,
    aten.bmm.default: _bmm,
    aten._softmax.default: _softmax,
    aten.avg_pool2d.default: _pool,
}

_OF_EITHER: dict[Any, Emit] = {
    aten.add.Tensor: _binary(xnn.XNNAdd),
    aten.sub.Tensor: _binary(xnn.XNNSubtract),
    aten.mul.Tensor: _binary(xnn.XNNMultiply),
    aten.rsub.Scalar: lambda builder, node, args: _binary(xnn.XNNSubtract)(builder, node, [args[1], args[0]]),
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.max_pool2d.default: _pool,
    aten.convolution.default: _convolution,
    quantized.quantize_per_tensor.default: _quantize,
    quantized.dequantize_per_tensor.default: _dequantize,
    torch.ops.edgecl.round_per_image.default: _per_image,
}
"""These take int8 tensors as they are."""

OPERATORS: dict[Any, Emit] = {target: _of_floats(emit) for target, emit in _OF_FLOATS.items()} | _OF_EITHER
