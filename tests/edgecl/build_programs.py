"""Builds the small programs of the tests into a folder, with torch: `python build_programs.py FOLDER`.

    small.pte, small/      infer_b1, infer_b4, adapt_b4: a frozen convolution under a head that is theta
    types.pte, types/      types: one input of each dtype, outside any delegate
    busy.pte               long and short: the same convolution 24 times on a large input and once on a small one
    doubles.pte            doubles: takes float64, which edgecl does not
    unplanned.pte          unplanned: small's infer_b1 without memory for its inputs and outputs
    looped.pte, looped/    infer_b1, infer_b4, adapt_b4, learn_b4: a learner with faults, which hyper sets
    vectors.npz            inputs and eager outputs: METHOD.in.0, METHOD.out.0, ...
    looped.npz             the same of looped.pte

The folders hold the same methods as ONNX.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from torch import Tensor, nn

CHANNELS, CLASSES, SIZE = 8, 4, 8

Sample = tuple[nn.Module, tuple[Tensor, ...]]


class Encoder(nn.Module):
    """A convolution, and two kinds of constants that XNNPACK does not pack: slopes of a PReLU, a scale per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.act = nn.PReLU(CHANNELS)
        self.scale = nn.Buffer(torch.rand(1, CHANNELS, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.act(self.conv(x)) * self.scale
        return hidden.mean((2, 3))


class Infer(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        taps = self.encoder(x)
        return torch.bmm(taps[None], theta.reshape(1, CHANNELS, CLASSES))[0], taps


class Adapt(Infer):
    def forward(  # type: ignore[override]
        self, theta: Tensor, slots: Tensor, x: Tensor, noise: Tensor, hyper: Tensor
    ) -> tuple[Tensor, ...]:
        logits, taps = super().forward(theta, x)
        slots = slots * 0.9 + theta * 0.1
        return logits, taps, theta - hyper * slots, slots, hyper + noise


class AdaptWithFaults(Infer):
    """Moves theta by `rate` away from what was seen, with noise. `shrink` 1 makes it zero, `poison` 1 infinite."""

    def forward(  # type: ignore[override]
        self, theta: Tensor, slots: Tensor, x: Tensor, noise: Tensor, hyper: Tensor
    ) -> tuple[Tensor, ...]:
        rate, shrink, poison = hyper[0:1], hyper[1:2], hyper[2:3]
        logits, taps = super().forward(theta, x)
        seen = taps.mean(0)[:, None].expand(CHANNELS, CLASSES).reshape(-1)
        slots = slots * 0.9 + (theta + seen) * 0.1
        theta = (theta - rate * (slots + noise)) * (1 - shrink) / (1 - poison)
        return logits, taps, theta, slots, logits.sum().reshape(1)


class Learn(Infer):
    """One step of gradient descent on the cross-entropy of the head, with the rate `step`."""

    def forward(  # type: ignore[override]
        self, theta: Tensor, slots: Tensor, x: Tensor, y: Tensor, hyper: Tensor
    ) -> tuple[Tensor, ...]:
        logits, taps = super().forward(theta, x)
        wrong = torch.softmax(logits, 1) * y.sum(1, keepdim=True) - y
        slope = torch.bmm(taps.t()[None], wrong[None]).reshape(-1)
        return theta - hyper[3:4] * slope, slots * 1, wrong.sum().reshape(1)


class Types(nn.Module):
    def forward(self, f: Tensor, i64: Tensor, i32: Tensor, u8: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return f * 2, i64 + 1, i32 + 1, u8 + 1, torch.logical_not(b)


class Repeat(nn.Module):
    def __init__(self, conv: nn.Module, times: int) -> None:
        super().__init__()
        self.conv = conv
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.relu(self.conv(x))
        return x


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


def lower(samples: Mapping[str, Sample], *, planned: bool = True) -> bytes:
    programs = {name: torch.export.export(module.eval(), inputs) for name, (module, inputs) in samples.items()}
    lowered = to_edge_transform_and_lower(programs, partitioner={name: [XnnpackPartitioner()] for name in programs})
    planning = MemoryPlanningPass(alloc_graph_input=planned, alloc_graph_output=planned)
    return bytes(lowered.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)


def write_onnx(folder: Path, samples: Mapping[str, Sample]) -> None:
    folder.mkdir()
    for name, (module, inputs) in samples.items():
        torch.onnx.export(
            module.eval(), inputs, folder / f"{name}.onnx", dynamo=True, external_data=False, verbose=False
        )


def write_vectors(path: Path, samples: Mapping[str, Sample]) -> None:
    vectors: dict[str, npt.NDArray[Any]] = {}
    for name, (module, inputs) in samples.items():
        with torch.no_grad():
            outputs = module(*inputs)
        vectors |= {f"{name}.in.{i}": tensor.numpy() for i, tensor in enumerate(inputs)}
        vectors |= {f"{name}.out.{i}": tensor.numpy() for i, tensor in enumerate(outputs)}
    np.savez(path, allow_pickle=False, **vectors)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder()
    theta, slots = torch.randn(CHANNELS * CLASSES), torch.randn(CHANNELS * CLASSES)
    x = torch.randn(4, 3, SIZE, SIZE)
    small: dict[str, Sample] = {
        "infer_b1": (Infer(encoder), (theta, x[:1])),
        "infer_b4": (Infer(encoder), (theta, x)),
        "adapt_b4": (Adapt(encoder), (theta, slots, x, torch.randn(1), torch.full((1,), 0.01))),
    }
    hyper = torch.tensor([0.001, 0.0, 0.0, 1.0])
    looped: dict[str, Sample] = {
        "infer_b1": small["infer_b1"],
        "infer_b4": small["infer_b4"],
        "adapt_b4": (AdaptWithFaults(encoder), (theta, slots, x, torch.rand(CHANNELS * CLASSES), hyper)),
        "learn_b4": (Learn(encoder), (theta, slots, x, torch.eye(CLASSES), hyper)),
    }
    types: dict[str, Sample] = {
        "types": (
            Types(),
            (
                torch.tensor([1.5, -2.0, 3.0]),
                torch.tensor([2**40, -1, 0]),
                torch.tensor([7, -8, 9], dtype=torch.int32),
                torch.tensor([0, 128, 254], dtype=torch.uint8),
                torch.tensor([True, False, True]),
            ),
        )
    }
    conv = nn.Conv2d(64, 64, 3, padding=1)
    busy: dict[str, Sample] = {
        "long": (Repeat(conv, 24), (torch.rand(8, 64, 64, 64),)),
        "short": (Repeat(conv, 1), (torch.rand(1, 64, 8, 8),)),
    }
    (folder / "small.pte").write_bytes(lower(small))
    (folder / "looped.pte").write_bytes(lower(looped))
    (folder / "types.pte").write_bytes(lower(types))
    (folder / "busy.pte").write_bytes(lower(busy))
    (folder / "doubles.pte").write_bytes(lower({"doubles": (Double(), (torch.rand(3, dtype=torch.float64),))}))
    (folder / "unplanned.pte").write_bytes(lower({"unplanned": small["infer_b1"]}, planned=False))
    write_onnx(folder / "small", small)
    write_onnx(folder / "looped", looped)
    write_onnx(folder / "types", types)

    write_vectors(folder / "vectors.npz", small | types)
    write_vectors(folder / "looped.npz", looped)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
