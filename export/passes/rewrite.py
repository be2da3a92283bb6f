"""The engine of the passes: run a graph again with rules in place of some operators, and record what they do.

A rule is written in plain torch: it takes what the operator takes and returns what it returns. Because the rewritten
graph is traced from a real run, rules compose, and shapes and dtypes are always right.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx


class Site:
    """What a rule may ask about the operator that it stands for."""

    def __init__(self, node: fx.Node, env: Mapping[fx.Node, Any], frozen: set[fx.Node]) -> None:
        self.node, self._env, self._frozen = node, env, frozen

    def frozen(self, index: int) -> bool:
        """Whether an argument is a constant of the program."""
        return self.node.args[index] in self._frozen

    def producer(self, index: int) -> Any:
        """All results of the operator that an argument is one result of."""
        part = self.node.args[index]
        assert isinstance(part, fx.Node) and isinstance(part.args[0], fx.Node)
        return self._env[part.args[0]]

    def sibling(self, index: int, target: Any, *rest: Any) -> Tensor | None:
        """The value of target(argument `index` of ours, *rest), where this was computed before."""
        source = self.node.args[index]
        assert isinstance(source, fx.Node)
        for user in source.users:
            if user.target is target and user.args == (source, *rest) and user in self._env:
                value = self._env[user]
                assert isinstance(value, Tensor)
                return value
        return None


Rule = Callable[..., Any]
"""rule(site, *args, **kwargs): what the operator returns, or NotImplemented to leave it as it is."""

Rules = Mapping[Any, Rule]


def rewrite(graph: fx.GraphModule, example: Sequence[Tensor], tables: Sequence[Rules]) -> tuple[fx.GraphModule, bool]:
    """The graph with every operator done by the first rule that takes it, and whether any rule took one.

    Only shapes and dtypes of the example inputs matter.
    """
    rewriting = _Rewriting(graph, tables)
    new = make_fx(rewriting.run, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    return new, rewriting.fired


def frozen_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose value depends on no input: constants, and what is computed from them alone."""
    frozen: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op == "call_function" and _static(node, frozen)):
            frozen.add(node)
    return frozen


_LIKE = {
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.full_like.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default,
}
"""Of these only the shape of the input matters, and shapes are constants here."""


def _static(node: fx.Node, frozen: set[fx.Node]) -> bool:
    return node.target in _LIKE or all(source in frozen for source in node.all_input_nodes)


class _Rewriting(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, tables: Sequence[Rules]) -> None:
        super().__init__(graph, garbage_collect_values=False)  # rules ask for what others have done with already
        self.tables = tables
        self.frozen = frozen_nodes(graph.graph)
        self.fired = False

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_function":
            for table in self.tables:
                if (rule := table.get(n.target)) is not None:
                    args, kwargs = self.fetch_args_kwargs_from_env(n)
                    value = rule(Site(n, self.env, self.frozen), *args, **kwargs)
                    if value is not NotImplemented:
                        self.fired = True
                        return value
        return super().run_node(n)
