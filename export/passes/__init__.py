"""Passes that turn the traced step into a lean graph which XNNPACK can run as one delegate.

Rules replace operators (one table a file), until none applies; then scalars are folded and masks are packed where they
arise.
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
from export.passes.tidy import tidy

TABLES: Sequence[Rules] = (
    gates.RULES,
    activations.RULES,
    frozen_convolutions.RULES,
    trainable_convolutions.RULES,
    reductions.RULES,
    pools.RULES,
    products.RULES,
    shapes.RULES,
)

MAX_ROUNDS = 8
"""Rules rewrite what other rules wrote, a few rounds deep; more means that two undo each other."""


def lean(graph: fx.GraphModule, example: Sequence[Tensor]) -> fx.GraphModule:
    """The same function of the same inputs, in operators of export/xnnpack/operators.py wherever a rule exists."""
    graph = tidy(graph)
    for _ in range(MAX_ROUNDS):
        graph, fired = rewrite(graph, example, TABLES)
        graph = tidy(graph)
        if not fired:
            return pack_early(tidy(fold_scalars(graph)))
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
