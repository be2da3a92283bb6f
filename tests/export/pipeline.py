"""From a network, a learner or a few operators to a graph and a running program, as tests of the compiler need it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgecl.engine import Program, open_program
from export.encoder import Encoder, capture
from export.lower import lower
from export.passes import lean
from export.passes.rematerialise import rematerialise
from export.to_onnx import to_onnx
from export.trace import Flat, trace
from tests.export import nets

Array = npt.NDArray[Any]


def captured(
    kind: type[nn.Module],
    dtype: torch.dtype = torch.float32,
    *,
    width: int | None = None,
    taps: Sequence[str] = (),
    open_norms: bool = False,
) -> Encoder:
    """One of the small networks, captured; always with the same numbers."""
    torch.manual_seed(0)
    model = nets.trained(kind() if width is None else kind(width)).to(dtype)
    return capture(model, nets.batch(kind, 2).to(dtype), taps=taps, open_norms=open_norms)


def compiled(method: Flat) -> fx.GraphModule:
    """The graph of a method as a bundle has it."""
    return rematerialise(lean(trace(method), method.example))


def graph_of(function: Callable[..., tuple[Tensor, ...]], *example: Tensor) -> fx.GraphModule:
    """A graph of just the operators that the function calls; tensors that it closes over are constants."""
    graph = fx.symbolic_trace(function)
    _Shapes(graph).run(*example)
    return graph


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = n.meta["val"] = super().run_node(n)
        return value


def xnnpack(folder: Path, graphs: Mapping[str, fx.GraphModule]) -> Program:
    """The graphs as one ExecuTorch program, with all methods loaded."""
    path = folder / "program.pte"
    path.write_bytes(lower(graphs).pte)
    return open_program(path, methods=list(graphs))


def onnxruntime(folder: Path, graphs: Mapping[str, fx.GraphModule]) -> Program:
    """The graphs as ONNX, in ONNX Runtime."""
    for name, graph in graphs.items():
        takes = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
        gives: Any = graph.graph.output_node().args[0]
        path = folder / f"{name}.onnx"
        path.write_bytes(to_onnx(graph, takes, [f"result_{i}" for i in range(len(gives))]))
    return open_program(folder, engine="onnxruntime", methods=list(graphs))


def arrays(tensors: tuple[Tensor, ...]) -> list[Array]:
    """The tensors for an engine, which takes float32."""
    return [np.ascontiguousarray(t.detach().to(torch.float32).numpy()) for t in tensors]


def apart(one: Array | Tensor, other: Array | Tensor) -> float:
    """The largest difference, relative to the largest number where that is above one."""
    a, b = (np.asarray(v.detach() if isinstance(v, Tensor) else v, np.float64) for v in (one, other))
    assert a.shape == b.shape
    return float(np.abs(a - b).max(initial=0.0) / max(1.0, np.abs(b).max(initial=0.0)))
