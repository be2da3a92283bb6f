"""Forms of adaptor against their formulas, and the learner that puts one at the taps of an encoder."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecl.errors import ProjectError
from export import trace
from export.adaptors import ADAPTORS, OPEN, Form, Place, find
from export.encoder import Encoder, capture
from export.learners import Pieces
from export.learners.adaptor import Adaptor
from tests.export import nets, pipeline

TAPS = ("layer1:in", "layer1", "layer2", "layer3")
DOUBLE = torch.float64


@functools.cache
def _resnet(*taps: str) -> Encoder:
    return pipeline.captured(nets.ResNet, DOUBLE, width=20, taps=taps)


def _moved(pieces: Pieces) -> Pieces:
    random = torch.Generator().manual_seed(2)
    return {
        name: piece.double() + 0.3 * torch.randn(piece.shape, generator=random, dtype=DOUBLE)
        for name, piece in pieces.items()
    }


def _hyper(learner: Adaptor, **changed: float) -> Pieces:
    return {name: torch.tensor(value, dtype=DOUBLE) for name, value in (dict(learner.hyper) | changed).items()}


def _labels(count: int, classes: int = 5) -> Tensor:
    return torch.eye(classes, dtype=DOUBLE)[torch.arange(count) % classes]


# forms


@pytest.mark.parametrize("form", ADAPTORS)
def test_at_the_start_the_network_answers_as_trained(form: str) -> None:
    encoder, x = _resnet(*TAPS), nets.batch(nets.ResNet, 3).double()
    learner = Adaptor(encoder, form)
    as_built = {name: piece.double() for name, piece in learner.theta().items()}
    assert pipeline.apart(learner.logits(as_built, x), encoder(x).logits) < 1e-9
    assert pipeline.apart(learner.logits(_moved(learner.theta()), x), encoder(x).logits) > 1e-3


@pytest.mark.parametrize(("form", "count"), [
    ("film", 2 * 160), ("depthwise", 9 * 160), ("bottleneck4", 2 * 4 * 160 + 4 * 4), ("lowrank4", 2 * 4 * 160),
    ("meta", 20 * 20 + 20 * 40 + 40 * 80 + 4 * 140), ("input", 3 + 3 + 9), ("input3", 3 + 3 + 81),
])  # fmt: skip
def test_forms_have_as_many_numbers_as_their_formulas_say(form: str, count: int) -> None:
    assert sum(piece.numel() for piece in Adaptor(_resnet(*TAPS), form).start.values()) == count


def _depthwise(p: Pieces, x: Tensor, before: Tensor) -> Tensor:
    return F.conv2d(x, p["kernel"][:, None], padding=1, groups=x.shape[1])


def _film(p: Pieces, x: Tensor, before: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bchw", x, p["gamma"]) + p["beta"][None, :, None, None]


def _bottleneck(p: Pieces, x: Tensor, before: Tensor) -> Tensor:
    inner = torch.einsum("bchw,rc->brhw", x, p["down"][:, :, 0, 0]) + p["bias"][None, :, None, None]
    return x + torch.einsum("brhw,cr->bchw", inner.clamp(min=0), p["up"][:, :, 0, 0])


def _lowrank(p: Pieces, x: Tensor, before: Tensor) -> Tensor:
    return x + torch.einsum("bchw,dc->bdhw", x, p["up"][:, :, 0, 0] @ p["down"][:, :, 0, 0])


def _meta(p: Pieces, x: Tensor, before: Tensor) -> Tensor:
    def normalised(value: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        mean, var = torch.zeros(len(gamma), dtype=DOUBLE), torch.ones(len(gamma), dtype=DOUBLE)
        return F.batch_norm(value, mean, var, gamma, beta, False, 0.0, 0.0)

    beside = normalised(F.conv2d(before, p["conv"], stride=2), p["meta.gamma"], p["meta.beta"])
    return normalised(x, p["gamma"], p["beta"]) + beside.clamp(min=0)


def _input3(p: Pieces, x: Tensor, before: Tensor) -> Tensor:
    whole = p["mix"].clone()
    whole[:, :, 1, 1] += torch.eye(len(whole), dtype=DOUBLE)
    return F.conv2d(x, whole * p["scale"][:, None, None, None], p["shift"], padding=1)


FORMULAS = {
    "film": _film, "depthwise": _depthwise, "bottleneck4": _bottleneck, "lowrank4": _lowrank, "meta": _meta,
    "input3": _input3,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_forms_and_their_gradients_are_those_of_the_formulas(name: str) -> None:
    form: Form = find(name)
    random = torch.Generator().manual_seed(4)
    before = torch.randn(2, 5, 8, 6, generator=random, dtype=DOUBLE, requires_grad=True)
    x = torch.randn(2, 7, 4, 3, generator=random, dtype=DOUBLE, requires_grad=True)
    start = _moved(form.start(Place("tap", (7, 4, 3), (5, 8, 6)), random))
    pieces = {key: piece.requires_grad_(True) for key, piece in start.items()}
    mine, theirs = form.apply(pieces, x, before), FORMULAS[name](pieces, x, before)
    assert pipeline.apart(mine, theirs) < 1e-12
    weights = torch.randn(mine.shape, generator=random, dtype=DOUBLE)
    leaves = [*pieces.values(), x, *([before] if form.reads_before else [])]
    for got, want in zip(*(torch.autograd.grad((y * weights).sum(), leaves) for y in (mine, theirs)), strict=True):
        assert pipeline.apart(got, want) < 1e-12


def test_a_meta_block_begins_open() -> None:
    start = find("meta").start(Place("tap", (3, 4, 4), (2, 8, 8)), torch.Generator())
    assert start["meta.beta"].tolist() == pytest.approx([OPEN] * 3) and OPEN > 0
    assert torch.equal(start["beta"], -start["meta.beta"])


def test_rows_of_one_pixel_get_no_kernel_across() -> None:
    waves = Adaptor(pipeline.captured(nets.Waves, taps=("conv1", "conv2")), "depthwise")
    assert [tuple(piece.shape) for piece in waves.start.values()] == [(8, 1, 3), (8, 1, 3)]
    vectors = Adaptor(pipeline.captured(nets.Mlp, taps=("first",)), "depthwise")
    assert [tuple(piece.shape) for piece in vectors.start.values()] == [(16, 1, 1)]


# the learner


def test_only_the_places_named_get_pieces_and_a_seed_gives_the_same_ones() -> None:
    encoder = _resnet(*TAPS)
    learner = Adaptor(encoder, "lowrank4", at=("layer3", "layer1"), seed=3)
    assert list(learner.start) == ["2.down", "2.up", "4.down", "4.up"]
    again, other = (Adaptor(encoder, "lowrank4", at=("layer1", "layer3"), seed=seed) for seed in (3, 4))
    assert all(torch.equal(piece, again.start[name]) for name, piece in learner.start.items())
    assert not torch.equal(learner.start["2.down"], other.start["2.down"])


def test_a_meta_block_reads_what_the_one_before_it_gave() -> None:
    learner, x = Adaptor(_resnet(*TAPS), "meta"), nets.batch(nets.ResNet, 3).double()
    pieces = _moved(learner.theta())
    entered: list[Tensor] = []
    form = learner.form

    class Watched:
        stands, reads_before = form.stands, form.reads_before

        def apply(self, own: Pieces, value: Tensor, before: Tensor) -> Tensor:
            entered.append(before)
            entered.append(form.apply(own, value, before))
            return entered[-1]

    learner.form = Watched()  # type: ignore[assignment]
    learner.logits(pieces, x)
    assert len(entered) == 6
    assert entered[2] is entered[1] and entered[4] is entered[3]


@pytest.mark.parametrize("loss", ["cross-entropy", "pcr"])
def test_labels_move_the_head_and_entropy_never_does(loss: str) -> None:
    learner = Adaptor(_resnet(*TAPS), "film", loss=loss, head=True)  # type: ignore[arg-type]
    theta, slots = learner.theta(), {k: v.double() for k, v in learner.slots().items()}
    x = nets.batch(nets.ResNet, 10).double()
    entropy = learner.adapt(theta, slots, x, torch.zeros(0), _hyper(learner, margin=10.0))
    assert set(entropy.theta) == {name for name in theta if not name.startswith("head")}
    assert set(entropy.slots) == {"momentum"}
    assert any(not torch.equal(piece, theta[name]) for name, piece in entropy.theta.items())
    done = learner.learn(theta, slots, x, _labels(10), _hyper(learner))
    head = [name for name in theta if name.startswith("head")]
    assert head == (["head.weight", "head.bias"] if loss == "cross-entropy" else ["head.weight"])
    assert all(not torch.equal(done.theta[name], theta[name]) for name in head)
    answers = learner.infer(theta | done.theta, x).logits, learner.infer(theta | {n: done.theta[n] for n in head}, x)
    assert pipeline.apart(answers[0], answers[1].logits) > 1e-9


def test_a_frozen_head_is_no_part_of_theta_and_answers_as_the_one_that_learns() -> None:
    encoder, x = _resnet("layer3"), nets.batch(nets.ResNet, 4).double()
    frozen, learning = Adaptor(encoder), Adaptor(encoder, head=True)
    assert list(frozen.theta()) == ["1.gamma", "1.beta"] and list(frozen.slots()) == ["momentum"]
    assert pipeline.apart(frozen.logits(frozen.theta(), x), learning.logits(learning.theta(), x)) < 1e-12


def test_a_step_is_one_of_sgd_on_the_loss() -> None:
    learner = Adaptor(_resnet(*TAPS), "bottleneck4", head=True)
    learner.start = _moved(learner.start)
    theta = learner.theta()
    slots = {name: torch.full(slot.shape, 0.5, dtype=DOUBLE) for name, slot in learner.slots().items()}
    x, y = nets.batch(nets.ResNet, 6).double(), _labels(6)
    y[4:] = 0
    done = learner.learn(theta, slots, x, y, _hyper(learner))
    params = {name: piece.clone().requires_grad_(True) for name, piece in theta.items()}
    loss = F.cross_entropy(learner.logits(params, x[:4]), y[:4])
    grads = torch.autograd.grad(loss, list(params.values()))
    for (name, piece), grad in zip(theta.items(), grads, strict=True):
        want = piece - learner.hyper["lr"] * 6 / 64 * (learner.hyper["momentum"] * 0.5 + grad)
        assert pipeline.apart(done.theta[name], want) < 1e-12


@pytest.mark.parametrize(("kind", "tap", "form"), [(nets.Mlp, "first", "bottleneck4"), (nets.Waves, "conv2", "film")])
def test_a_batch_of_one_compiles_and_does_what_eager_does(
    kind: type[nn.Module], tap: str, form: str, tmp_path: Path
) -> None:
    encoder = pipeline.captured(kind, taps=(tap,))
    x = nets.batch(kind, 1, seed=3)
    learner = Adaptor(encoder, form, loss="pcr", head=True)
    learner.hyper = {**learner.hyper, "margin": 10.0}
    methods = {f"{way}_b1": trace.methods(learner, way, 1, x, 5) for way in ("infer", "adapt", "learn")}
    program = pipeline.xnnpack(tmp_path, {name: pipeline.compiled(method) for name, method in methods.items()})
    for name, method in methods.items():
        given = [_labels(1).float() if t == "y" else v for t, v in zip(method.inputs, method.example, strict=True)]
        for got, want in zip(program.execute(name, pipeline.arrays(tuple(given))), method.run(*given), strict=True):
            assert pipeline.apart(got, want) < 1e-4
        if name != "infer_b1":  # all of this would be true of a step that does nothing
            assert not np.array_equal(method.run(*given)[method.outputs.index("theta")].numpy(), given[0].numpy())


@pytest.mark.parametrize(("settings", "says"), [
    ({"form": "none"}, "unknown; choose film"),
    ({"at": ("layer9",)}, 'no tap "layer9"; model.taps names layer1:in, layer1'),
    ({"at": ()}, "there are too few"),
    ({"loss": "l2"}, "choose cross-entropy, pcr"),
    ({"form": "meta", "at": ("layer1:in",)}, "cannot stand at the first one"),
    ({"form": "input", "at": ("layer1",)}, "stands before the encoder"),
    ({"form": "bottleneck16", "at": ("layer1",)}, "8 channels do not narrow to 16"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_one_clear_line(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ProjectError, match=says):
        Adaptor(pipeline.captured(nets.ResNet, taps=TAPS), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "taps", "settings", "says"), [
    (nets.ResNet, (), {}, "there are too few"),
    (nets.ResNet, ("layer1",), {"form": "meta"}, "there are too few"),
    (nets.Mlp, (), {"form": "input3"}, "no images"),
])  # fmt: skip
def test_networks_that_do_not_fit_are_one_clear_line(
    kind: type[nn.Module], taps: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    with pytest.raises(ProjectError, match=says):
        Adaptor(pipeline.captured(kind, taps=taps), **settings)  # type: ignore[arg-type]


class Flattened(nn.Module):
    """Ends in something else than a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


@pytest.mark.parametrize("settings", [{"head": True}, {"loss": "pcr"}])
def test_a_network_without_a_linear_head_cannot_learn_one(settings: dict[str, object]) -> None:
    encoder = capture(Flattened(), nets.batch(nets.Mlp, 2), taps=("fc",))
    assert encoder.head is None and encoder(nets.batch(nets.Mlp, 2)).features is None
    Adaptor(encoder)
    with pytest.raises(ProjectError, match="ends in a linear layer"):
        Adaptor(encoder, **settings)  # type: ignore[arg-type]
