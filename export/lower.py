"""Graphs to a .pte: each method of the program is one call of one XNNPACK delegate.

The ExecuTorch program is written directly in its own schema. The general path (to_edge, partitioner, to_backend) gave
the same delegates in minutes instead of seconds, and chose layouts that cost a tenth of the step:
docs/decisions/0002-one-delegate-emitter.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter, getitem
from typing import Any

from executorch.exir import schema
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.scalar_type import ScalarType
from torch import Tensor, fx

from edgecl.errors import ProjectError
from export.memory import Estimate, estimate
from export.xnnpack.graph import Builder, Constant, Value, contiguous
from export.xnnpack.operators import OPERATORS, Unsupported

ALIGNMENT = 64
"""Bytes between inputs and outputs in their buffer: XNNPACK's kernels may read 16 bytes past the end of a tensor."""


@dataclass(frozen=True)
class Lowered:
    """A program's bytes, and what inspect shows of its methods."""

    pte: bytes
    planned_bytes: Mapping[str, int]
    operators: Mapping[str, tuple[str, ...]]
    """XNNPACK operators of each method, in order."""
    estimates: Mapping[str, Estimate]


def lower(methods: Mapping[str, fx.GraphModule]) -> Lowered:
    """Lower lean graphs (export/passes), whose inputs and outputs are float32 tensors, to one program.

    Raises ProjectError naming every operator that would have to stay outside the delegate.
    """
    store = NamedDataStore()
    plans, operators, estimates, blobs = [], {}, {}, []
    for name, graph in methods.items():
        builder = Builder(store)
        used = _emit(name, graph, builder)
        blobs.append(schema.BackendDelegateInlineData(builder.serialize()))
        plans.append(_plan(name, graph, used, len(blobs) - 1))
        estimates[name] = estimate(builder)
        operators[name] = tuple(type(node.xnode_union).__name__.removeprefix("XNN") for node in builder.nodes)
    program = schema.Program(
        version=0,
        execution_plan=plans,
        constant_buffer=[schema.Buffer(b"")],
        backend_delegate_data=blobs,
        segments=[],
        constant_segment=schema.SubsegmentOffsets(0, []),
    )
    file = PTEFile(program, named_data=store.get_named_data_store_output())
    pte = bytes(serialize_pte_binary(file, extract_delegate_segments=True, delegate_alignment=16))
    return Lowered(pte, {p.name: p.non_const_buffer_sizes[1] for p in plans}, operators, estimates)


def _emit(name: str, graph: fx.GraphModule, builder: Builder) -> list[fx.Node]:
    """Write the graph into the builder; returns the inputs that the delegate takes, in order."""
    env: dict[fx.Node, Any] = {}
    used = []
    left: dict[str, str] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if node.users:
                used.append(node)
                env[node] = builder.input(tuple(node.meta["val"].shape))
        elif node.op == "get_attr":
            env[node] = Constant(attrgetter(str(node.target))(graph))
        elif node.op == "call_function":
            args: Any = fx.map_arg(node.args, env.get)
            emit = OPERATORS.get(node.target)
            try:
                if emit is None:
                    raise Unsupported("no XNNPACK operator for it")
                env[node] = emit(builder, node, args)
            except Unsupported as reason:
                if node.target is not getitem:
                    left.setdefault(str(node.target), str(reason))
                stand_in = node.meta["val"]
                if isinstance(stand_in, Tensor):  # so that those behind it can be looked at too
                    env[node] = builder.value(tuple(stand_in.shape), contiguous(stand_in.dim()))
        elif node.op == "output":
            for source in node.args[0]:
                value = env[source]
                builder.output(value if isinstance(value, Value) else builder.constant(value.tensor))
    if left:
        listed = "; ".join(f"{target}: {reason}" for target, reason in left.items())
        raise ProjectError(
            f"{name}: these operators would stay outside the delegate: {listed}; write model and learner without them"
        )
    return used


def _plan(name: str, graph: fx.GraphModule, used: list[fx.Node], delegate: int) -> schema.ExecutionPlan:
    inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
    outputs: Any = graph.graph.output_node().args[0]
    values, end = [], 0
    for node in (*inputs, *outputs):
        shape = list(node.meta["val"].shape)
        values.append(schema.EValue(_tensor(shape, end)))
        end += -(-4 * node.meta["val"].numel() // ALIGNMENT) * ALIGNMENT + ALIGNMENT
    ins, outs = list(range(len(inputs))), list(range(len(inputs), len(values)))
    call = schema.DelegateCall(delegate, [inputs.index(n) for n in used] + outs)
    call.delegate_index = 0
    return schema.ExecutionPlan(
        name=name,
        container_meta_type=schema.ContainerMetadata("", ""),
        values=values,
        inputs=ins,
        outputs=outs,
        chains=[schema.Chain([], [], [schema.Instruction(call)], None)],
        operators=[],
        delegates=[
            schema.BackendDelegate(
                "XnnpackBackend", schema.BackendDelegateDataReference(schema.DataLocation.INLINE, delegate), []
            )
        ],
        non_const_buffer_sizes=[0, end],
    )


def _tensor(shape: list[int], offset: int) -> schema.Tensor:
    return schema.Tensor(
        scalar_type=ScalarType.FLOAT,
        storage_offset=0,
        sizes=shape,
        dim_order=list(range(len(shape))),
        requires_grad=False,
        layout=0,
        data_buffer_idx=0,
        allocation_info=schema.AllocationDetails(1, offset & 0xFFFFFFFF, offset >> 32),
        shape_dynamism=schema.TensorShapeDynamism.STATIC,
    )
