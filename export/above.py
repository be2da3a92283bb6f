"""The part of an encoder above one of its taps, as an encoder of its own: what lies below is computed once and kept."""

import copy
import warnings

import torch
from torch import Tensor

from export.encoder import Encoder

aten = torch.ops.aten


def above(encoder: Encoder, tap: int) -> Encoder | None:
    """The encoder from this tap on; it takes the value at the tap, [B, *shape], and the tap is its first.

    None where the tap is no cut: something goes around it to the logits. The encoder has no open norms.
    """
    assert not encoder.norms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns of itself
        graph = copy.deepcopy(encoder.graph)
    (given,) = (node for node in graph.graph.nodes if node.op == "placeholder")
    cut = next(node for node in graph.graph.nodes if node.meta.get("tap") == tap)
    with graph.graph.inserting_after(given):
        value = graph.graph.placeholder("value")
    value.meta["val"] = cut.meta.get("val")
    cut.replace_all_uses_with(value)
    for node in list(given.users):
        if not isinstance(node.meta.get("val", Tensor()), Tensor):  # the size of the batch, which both have
            node.replace_input_with(given, value)
            value.append(node)
    for node in graph.graph.nodes:
        if "tap" in node.meta and (index := node.meta.pop("tap")) > tap:
            node.meta["tap"] = index - tap
    value.meta["tap"] = 0
    graph.graph.eliminate_dead_code()
    if given.users:
        return None
    graph.graph.erase_node(given)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return Encoder(graph, (), encoder.taps[tap:], encoder.taps[tap].shape, encoder.classes)
