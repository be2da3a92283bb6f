"""From a learner to one program: traces and leans its methods, and keeps them within a memory budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, fx

from edgecl.errors import BudgetError
from edgecl.manifest import Kind
from export import trace
from export.learners import Learner, adapts, trains
from export.lower import Lowered, lower
from export.memory import Estimate
from export.passes import lean
from export.passes.rematerialise import rematerialise
from export.trace import Flat

BASE_BYTES = 45_000_000
"""The running loop without any program.

Python, numpy and what else edgecl loads. Measured as edgecl/measure.py does, rounded up.
"""


@dataclass(frozen=True)
class Compiled:
    """All methods of a learner at one batch size."""

    batch: int
    methods: Mapping[str, Flat]
    graphs: Mapping[str, fx.GraphModule]
    lowered: Lowered

    @property
    def estimated_bytes(self) -> int:
        """What the process would take: the answering method, and the largest of those that learn."""
        estimates = self.lowered.estimates
        answering = estimates["infer_b1"].total_bytes
        others = [estimates[name] for name in self.methods if name != "infer_b1"]
        weights = sum(estimate.weights_bytes for estimate in others)
        return BASE_BYTES + answering + weights + max((e.workspace_bytes for e in others), default=0)

    @property
    def heaviest(self) -> tuple[str, Estimate]:
        """The method that needs most."""
        return max(self.lowered.estimates.items(), key=lambda item: item[1].total_bytes)


def wanted(learner: Learner, batch: int) -> list[tuple[Kind, int]]:
    """The methods that a bundle of this learner has."""
    kinds: list[Kind] = ["infer", *(["adapt"] if adapts(learner) else []), *(["learn"] if trains(learner) else [])]  # type: ignore[list-item]
    return list(dict.fromkeys([("infer", 1), *((kind, batch) for kind in kinds)]))


def compile_learner(
    forms: Mapping[str, Learner], x: Tensor, batch: int, classes: int, *, recompute: bool = False
) -> Compiled:
    """Compile every method of every form; `x` is float samples [n, ...], n >= 1.

    `recompute` spends time to save memory. The first form's name is empty. Several forms get a `score` each, by which
    the board chooses.

    Raises ProjectError naming operators that XNNPACK does not have.
    """
    methods, graphs = {}, {}
    for form, learner in forms.items():
        for kind, size in (*wanted(learner, batch), *([("score", 1)] if len(forms) > 1 else [])):
            example = x[[i % len(x) for i in range(size)]]
            method = trace.methods(learner, kind, size, example, classes)
            method = replace(method, name=f"{form}.{method.name}" if form else method.name)
            graph = lean(trace.trace(method), method.example, parts=1 if recompute else None)
            methods[method.name] = method
            graphs[method.name] = rematerialise(graph, arithmetic=recompute)
    return Compiled(batch, methods, graphs, lower(graphs))


def within(
    compile_at: Callable[[int, bool], Compiled], batch: int, budget_bytes: int, *, fit: bool, say: Callable[[str], None]
) -> Compiled:
    """The program at this batch size, or with `fit` at the largest half, quarter, ... of it, within a budget (0 for
    none).

    Raises BudgetError naming the method, its largest tensors, and the batch that would fit.
    """
    too_large: Compiled | None = None
    for size in _halves(batch):
        compiled = compile_at(size, False)
        if budget_bytes and compiled.estimated_bytes > budget_bytes:
            compiled = compile_at(size, True)
        if not budget_bytes or compiled.estimated_bytes <= budget_bytes:
            if too_large is None or fit:
                return compiled
            raise BudgetError(f"{over(too_large, budget_bytes)}; a batch of {size} would fit (learner.batch, or --fit)")
        too_large = too_large or compiled
        say(f"batch {size}: {_mb(compiled.estimated_bytes)}, over the budget of {_mb(budget_bytes)}")
    assert too_large is not None
    raise BudgetError(
        f"{over(too_large, budget_bytes)}; no batch fits: choose another learner, int8, or a budget of "
        f"{_mb(compiled.estimated_bytes)} and batch 1"
    )


def over(compiled: Compiled, budget_bytes: int) -> str:
    """What needs how much."""
    name, estimate = compiled.heaviest
    largest = ", ".join(f"{live.what} {_mb(live.bytes)}" for live in estimate.largest)
    return (
        f"{name}: the process would take {_mb(compiled.estimated_bytes)}, the budget is {_mb(budget_bytes)}; "
        f"workspace {_mb(estimate.workspace_bytes)}, largest {largest}"
    )


def _halves(batch: int) -> Sequence[int]:
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
