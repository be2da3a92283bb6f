"""From a learner's functions on named pieces to one ATen graph on flat vectors: forward, backward and update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from edgecl.manifest import Layout, Piece
from export.learners import Learner, Pieces, Step, adapts, scored, trains
from export.objectives import cross_entropy
from export.optimizers import leaves
from export.proxies import Gates


@dataclass(frozen=True)
class Flat:
    """A method as a function of flat tensors, with example inputs; `inputs` and `outputs` name them in order."""

    name: str
    run: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: tuple[Tensor, ...]


def layout(learner: Learner) -> Layout:
    """The layout of a learner's state."""

    def pieces(named: Pieces) -> tuple[Piece, ...]:
        offset, out = 0, []
        for name, value in named.items():
            out.append(Piece(name=name, shape=tuple(value.shape), offset=offset))
            offset += value.numel()
        return tuple(out)

    return Layout(theta=pieces(learner.theta()), slots=pieces(learner.slots()))


def flat(pieces: Pieces) -> Tensor:
    """The pieces as one vector, in their order."""
    if not pieces:
        return torch.zeros(0)
    return torch.cat([piece.reshape(-1) for piece in pieces.values()])


def split(vector: Tensor, pieces: Sequence[Piece]) -> Pieces:
    """Named views of a vector."""
    return {p.name: vector[p.offset : p.offset + p.size].reshape(p.shape) for p in pieces}


def methods(learner: Learner, kind: str, batch: int, x: Tensor, classes: int) -> Flat:
    """A method of a learner over flat tensors; `x` is an example batch of the right size and dtype."""
    form = layout(learner)
    theta, slots = flat(learner.theta()).to(x), flat(learner.slots()).to(x)
    hyper = torch.tensor(list(learner.hyper.values()), dtype=x.dtype)
    noise = torch.full((learner.noise,), 0.5, dtype=x.dtype)

    def named(vector: Tensor) -> Pieces:
        return {name: vector[i : i + 1].reshape(()) for i, name in enumerate(learner.hyper)}

    def after(step: Step, old_theta: Tensor, old_slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        new_theta = flat(split(old_theta, form.theta) | step.theta)
        new_slots = flat(split(old_slots, form.slots) | step.slots)
        if step.applied is not None:
            keep = 1 - step.applied
            new_theta = step.applied * new_theta + keep * old_theta
            new_slots = step.applied * new_slots + keep * old_slots
        report = flat({name: step.report[name] for name in learner.report})
        return new_theta.detach(), new_slots.detach(), report.detach()

    def infer(theta: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        out = learner.infer(split(theta, form.theta), x)
        return out.logits, out.taps

    def adapt(theta: Tensor, slots: Tensor, x: Tensor, noise: Tensor, hyper: Tensor) -> tuple[Tensor, ...]:
        assert adapts(learner)
        step = learner.adapt(split(theta, form.theta), split(slots, form.slots), x, noise, named(hyper))
        return step.answer.logits, step.answer.taps, *after(step, theta, slots)

    def learn(theta: Tensor, slots: Tensor, x: Tensor, y: Tensor, hyper: Tensor) -> tuple[Tensor, ...]:
        assert trains(learner)
        step = learner.learn(split(theta, form.theta), split(slots, form.slots), x, y, named(hyper))
        return after(step, theta, slots)

    def score(theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        assert scored(learner)
        pieces = split(theta, form.theta)
        params = leaves(pieces, list(learner.trained))
        gates = Gates()
        with gates:
            logits = learner.logits(pieces | params, x)
        loss = cross_entropy(logits, y).mean()
        grads = [torch.autograd.grad(value, list(params.values()), retain_graph=True) for value in (logits.sum(), loss)]
        still = {name: torch.zeros_like(piece) for name, piece in pieces.items()}
        tangent, gradient = (flat(still | dict(zip(params, part, strict=True))) for part in grads)
        return tangent, gradient, torch.cat([value.reshape(-1) for value in gates.inputs]).detach()

    y = torch.zeros(batch, classes, dtype=x.dtype)
    table: dict[str, tuple[Callable[..., tuple[Tensor, ...]], Pieces, tuple[str, ...]]] = {
        "infer": (infer, {"theta": theta, "x": x}, ("logits", "taps")),
        "adapt": (
            adapt,
            {"theta": theta, "slots": slots, "x": x, "noise": noise, "hyper": hyper},
            ("logits", "taps", "theta", "slots", "report"),
        ),
        "learn": (
            learn,
            {"theta": theta, "slots": slots, "x": x, "y": y, "hyper": hyper},
            ("theta", "slots", "report"),
        ),
        "score": (score, {"theta": theta, "x": x, "y": y}, ("tangent", "gradient", "gates")),
    }
    run, given, outputs = table[kind]
    return _without_empty(f"{kind}_b{batch}", run, given, outputs)


def _without_empty(name: str, run: Callable[..., tuple[Tensor, ...]], given: Pieces, outputs: Sequence[str]) -> Flat:
    """The method without tensors that have no elements, which engines do not take."""
    kept = {tensor: value for tensor, value in given.items() if value.numel()}

    def filled(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(out for out in run(**given | dict(zip(kept, values, strict=True))) if out.numel())

    present = [tensor for tensor, out in zip(outputs, run(**given), strict=True) if out.numel()]
    return Flat(name, filled, tuple(kept), tuple(present), tuple(kept.values()))


def trace(method: Flat) -> fx.GraphModule:
    """One ATen graph of the method, autograd included."""
    return make_fx(method.run, tracing_mode="real")(*method.example)
