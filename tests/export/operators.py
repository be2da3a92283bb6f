"""Every operator that a lean graph may have, in use: what each engine must compute as ATen does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from export.rounding import INT8

aten: Any = torch.ops.aten
quantized: Any = torch.ops.quantized_decomposed

Case = tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]


def _cases() -> dict[str, Case]:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    image, other, positive = random(2, 4, 6, 5), random(2, 4, 6, 5), random(2, 4, 6, 5).abs() + 0.1
    channel, row, matrix = random(1, 4, 1, 1), random(5), random(3, 7)
    dense, grouped, depthwise = random(6, 4, 3, 3), random(6, 2, 3, 3), random(8, 1, 3, 3)
    bias, back = random(6), random(4, 3, 3, 3)
    one, batched = random(1, 7, 4), random(3, 4, 2)
    same, square, vector = random(4, 4, 3, 3), random(4, 4, 4, 4), random(4)

    def convolution(w: Tensor, b: Tensor | None, stride: int, padding: int, dilation: int, groups: int) -> Case:
        places = [stride] * 2, [padding] * 2, [dilation] * 2
        return lambda x: (aten.convolution.default(x, w, b, *places, False, [0, 0], groups),), (image,)

    def convolve(x: Tensor) -> Tensor:
        y: Tensor = aten.convolution.default(x, same, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        return y

    def unary(operator: Any, x: Tensor = image) -> Case:
        return lambda v: (operator(v),), (x,)

    def mask(x: Tensor) -> tuple[Tensor, ...]:
        packed = quantized.quantize_per_tensor.default(x, 2.0**-40, 126, *INT8)
        return (aten.mul.Tensor(x, quantized.dequantize_per_tensor.default(packed, 2.0**-40, 126, *INT8)),)

    def rounded(x: Tensor) -> tuple[Tensor, ...]:
        packed = quantized.quantize_per_tensor.default(x, 0.05, -3, *INT8)
        return (quantized.dequantize_per_tensor.default(packed, 0.05, -3, *INT8),)

    return {
        "add": (lambda x, y: (aten.add.Tensor(x, y),), (image, other)),
        "add a constant for each channel": (lambda x: (aten.add.Tensor(x, channel),), (image,)),
        "sub": (lambda x, y: (aten.sub.Tensor(x, y),), (image, channel)),
        "sub from a number of a row": (lambda x, y: (aten.sub.Tensor(y, x),), (image, row)),
        "mul by a number": (lambda x: (aten.mul.Tensor(x, -2.5),), (image,)),
        "mul across": (lambda x, y: (aten.mul.Tensor(x, y),), (random(4, 1), random(1, 5))),
        "div": (lambda x, y: (aten.div.Tensor(x, y),), (image, positive)),
        "maximum": (lambda x, y: (aten.maximum.default(x, y),), (image, other)),
        "minimum": (lambda x, y: (aten.minimum.default(x, y),), (image, other)),
        "rsub": (lambda x: (aten.rsub.Scalar(x, 1.5),), (image,)),
        "abs": unary(aten.abs.default),
        "ceil": unary(aten.ceil.default),
        "cos": unary(aten.cos.default),
        "exp": unary(aten.exp.default),
        "floor": unary(aten.floor.default),
        "gelu": unary(aten.gelu.default),
        "hardswish": unary(aten.hardswish.default, 3 * image),
        "log": unary(aten.log.default, positive),
        "neg": unary(aten.neg.default),
        "rsqrt": unary(aten.rsqrt.default, positive),
        "sigmoid": unary(aten.sigmoid.default),
        "sin": unary(aten.sin.default),
        "sqrt": unary(aten.sqrt.default, positive),
        "tanh": unary(aten.tanh.default),
        "clamp from below": (lambda x: (aten.clamp.default(x, min=0.25),), (image,)),
        "clamp from above": (lambda x: (aten.clamp.default(x, None, 0.25),), (image,)),
        "hardtanh": (lambda x: (aten.hardtanh.default(x, -0.5, 0.25),), (image,)),
        "relu": unary(aten.relu.default),
        "relu of a sum that is read twice": (
            lambda x, y: ((s := aten.add.Tensor(x, y)), aten.relu.default(s)),
            (image, other),
        ),
        "permute": (lambda x: (aten.permute.default(x, [2, 0, -1, 1]),), (image,)),
        "permute and add": (lambda x, y: (aten.add.Tensor(aten.permute.default(x, [0, 1, 3, 2]), y),),
                            (image, random(2, 4, 5, 6))),
        "reshape": (lambda x: (aten.reshape.default(aten.exp.default(x), [4, 60]),), (image,)),
        "slice": (lambda x: (aten.slice.Tensor(x, 2, 1, 5),), (image,)),
        "slice from the end": (lambda x: (aten.slice.Tensor(x, -1, -3),), (image,)),
        "slice of a slice": (lambda x: (aten.slice.Tensor(aten.slice.Tensor(x, 1, 1, 4), 2, 2, 4),), (image,)),
        "cat": (lambda x, y: (aten.cat.default([x, y, x, y, x, y, x], 1),), (image, other)),
        "cat with a constant": (lambda x: (aten.cat.default([x, back[:, :, :1, :1], x]),), (random(2, 3, 1, 1),)),
        "pad": (lambda x: (aten.constant_pad_nd.default(x, [1, 2, 0, 3], 0.5),), (image,)),
        "pad channels": (lambda x: (aten.constant_pad_nd.default(x, [0, 0, 0, 0, 1, 1]),), (image,)),
        "mean": (lambda x: (aten.mean.dim(x, [2, 3], True),), (image,)),
        "mean times an image": (
            lambda x: (aten.mul.Tensor(y := convolve(x), aten.mean.dim(y, [2, 3], True)),), (square,)),
        "bmm": (lambda x, y: (aten.bmm.default(x, y),), (random(3, 5, 4), batched)),
        "bmm of pixels": (lambda x, y: (aten.bmm.default(aten.reshape.default(x, [1, 60, 4]), y),),
                          (random(2, 6, 5, 4), random(1, 4, 7))),
        "bmm with a constant": (lambda x: (aten.bmm.default(x, one),), (random(1, 5, 7),)),
        "softmax": (lambda x: (aten._softmax.default(x, 1, False),), (matrix,)),
        "average pool": (lambda x: (aten.avg_pool2d.default(x, [2, 3], [1, 2]),), (image,)),
        "max pool": (lambda x: (aten.max_pool2d.default(x, [3, 3], [2, 2], [1, 1]),), (image,)),
        "convolution": convolution(dense, None, 1, 1, 1, 1),
        "convolution with a bias and a stride": convolution(dense, bias, 2, 1, 1, 1),
        "convolution with dilation": convolution(dense, None, 1, 2, 2, 1),
        "convolution in groups": convolution(grouped, bias, 1, 1, 1, 2),
        "convolution of each channel": convolution(depthwise, None, 2, 1, 1, 4),
        "convolution, clamped": (
            lambda x: (aten.hardtanh.default(aten.convolution.default(
                x, dense, bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), 0.0, 0.5),), (image,)),
        "transposed convolution": (lambda x: (aten.convolution.default(
            x, back, None, [2, 2], [1, 1], [1, 1], True, [1, 0], 1),), (image,)),
        "transposed convolution in groups": (lambda x: (aten.convolution.default(
            x, back, None, [2, 2], [1, 1], [1, 1], True, [0, 0], 2),), (image,)),
        "one weight for both kinds": (
            lambda x: (convolve(x), aten.convolution.default(
                x, same, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)), (image,)),
        "relu of a view of what is read elsewhere": (
            lambda x: ((y := convolve(x)), aten.relu.default(aten.reshape.default(y, [2, -1]))), (image,)),
        "relu of a relu6": (lambda x: (aten.relu.default(aten.hardtanh.default(convolve(x), -1.0, 6.0)),), (image,)),
        "two clamps of one sum": (
            lambda x, y: (aten.relu.default(z := aten.add.Tensor(x, y)), aten.hardtanh.default(z, -1.0, 1.0)),
            (image, other)),
        "inputs and outputs twice": (lambda x: (x, (y := aten.neg.default(x)), y, x), (image,)),
        "a constant as output": (lambda x: (matrix, aten.neg.default(x)), (image,)),
        "an input that nothing reads": (lambda x, y: (aten.neg.default(y),), (image, other)),
        "one output in three shapes": (
            lambda x: ((y := aten.neg.default(x)), aten.reshape.default(y, [2, -1]),
                       aten.permute.default(y, [0, 2, 3, 1])), (image,)),
        "parts that overlap": (
            lambda x: (aten.slice.Tensor(y := aten.slice.Tensor(x, 1, 1, 4), 1, 0, 2), aten.slice.Tensor(y, 1, 1, 3)),
            (image,)),
        "a vector against channels and rows": (
            lambda x, v: (aten.mul.Tensor(aten.reshape.default(v, [1, 4, 1, 1]), x),
                          aten.add.Tensor(v, aten.reshape.default(x, [-1, 4]))), (image, vector)),
        "a number": (
            lambda x, v: (aten.mul.Tensor(x, n := aten.reshape.default(aten.slice.Tensor(v, 0, 1, 2), [])),
                          aten.reshape.default(aten.exp.default(n), [1])), (image, vector)),
        "bmm, turned": (lambda x, y: (aten.bmm.default(aten.permute.default(x, [0, 2, 1]), y),),
                        (random(1, 4, 5), random(1, 4, 6))),
        "mask in a byte": (mask, (random(2, 4, 6, 5) * torch.tensor([0.0, 1e-9, 1.0, 1e9, 1e-20]),)),
        "int8": (rounded, (4 * image,)),
        "int8 for each image": unary(
            torch.ops.edgecl.round_per_image.default, image * torch.tensor([1.0, 9.0])[:, None, None, None]),
        "int8 for each pixel": unary(lambda x: torch.ops.edgecl.round_per_image.default(x, True), image),
    }  # fmt: skip


CASES = _cases()
