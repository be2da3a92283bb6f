"""A lean graph as an ONNX model, so that ONNX Runtime is a second engine: docs/decisions/0003-own-onnx-table.md.

TRANSLATIONS has the same operators as export/xnnpack/operators.py. The bytes depend on the graph alone.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import fx

from edgecl.errors import ProjectError
from export.rounding import INT8

aten: Any = torch.ops.aten
quantized: Any = torch.ops.quantized_decomposed

OPSET = 20
"""The first with Gelu; ONNX Runtime has it since 1.17 (2024)."""

LAST = 2**63 - 1
"""As the end of a slice: all that follows."""


class Untranslated(Exception):
    """This use of an operator has no translation; the text says which."""


class _Model:
    """The ONNX graph under construction. Its own names have a dot, so that they meet none of the inputs and outputs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[int, tuple[int, ...], bytes], onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator with one output; returns the output's name."""
        name = f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Any, dtype: torch.dtype = torch.float32) -> str:
        """The name of a constant; equal ones are stored once."""
        tensor = torch.as_tensor(value).detach().to(dtype)
        key = (_TYPES[dtype], tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        if key not in self.constants:
            self.constants[key] = helper.make_tensor(f"constant.{len(self.constants)}", *key, raw=True)
        return str(self.constants[key].name)

    def numbers(self, values: Sequence[int]) -> str:
        """A constant vector of sizes or places."""
        return self.constant(list(values), torch.int64)


_TYPES = {torch.float32: TensorProto.FLOAT, torch.int8: TensorProto.INT8, torch.int64: TensorProto.INT64}

Emit = Callable[[_Model, fx.Node, Sequence[Any]], str]
"""Appends what a node does; its arguments come as names of values (str), or as the numbers and lists that they are."""


def to_onnx(graph: fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Translate a lean graph (export/passes) of float32 inputs and outputs, which are named in order.

    An output with the name of an input is called `next_` and that name. Raises ProjectError naming every operator
    without a translation.
    """
    model = _Model()
    env: dict[fx.Node, str] = {}
    given, left = iter(inputs), dict[str, str]()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            value = attrgetter(str(node.target))(graph)
            env[node] = model.constant(value, torch.int8 if value.dtype == torch.int8 else torch.float32)
        elif node.op == "call_function":
            try:
                if (emit := TRANSLATIONS.get(node.target)) is None:
                    raise Untranslated("not in the table")
                env[node] = emit(model, node, fx.map_arg(node.args, env.__getitem__))
            except Untranslated as reason:
                left.setdefault(str(node.target), str(reason))
                env[node] = ""
    if left:
        listed = "; ".join(f"{target}: {reason}" for target, reason in left.items())
        raise ProjectError(f"these operators have no translation to ONNX: {listed}; build without onnx")
    takes = [n for n in graph.graph.nodes if n.op == "placeholder"]
    gives: Any = graph.graph.output_node().args[0]
    named = [f"next_{name}" if name in inputs else name for name in outputs]
    for source, name in zip(gives, named, strict=True):
        model.nodes.append(helper.make_node("Identity", [env[source]], [name], f"output.{name}"))
    made = helper.make_graph(
        model.nodes,
        "method",
        [_declared(name, node) for name, node in zip(inputs, takes, strict=True)],
        [_declared(name, node) for name, node in zip(named, gives, strict=True)],
        list(model.constants.values()),
    )
    opset = helper.make_opsetid("", OPSET)
    whole = helper.make_model(
        made, producer_name="edgecl", opset_imports=[opset], ir_version=helper.find_min_ir_version_for([opset])
    )
    onnx.checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString(deterministic=True))


def _declared(name: str, node: fx.Node) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(node.meta["val"].shape))


# elementwise


def _operand(model: _Model, operand: Any) -> str:
    return operand if isinstance(operand, str) else model.constant(float(operand))


def _same(kind: str) -> Emit:
    """An operator of one or two tensors or numbers that is the same in ONNX."""

    def emit(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
        if any(value not in (1, "none") for value in node.kwargs.values()):
            raise Untranslated(f"with {dict(node.kwargs)}")
        return model.op(kind, *(_operand(model, arg) for arg in args))

    return emit


def _subtract_from(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    return model.op("Sub", _operand(model, args[1]), args[0])


def _rsqrt(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    return model.op("Reciprocal", model.op("Sqrt", args[0]))


def _filled(args: Sequence[Any], *defaults: Any) -> tuple[Any, ...]:
    """Positional arguments, with the defaults of those left out; `defaults` has one for each."""
    return (*args, *defaults[len(args) :])


def _clamp(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, low, high = _filled(args, None, node.kwargs.get("min"), node.kwargs.get("max"))
    return model.op("Clip", x, *("" if limit is None else _operand(model, limit) for limit in (low, high)))


# shapes


def _permute(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    return model.op("Transpose", args[0], perm=[d % len(args[1]) for d in args[1]])


def _reshape(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    return model.op("Reshape", args[0], model.numbers(node.meta["val"].shape))


def _slice(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, dim, start, end, step = _filled(args, None, 0, None, None, 1)
    places = (start or 0, LAST if end is None else end, dim, step)
    return model.op("Slice", x, *(model.numbers([place]) for place in places))


def _cat(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    parts, dim = _filled(args, None, 0)
    return model.op("Concat", *parts, axis=dim)


def _pad(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, pad, fill = _filled(args, None, None, 0.0)
    rank = node.meta["val"].dim()
    before, after = [0] * rank, [0] * rank
    for place in range(0, len(pad), 2):  # ATen counts from the last dimension
        before[rank - 1 - place // 2], after[rank - 1 - place // 2] = pad[place], pad[place + 1]
    return model.op("Pad", x, model.numbers(before + after), _operand(model, fill))


# reductions, products, pools, convolutions


def _mean(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, dims, keep = _filled(args, None, None, False)
    return model.op("ReduceMean", x, model.numbers(dims), keepdims=int(keep))


def _softmax(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    return model.op("Softmax", args[0], axis=args[1])


def _pair(number: Any) -> list[int]:
    return [number] * 2 if isinstance(number, int) else list(number) * (2 // len(number))


def _average_pool(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, kernel, stride, padding, ceil, count, divisor = _filled(args, None, None, [], 0, False, True, None)
    if divisor is not None:
        raise Untranslated("with a divisor")
    return model.op("AveragePool", x, **_window(kernel, stride, padding, ceil), count_include_pad=int(count))


def _max_pool(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, kernel, stride, padding, dilation, ceil = _filled(args, None, None, [], 0, 1, False)
    return model.op("MaxPool", x, **_window(kernel, stride, padding, ceil), dilations=_pair(dilation))


def _window(kernel: Any, stride: Any, padding: Any, ceil: bool) -> dict[str, list[int]]:
    if ceil:
        raise Untranslated("with ceil_mode")
    return {"kernel_shape": _pair(kernel), "strides": _pair(stride or kernel), "pads": _pair(padding) * 2}


def _convolution(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    x, w, bias, stride, padding, dilation, transposed, output_padding, groups = args
    more = {"output_padding": output_padding} if transposed else {}
    return model.op(
        "ConvTranspose" if transposed else "Conv",
        *(x, w) if bias is None else (x, w, bias),
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
        **more,
    )


# int8


def _quantize(kind: str) -> Emit:
    def emit(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
        x, scale, zero_point, *grid = args
        if tuple(grid) != INT8:
            raise Untranslated(f"with {grid}")
        return model.op(kind, x, model.constant(scale), model.constant(zero_point, torch.int8))

    return emit


def _round_per_image(model: _Model, node: fx.Node, args: Sequence[Any]) -> str:
    """As export/rounding.py does it, step for step."""
    shape, zero = node.meta["val"].shape, model.constant(0.0)
    pixels = len(args) > 1 and args[1]
    flat = args[0] if pixels else model.op("Reshape", args[0], model.numbers([shape[0], -1]))
    low = model.op("Min", model.op("ReduceMin", flat, model.numbers([1]), keepdims=1), zero)
    high = model.op("Max", model.op("ReduceMax", flat, model.numbers([1]), keepdims=1), zero)
    steps = model.op("Div", model.constant(255.0), model.op("Sub", high, low))
    steps = model.op("Where", model.op("Greater", high, low), steps, model.constant(1.0))
    first, last = model.constant(-128.0), model.constant(127.0)
    low, high = model.op("Mul", low, steps), model.op("Mul", high, steps)
    off = model.op("Add", model.op("Add", low, first), model.op("Add", high, last))
    place = model.op("Where", model.op("Greater", off, zero), model.op("Sub", first, low), model.op("Sub", last, high))
    place = model.op("Round", model.op("Clip", place, first, last))
    stored = model.op("Add", model.op("Round", model.op("Mul", flat, steps)), place)
    back = model.op("Sub", model.op("Clip", stored, first, last), place)
    return model.op("Reshape", model.op("Div", back, steps), model.numbers(shape))


TRANSLATIONS: dict[Any, Emit] = {
    aten.add.Tensor: _same("Add"),
    aten.sub.Tensor: _same("Sub"),
    aten.mul.Tensor: _same("Mul"),
    aten.div.Tensor: _same("Div"),
    aten.maximum.default: _same("Max"),
    aten.minimum.default: _same("Min"),
    aten.rsub.Scalar: _subtract_from,
    aten.abs.default: _same("Abs"),
    aten.ceil.default: _same("Ceil"),
    aten.cos.default: _same("Cos"),
    aten.exp.default: _same("Exp"),
    aten.floor.default: _same("Floor"),
    aten.gelu.default: _same("Gelu"),
    aten.hardswish.default: _same("HardSwish"),
    aten.log.default: _same("Log"),
    aten.neg.default: _same("Neg"),
    aten.rsqrt.default: _rsqrt,
    aten.sigmoid.default: _same("Sigmoid"),
    aten.sin.default: _same("Sin"),
    aten.sqrt.default: _same("Sqrt"),
    aten.tanh.default: _same("Tanh"),
    aten.clamp.default: _clamp,
    aten.hardtanh.default: _clamp,
    aten.relu.default: _same("Relu"),
    aten.permute.default: _permute,
    aten.reshape.default: _reshape,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.mean.dim: _mean,
    aten.bmm.default: _same("MatMul"),
    aten._softmax.default: _softmax,
    aten.avg_pool2d.default: _average_pool,
    aten.max_pool2d.default: _max_pool,
    aten.convolution.default: _convolution,
    quantized.quantize_per_tensor.default: _quantize("QuantizeLinear"),
    quantized.dequantize_per_tensor.default: _quantize("DequantizeLinear"),
    torch.ops.edgecl.round_per_image.default: _round_per_image,
}
