"""Losses, optimizers and statistics against their definitions and the numbers that were computed for them elsewhere."""

import math

import pytest
import torch
from torch import Tensor

from export.objectives import (
    below,
    cross_entropy,
    distance,
    entropy,
    entropy_margin,
    labelled,
    mean_over,
    proxy_contrast,
    unit,
)
from export.optimizers import adam, adam_slots, paced, sgd, sgd_slots
from export.statistics import Anchor, Pair, draw, follow, measure, normalise, pace


def _wave(*shape: int, k: float) -> Tensor:
    """sin(k t + 0.05 t^2), t = 1, 2, ..., row by row."""
    t = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(k * t + 0.05 * t * t).reshape(shape)


def test_entropy_of_known_logits() -> None:
    h = entropy(8 * _wave(6, 10, k=0.7))
    expected = torch.tensor([0.937999, 0.976604, 1.249985, 1.183901, 0.449515, 2.196938], dtype=torch.float64)
    assert torch.allclose(h, expected, atol=1e-6)
    assert entropy_margin(10) == pytest.approx(0.921034, abs=1e-6)
    assert below(h, entropy_margin(10)).nonzero().tolist() == [[4]]


def test_regulariser_of_known_features() -> None:
    assert distance(_wave(2, 3, 2, 2, k=0.7), _wave(2, 3, 2, 2, k=0.5)).item() == pytest.approx(0.966282, abs=1e-6)


def test_the_mean_over_nothing_is_zero_and_has_a_gradient() -> None:
    values = torch.ones(3, requires_grad=True)
    mean = mean_over(values, torch.zeros(3))
    mean.backward()  # type: ignore[no-untyped-call]
    assert mean.item() == 0
    assert values.grad is not None and values.grad.tolist() == [0, 0, 0]


def test_cross_entropy_is_that_of_torch_and_leaves_rows_of_zeros_out() -> None:
    logits, labels = _wave(4, 3, k=0.9), torch.tensor([0, 2, 1, 1])
    y = torch.eye(3, dtype=torch.float64)[labels]
    wanted = torch.nn.functional.cross_entropy(logits, labels)
    assert torch.allclose(mean_over(cross_entropy(logits, y), labelled(y)), wanted)
    y[2:] = 0
    wanted = torch.nn.functional.cross_entropy(logits[:2], labels[:2])
    assert torch.allclose(mean_over(cross_entropy(logits, y), labelled(y)), wanted)


def _pairs(features: Tensor, proxies: Tensor, labels: Tensor) -> Tensor:
    """PCR as published: a sum over pairs of samples, [B]."""
    cosines = torch.nn.functional.normalize(features) @ torch.nn.functional.normalize(proxies)[labels].t() / 0.09
    same = (labels[:, None] == labels).double()
    return -(same * torch.log_softmax(cosines, 1)).sum(1) / same.sum(1)


def test_proxy_contrast_of_known_features() -> None:
    y = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2, 0])]
    assert proxy_contrast(_wave(4, 3, k=0.7), _wave(3, 3, k=1.1), y).mean().item() == pytest.approx(9.189863, abs=1e-5)


def test_proxy_contrast_is_the_published_sum_over_pairs_whatever_classes_are_there() -> None:
    labels = torch.tensor([4, 1, 4, 4, 1, 2])
    y = torch.eye(6, dtype=torch.float64)[labels]
    features, proxies = (_wave(*shape, k=k).requires_grad_(True) for shape, k in (((6, 5), 0.7), ((6, 5), 1.1)))
    mine, theirs = proxy_contrast(features, proxies, y), _pairs(features, proxies, labels)
    assert torch.allclose(mine, theirs, atol=1e-9)
    for got, want in zip(*(torch.autograd.grad(v.mean(), [features, proxies]) for v in (mine, theirs)), strict=True):
        assert torch.allclose(got, want, atol=1e-9)
        assert got.abs().max() > 0


def test_proxy_contrast_leaves_out_samples_without_a_label() -> None:
    labels = torch.tensor([0, 2, 0])
    y = torch.cat([torch.eye(3, dtype=torch.float64)[labels], torch.zeros(2, 3, dtype=torch.float64)])
    features, proxies = _wave(5, 4, k=0.7).requires_grad_(True), _wave(3, 4, k=1.1)
    losses = proxy_contrast(features, proxies, y)
    assert torch.allclose(losses[:3], _pairs(features[:3], proxies, labels), atol=1e-9)
    assert losses[3:].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(losses.sum(), [features])
    assert gradient[3:].abs().max() == 0 < gradient[:3].abs().max()
    nothing = proxy_contrast(features, proxies, torch.zeros_like(y))
    (gradient,) = torch.autograd.grad(nothing.sum(), [features])
    assert nothing.tolist() == [0] * 5 and gradient.tolist() == torch.zeros(5, 4).tolist()


def test_a_row_of_zeros_has_no_direction_and_a_finite_gradient() -> None:
    rows = torch.stack([torch.zeros(3), torch.tensor([3.0, 0.0, 4.0])]).double().requires_grad_(True)
    assert torch.allclose(unit(rows), torch.tensor([[0, 0, 0], [0.6, 0, 0.8]]).double())
    (gradient,) = torch.autograd.grad(unit(rows).sum(), [rows])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimizers_are_those_of_torch(kind: str) -> None:
    theta = {"a": _wave(2, 3, k=0.3), "b": _wave(4, k=0.8)}
    leaves = [piece.clone().requires_grad_(True) for piece in theta.values()]
    reference: torch.optim.Optimizer
    if kind == "sgd":
        reference, slots = torch.optim.SGD(leaves, lr=0.1, momentum=0.9), sgd_slots(theta)
    else:
        reference, slots = torch.optim.Adam(leaves, lr=0.1), adam_slots(theta)
    for step in range(5):
        grads = {name: _wave(*piece.shape, k=0.1 * (step + 1)) for name, piece in theta.items()}
        for leaf, grad in zip(leaves, grads.values(), strict=True):
            leaf.grad = grad.clone()
        reference.step()
        lr = torch.tensor(0.1, dtype=torch.float64)
        if kind == "sgd":
            theta, slots = sgd(theta, grads, slots, lr=lr, momentum=torch.tensor(0.9, dtype=torch.float64))
        else:
            theta, slots = adam(theta, grads, slots, lr=lr)
    for piece, leaf in zip(theta.values(), leaves, strict=True):
        assert torch.allclose(piece, leaf, atol=1e-12)


def test_learning_rates_are_for_sixty_four_samples() -> None:
    assert paced(torch.tensor(0.5), torch.zeros(16, 3)).item() == pytest.approx(0.125)


def test_following_in_small_batches_goes_as_far_as_in_large_ones() -> None:
    """The running average is of samples, so how they are cut into batches changes little."""
    x = 2 + 1.5 * _wave(64, 3, 4, 4, k=0.7)
    memory = torch.tensor(64.0, dtype=torch.float64)
    ends = []
    for size in (1, 8, 64):
        running = Pair(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
        for part in x.split(size):  # type: ignore[no-untyped-call]
            running = follow(part, running, pace(memory, size))
        ends.append(running)
    for running in ends[:-1]:
        assert (running.mean - ends[-1].mean).abs().max() < 0.12
        assert (running.var - ends[-1].var).abs().max() < 0.25


def test_memory_of_one_batch_is_batch_normalisation() -> None:
    x = _wave(8, 3, 4, 4, k=0.7) + 1
    running = follow(x, Pair(torch.zeros(3), torch.ones(3)), pace(torch.tensor(1e-6, dtype=torch.float64), 8))
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    assert torch.allclose(running.mean, mean)
    assert torch.allclose(running.var, var)
    ours = normalise(x, running, torch.ones(3), torch.zeros(3), torch.full((3,), 1e-5))
    assert torch.allclose(ours, torch.nn.functional.batch_norm(x, None, None, training=True), atol=1e-9)


def test_chance_is_not_followed_and_a_shift_is() -> None:
    generator = torch.Generator().manual_seed(0)

    def images(count: int, shift: float) -> Tensor:
        level = torch.randn(count, 16, 1, 1, generator=generator)  # images differ as a whole
        return level + torch.randn(count, 16, 6, 6, generator=generator) + shift

    anchor = measure(images(2000, 0), torch.full((16,), 1e-5))
    assert anchor.mean_spread == pytest.approx(0.5, abs=0.1)
    tempo = pace(torch.tensor(64.0), 4)
    for shift, follows in ((0.0, False), (1.5, True)):
        running = Pair(anchor.mean, anchor.var)
        for _ in range(60):
            running = follow(images(4, shift), running, tempo)
        used = draw(running, anchor, tempo)
        went = ((used.mean - anchor.mean).norm() / (running.mean - anchor.mean).norm()).item()
        assert went > 0.9 if follows else went < 0.5


def test_an_anchor_without_spread_trusts_the_stream() -> None:
    anchor = Anchor(torch.zeros(2), torch.ones(2), torch.full((2,), 1e-5))
    running = Pair(torch.ones(2), torch.ones(2) * 3)
    assert draw(running, anchor, pace(torch.tensor(64.0), 4)) == running
