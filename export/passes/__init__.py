"""Passes that turn the traced step into a lean graph which XNNPACK can run as one delegate.

Rules replace operators (one table a file), until none applies; a large batch is split into parts, each of which fits
the cache; then scalars are folded and masks are packed where they arise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from export.passes import (
    activations,
    frozen_convolutions,
    gates,
    pools,
    products,
    reductions,
    shapes,
    trainable_convolutions,
)
from export.passes.rewrite import Rules, rewrite
from export.passes.scalars import fold_scalars
from export.passes.split_batch import parts_for, split_batch
from export.passes.tidy import tidy

TABLES: Sequence[Rules] = (
    gates.RULES,
    activations.RULES,
    frozen_convolutions.RULES,
    reductions.RULES,
    pools.RULES,
    products.RULES,
    shapes.RULES,
)
LATE: Sequence[Rules] = (trainable_convolutions.RULES, *TABLES)
"""Convolutions with trainable weights are written out last: until then they are easily split."""

MAX_ROUNDS = 8
"""Rules rewrite what other rules wrote, a few rounds deep; more means that two undo each other."""


def lean(graph: fx.GraphModule, example: Sequence[Tensor], *, parts: int | None = None) -> fx.GraphModule:
    """The same function of the same inputs, in operators of export/xnnpack/operators.py wherever a rule exists.

    `parts`: of the batch; by default as many as serve best.
    """
    graph = _settle(graph, example, TABLES)
    graph = split_batch(graph, example, parts_for(graph) if parts is None else parts)
    return pack_early(tidy(fold_scalars(_settle(graph, example, LATE))))


def _settle(graph: fx.GraphModule, example: Sequence[Tensor], tables: Sequence[Rules]) -> fx.GraphModule:
    graph = tidy(graph)
    for _ in range(MAX_ROUNDS):
        graph, fired = rewrite(graph, example, tables)
        graph = tidy(graph)
        if not fired:
            return graph
    raise AssertionError("the rewriting rules do not come to an end")


def pack_early(graph: fx.GraphModule) -> fx.GraphModule:
    """Move each packing of a mask to just behind what it packs, so that one byte an element waits, not four."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default:
            source = node.args[0]
            assert isinstance(source, fx.Node)
            source.append(node)
    graph.recompile()
    return graph
