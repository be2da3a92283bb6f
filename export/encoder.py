"""A user's trained classifier as a frozen graph with named sites where a learner may act.

Three kinds of site. A *tap* is the output (`"layer1"`) or the input (`"layer1:in"`) of a module: a learner reads it, or
puts something else in its place. A *norm* is a batch normalisation kept open for learners that change statistics or
affine parameters; all other batch normalisations are folded away as constants. The *head* is the linear layer that
gives the logits, where the network ends in one.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgecl.errors import ProjectError
from export.statistics import Anchor, Pair, normalise

aten = torch.ops.aten

Site = Callable[[int, Tensor], Tensor]
"""Called with the number of the site and its value (for a norm, its input as [B, C, H, W]); returns what follows it."""

Classify = Callable[[Tensor], Tensor]
"""Called with features [B, D]; returns logits [B, C] in place of the head's."""


@dataclass(frozen=True)
class Norm:
    """An open batch normalisation, y = (x - mean) / sqrt(var + eps) * gamma + beta; gamma and beta are [channels].

    Where a convolution or linear layer precedes it, the statistics of training are folded into that layer: x arrives
    standardised (mean 0, var near 1, eps per channel), which keeps sums of squares accurate in float32 and int8.
    """

    name: str
    gamma: Tensor
    beta: Tensor
    anchor: Anchor


@dataclass(frozen=True)
class Tap:
    """A named place in the graph; shape is that of one sample, without the batch."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Head:
    """logits = features @ weight.T + bias; weight [C, D], bias [C] or none."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Encoded:
    """What one pass returns: logits [B, C], and the value at each tap before a learner replaced it."""

    logits: Tensor
    taps: tuple[Tensor, ...]
    features: Tensor | None = None
    """[B, D]: what the head takes; none where the network ends in something else."""


class Encoder(nn.Module):
    """The frozen network: call it with functions for the sites to change. Nothing in it requires a gradient."""

    def __init__(
        self,
        graph: fx.GraphModule,
        norms: Sequence[Norm],
        taps: Sequence[Tap],
        input_shape: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.norms = tuple(norms)
        self.taps = tuple(taps)
        self.input_shape = tuple(input_shape)
        self.classes = classes

    @property
    def features(self) -> int:
        """Width of the pooled taps, all taps side by side."""
        return sum(tap.shape[0] for tap in self.taps)

    @property
    def head(self) -> Head | None:
        """The final linear layer as trained; None where the network ends in something else."""
        for node in self.graph.graph.nodes:
            if "head" in node.meta:
                weight, bias = (_constant(self.graph, arg) for arg in (*node.args, None)[1:3])
                assert weight is not None
                return Head(weight, bias)
        return None

    def forward(
        self, x: Tensor, norm: Site | None = None, tap: Site | None = None, head: Classify | None = None
    ) -> Encoded:
        """Run the network on x [B, *input_shape]; a site without a function behaves as in the source model."""
        walk = _Walk(self.graph, norm or self.source_norm, tap or (lambda _, value: value), head, len(self.taps))
        logits = walk.run(x)
        return Encoded(logits, tuple(walk.seen), walk.features)

    def source_norm(self, index: int, x: Tensor) -> Tensor:
        """The norm with the statistics and parameters that it was trained with."""
        site, anchor = self.norms[index], self.norms[index].anchor.to(x)
        return normalise(x, Pair(anchor.mean, anchor.var), site.gamma.to(x), site.beta.to(x), anchor.eps)

    def require_cuts(self) -> None:
        """Raise ProjectError unless every tap is a cut: all that reaches the logits passes through it."""
        for node in self.graph.graph.nodes:
            index = node.meta.get("tap")
            if index is not None and (around := _bypass(self.graph.graph, node)) is not None:
                raise ProjectError(
                    f"tap {self.taps[index].name}: {around} goes around it, and this learner needs all to pass "
                    "through; choose a tap at the end of a block"
                )


class _Walk(fx.Interpreter):
    """Executes the graph and hands its sites to the learner."""

    def __init__(self, graph: fx.GraphModule, norm: Site, tap: Site, head: Classify | None, taps: int) -> None:
        super().__init__(graph)
        self.norm, self.tap, self.head = norm, tap, head
        self.seen: list[Any] = [None] * taps
        self.features: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:
        if "head" in n.meta:
            self.features = self.env[n.args[0]]  # type: ignore[index]
            assert self.features is not None
            value = super().run_node(n) if self.head is None else self.head(self.features)
        elif (index := n.meta.get("norm")) is None:
            value = super().run_node(n)
        else:
            source = n.args[0]
            assert isinstance(source, fx.Node)
            x = self.env[source]
            value = self.norm(index, _as_image(x)).reshape(x.shape)
        if (index := n.meta.get("tap")) is not None:
            self.seen[index] = value
            value = self.tap(index, value)
        return value


def _as_image(x: Tensor) -> Tensor:
    """[B, C], [B, C, L] or [B, C, H, W] as [B, C, H, W]."""
    return x if x.dim() == 4 else x.reshape(x.shape[0], x.shape[1], 1, -1)


def capture(model: nn.Module, example: Tensor, *, taps: Sequence[str] = (), open_norms: bool = False) -> Encoder:
    """Turn a trained classifier into an Encoder.

    `example` is a float batch of two or more samples as the model takes them. The model is copied, and taken in eval
    mode. Raises ProjectError: the model cannot be exported, does not map one tensor to logits [B, C], depends on the
    batch size, or has no such tap.
    """
    model = copy.deepcopy(model).eval()
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns of itself
            program = program.run_decompositions({})  # takes nothing apart, but leaves nothing that works in place
    except Exception as error:  # of many types; all of them mean that this model cannot be captured
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ProjectError(f"model: torch.export cannot capture it: {reason}; make forward() traceable") from error
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    graph.requires_grad_(False)
    _simplify(graph)
    for index, name in enumerate(taps):
        _mark_tap(graph, index, name)
    norms = _settle_norms(graph, open_norms)
    _mark_head(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    with torch.no_grad():
        out = Encoder(graph, norms, [Tap(name, ()) for name in taps], example.shape[1:], 0)(example)
    if not isinstance(out.logits, Tensor) or out.logits.dim() != 2 or out.logits.shape[0] != len(example):
        raise ProjectError(
            "model: forward() must return one tensor of logits [batch, classes]; wrap it in one that does"
        )
    places = [Tap(name, tuple(value.shape[1:])) for name, value in zip(taps, out.taps, strict=True)]
    return Encoder(graph, norms, places, example.shape[1:], out.logits.shape[1])


def _simplify(graph: fx.GraphModule) -> None:
    """Drop dropout and copies, which do nothing here; make each batch normalisation one node."""
    for node in list(graph.graph.nodes):
        if node.target in (aten.dropout.default, aten.clone.default, aten.alias.default):
            node.replace_all_uses_with(node.args[0])
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            with graph.graph.inserting_before(node):
                args = (*node.args[:5], False, *node.args[5:], False)
                new = graph.graph.call_function(aten.batch_norm.default, args)
            for part in node.users:  # only the first of three results is read
                new.meta.update(part.meta)
                part.replace_all_uses_with(new)
        elif node.target is aten._native_batch_norm_legit.no_stats:
            raise ProjectError(
                f"{_module_paths(node)[-1]}: batch normalisation without running statistics; train with them"
            )
    graph.graph.eliminate_dead_code()


def _mark_tap(graph: fx.GraphModule, index: int, name: str) -> None:
    """Find the node that a tap names by the module path that torch.export kept for every node."""
    path, _, side = name.partition(":")
    inside = [n for n in graph.graph.nodes if n.op == "call_function" and path in _module_paths(n)]
    if not inside or side not in ("", "in"):
        paths = dict.fromkeys(p for n in graph.graph.nodes if n.op == "call_function" for p in _module_paths(n) if p)
        raise ProjectError(f'tap "{name}": no such module; the model has {", ".join(paths)} (":in" for an input)')
    if side == "in":
        within = set(inside)
        sources = {s for n in inside for s in n.all_input_nodes if s not in within and s.op != "get_attr"}
        if len(sources) != 1:
            raise ProjectError(f'tap "{name}": the module takes {len(sources)} tensors; choose a module with one input')
        node = sources.pop()
    else:
        node = inside[-1]
    if "tap" in node.meta:
        raise ProjectError(f'tap "{name}": another tap names the same place; remove one of them')
    node.meta["tap"] = index


def _mark_head(graph: fx.GraphModule) -> None:
    """Find the linear layer whose result is the output, if there is one."""
    for node in graph.graph.output_node().all_input_nodes:
        if node.target is aten.linear.default and _constant(graph, node.args[1]) is not None:
            node.meta["head"] = True


def _module_paths(node: fx.Node) -> list[str]:
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _settle_norms(graph: fx.GraphModule, keep_open: bool) -> list[Norm]:
    """Fold every batch normalisation, whole or (kept open) its source statistics only, into the layer before it."""
    norms: list[Norm] = []
    for node in list(graph.graph.nodes):
        if node.target is not aten.batch_norm.default:
            continue
        gamma, beta, mean, var = (_constant(graph, arg) for arg in node.args[1:5])
        eps = float(node.args[7])
        assert mean is not None and var is not None
        gamma = torch.ones_like(mean) if gamma is None else gamma
        beta = torch.zeros_like(mean) if beta is None else beta
        deviation = torch.sqrt(var + eps)
        if keep_open:
            name = _module_paths(node)[-1]
            if _scale_layer(graph, node.args[0], 1 / deviation, -mean / deviation):
                standard = Anchor(torch.zeros_like(mean), var / (var + eps), eps / (var + eps))
                norms.append(Norm(name, gamma, beta, standard))
            else:
                norms.append(Norm(name, gamma, beta, Anchor(mean, var, torch.full_like(mean, eps))))
            node.meta["norm"] = len(norms) - 1
        elif _scale_layer(graph, node.args[0], gamma / deviation, beta - mean * gamma / deviation):
            node.args[0].meta.update({k: v for k, v in node.meta.items() if k == "tap"})
            node.replace_all_uses_with(node.args[0])
        else:
            _as_affine(graph, node, gamma / deviation, beta - mean * gamma / deviation)
    return norms


def _constant(graph: fx.GraphModule, arg: Any) -> Tensor | None:
    """The tensor behind a get_attr node."""
    if not isinstance(arg, fx.Node) or arg.op != "get_attr":
        return None
    value: Any = graph
    for part in str(arg.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach()


_LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.linear.default)


def _scale_layer(graph: fx.GraphModule, layer: Any, scale: Tensor, shift: Tensor) -> bool:
    """Make `layer` compute layer(x) * scale + shift, by channel; False where it is no layer, or others read it."""
    if layer.target not in _LAYERS or len(layer.users) != 1 or "tap" in layer.meta:
        return False
    weight, bias = _constant(graph, layer.args[1]), _constant(graph, layer.args[2] if len(layer.args) > 2 else None)
    if weight is None:
        return False
    folded = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    moved = shift if bias is None else bias * scale + shift
    with graph.graph.inserting_before(layer):
        parts = [_buffer(graph, f"{layer.name}_weight", folded), _buffer(graph, f"{layer.name}_bias", moved)]
    layer.args = (layer.args[0], *parts, *layer.args[3:])
    return True


def _as_affine(graph: fx.GraphModule, node: fx.Node, scale: Tensor, shift: Tensor) -> None:
    """Replace a frozen normalisation with nothing to fold into: a depthwise 1x1 convolution, one pass for XNNPACK."""
    dims = node.meta["val"].dim()
    with graph.graph.inserting_before(node):
        if dims == 4:
            weight = _buffer(graph, f"{node.name}_scale", scale.reshape(-1, 1, 1, 1))
            bias = _buffer(graph, f"{node.name}_shift", shift)
            ones, none = [1, 1], [0, 0]
            args = (node.args[0], weight, bias, ones, none, ones, len(scale))
            new = graph.graph.call_function(aten.conv2d.default, args)
        else:
            shape = (1, -1) if dims == 2 else (1, -1, 1)
            weight = _buffer(graph, f"{node.name}_scale", scale.reshape(shape))
            bias = _buffer(graph, f"{node.name}_shift", shift.reshape(shape))
            new = graph.graph.call_function(aten.mul.Tensor, (node.args[0], weight))
            new = graph.graph.call_function(aten.add.Tensor, (new, bias))
    new.meta.update(node.meta)
    node.replace_all_uses_with(new)


def _buffer(graph: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """A new constant of the graph."""
    graph.register_buffer(f"folded_{name}", value.clone().contiguous())
    return graph.graph.get_attr(f"folded_{name}")


def _bypass(graph: fx.Graph, cut: fx.Node) -> str | None:
    """A node through which the input reaches the output without passing `cut`; None when there is none."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node is cut or not isinstance(node.meta.get("val", Tensor()), Tensor):  # the batch size is no path for data
            continue
        if node.op == "placeholder" or any(source in reached for source in node.all_input_nodes):
            reached.add(node)
            if node.op == "output":
                return str(next(s.name for s in node.all_input_nodes if s in reached))
    return None
