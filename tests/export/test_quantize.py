"""int8 encoders: what they compute eagerly, what the compiled program computes, and how close both are to float."""

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from edgecl.errors import ProjectError
from export import rounding
from export.encoder import Encoder, capture
from export.learners.ecotta import EcoTTA
from export.learners.source import Source
from export.learners.tent import Tent
from export.lower import lower
from export.passes import lean
from export.passes.gates import STEP
from export.quantize import quantize
from export.trace import Flat, methods
from tests.export import nets, pipeline

BATCH, CLASSES = 8, 5
TAPS = ("stem", "layer1", "layer2", "layer3")
Backward = Literal["float", "int8"]

FLIPS = 1e-2
"""Compiled against eager, relative to the largest number: a few activations that lie halfway go to the next step."""

ROUNDING = 0.15
"""int8 against float, relative to the largest number, for these small networks with random weights."""


GEOMETRIES = [(1, 1, 0, 1), (1, 2, 0, 1), (1, 1, 1, 1), (2, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2)]
"""(kernel, stride, padding, dilation)"""


def encoded(kind: type[nn.Module], backward: Backward = "float", **options: Any) -> tuple[Encoder, Encoder]:
    """An encoder in float, and the same in int8."""
    plain = pipeline.captured(kind, **options)
    return plain, quantize(plain, [nets.batch(kind, 16, seed=seed) for seed in (1, 2)], backward=backward)


def both(folder: Path, method: Flat) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the compiled method gives, and what the eager one gives, by name."""
    program = pipeline.xnnpack(folder, {method.name: pipeline.compiled(method)})
    got = [torch.from_numpy(value) for value in program.execute(method.name, pipeline.arrays(method.example))]
    want = method.run(*method.example)
    return dict(zip(method.outputs, got, strict=True)), dict(zip(method.outputs, want, strict=True))


@pytest.mark.parametrize("open_norms", [False, True])
@pytest.mark.parametrize("kind", [nets.ResNet, nets.Depthwise, nets.Mlp])
def test_the_program_answers_as_the_eager_encoder_does(kind: type[nn.Module], open_norms: bool, tmp_path: Path) -> None:
    plain, small = encoded(kind, open_norms=open_norms)
    x = nets.batch(kind, BATCH)
    got, want = both(tmp_path, methods(Source(small), "infer", BATCH, x, CLASSES))
    float_logits = plain(x).logits
    assert pipeline.apart(got["logits"], want["logits"]) < FLIPS
    assert 1e-3 < pipeline.apart(want["logits"], float_logits) < ROUNDING  # it is rounded, and not too much


@pytest.mark.parametrize(
    ("make", "open_norms", "backward"),
    [(EcoTTA, False, "float"), (EcoTTA, False, "int8"), (EcoTTA, True, "int8"), (Tent, True, "int8")],
)
def test_a_step_of_the_program_is_that_of_the_eager_learner(
    make: type[EcoTTA | Tent], open_norms: bool, backward: Backward, tmp_path: Path
) -> None:
    _, small = encoded(nets.ResNet, backward, taps=TAPS, open_norms=open_norms)
    method = methods(make(small), "adapt", BATCH, nets.batch(nets.ResNet, BATCH), CLASSES)
    got, want = both(tmp_path, method)
    for name in sorted({"logits", "taps", "report"} & set(method.outputs)):
        assert pipeline.apart(got[name], want[name]) < FLIPS
    before = dict(zip(method.inputs, method.example, strict=True))
    for name in ("theta", "slots"):
        moved = want[name] - before[name]
        assert float(moved.norm()) > 0
        assert float((got[name] - want[name]).norm() / moved.norm()) < 0.02


@pytest.mark.parametrize("backward", ["float", "int8"])
@pytest.mark.parametrize("open_norms", [False, True])
def test_gradients_at_the_input_are_close_to_those_of_the_float_encoder(backward: Backward, open_norms: bool) -> None:
    for kind in (nets.ResNet, nets.Depthwise):
        directions = []
        for encoder in encoded(kind, backward, open_norms=open_norms):
            x = nets.batch(kind, BATCH).requires_grad_(True)
            (g,) = torch.autograd.grad(encoder(x).logits.square().sum(), x)
            directions.append(g.flatten())
        assert float(torch.cosine_similarity(directions[0], directions[1], dim=0)) > 0.95


def test_gradients_stop_at_the_ends_of_an_activation_and_pass_elsewhere() -> None:
    x = torch.tensor([-1.0, 0.004, 0.02, 1.0, 2.54, 3.0], requires_grad=True)  # steps of 0.01 from 0 to 2.55
    wanted: dict[rounding.Activation, list[int]] = {
        "none": [1, 1, 1, 1, 1, 1], "relu": [0, 0, 1, 1, 1, 1], "clamp": [0, 0, 1, 1, 1, 0]
    }  # fmt: skip
    for activation, mask in wanted.items():
        y = rounding.rounded(x, 0.01, -128, activation)
        assert torch.allclose(y, torch.tensor([0, 0, 0.02, 1, 2.54, 2.55]))
        (g,) = torch.autograd.grad(y.sum(), x)
        assert g.tolist() == mask


@pytest.mark.parametrize("activation", ["relu", "clamp"])
def test_masks_are_made_in_int8(activation: rounding.Activation, tmp_path: Path) -> None:
    def gradient(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        leaf = x.detach().requires_grad_(True)
        return torch.autograd.grad(rounding.rounded(leaf, 0.02, -128, activation), leaf, g)

    x, g = torch.linspace(-1, 7, 2 * 4 * 6 * 5).reshape(2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    graph = lean(make_fx(gradient)(x, g), (x, g))
    (got,) = pipeline.xnnpack(tmp_path, {"mask": graph}).execute("mask", pipeline.arrays((x, g)))
    assert torch.equal(torch.from_numpy(got), gradient(x, g)[0])
    assert Counter(lower({"mask": graph}).operators["mask"])["Convert"] == 2  # x to int8, and the mask from it


def test_the_int8_input_gradient_is_that_of_autograd_for_every_geometry() -> None:
    generator = torch.Generator().manual_seed(0)
    for kernel, stride, padding, dilation, height in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2), (7, 8)):
        x = torch.randn(2, 3, height, height + 1, generator=generator, requires_grad=True)
        w = torch.randn(4, 3, kernel, kernel, generator=generator)
        how = [stride] * 2, [padding] * 2, [dilation] * 2
        one, other = rounding.convolution(x, w, None, *how), torch.conv2d(x, w, None, *how)
        g = torch.randn(other.shape, generator=generator)
        (got,), (want,) = torch.autograd.grad(one, x, g), torch.autograd.grad(other, x, g)
        assert pipeline.apart(got, want) < 0.03, (kernel, stride, padding, dilation, height)


@pytest.mark.parametrize("channels", [8, 64])
def test_compiled_gradients_round_as_eager_ones_do(channels: int, tmp_path: Path) -> None:
    """On the grid of an image or of a pixel, also where a 1x1 and a 3x3 convolution read the same gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, channels, 8, 8, generator=generator)
    beside = torch.randn(channels, channels, 3, 3, generator=generator)

    def gradient_of(w: Tensor, stride: int, padding: int, dilation: int) -> Callable[[Tensor], tuple[Tensor]]:
        def gradient(g: Tensor) -> tuple[Tensor]:
            leaf = x.clone().requires_grad_(True)
            y = rounding.convolution(leaf, w, None, [stride] * 2, [padding] * 2, [dilation] * 2)
            if y.shape == x.shape:
                y = y + rounding.convolution(leaf, beside, None, [1, 1], [1, 1], [1, 1])
            return torch.autograd.grad(y, leaf, g)  # type: ignore[return-value]

        return gradient

    graphs, wanted = {}, {}
    for kernel, *how in GEOMETRIES:
        w = torch.randn(channels, channels, kernel, kernel, generator=generator)
        g = torch.randn(torch.conv2d(x, w, None, *how).shape, generator=generator)
        g = g * torch.tensor([1.0, 100.0, 0.01])[:, None, None, None]
        name, gradient = f"{kernel}, {how}", gradient_of(w, *how)
        graphs[name], wanted[name] = lean(make_fx(gradient)(g), (g,)), (g, gradient(g)[0])
    program = pipeline.xnnpack(tmp_path, graphs)
    for name, (g, want) in wanted.items():
        (got,) = program.execute(name, pipeline.arrays((g,)))
        for image, like in zip(torch.from_numpy(got), want, strict=True):
            assert float((image - like).norm() / like.norm()) < 1e-5, name


def test_folded_networks_stay_in_int8_from_the_input_to_the_last_mean() -> None:
    for kind, float_again in ((nets.ResNet, 1), (nets.Depthwise, 1)):
        _, small = encoded(kind)
        method = methods(Source(small), "infer", BATCH, nets.batch(kind, BATCH), CLASSES)
        used = Counter(lower({method.name: pipeline.compiled(method)}).operators[method.name])
        # the images, what the mean reads, and what the linear layer reads
        assert used["Convert"] == 1 + float_again + 1


def test_masks_of_the_encoder_come_from_its_int8_activations() -> None:
    _, small = encoded(nets.ResNet, taps=("layer1", "layer3"))
    method = methods(EcoTTA(small), "adapt", BATCH, nets.batch(nets.ResNet, BATCH), CLASSES)
    packing = torch.ops.quantized_decomposed.quantize_per_tensor.default
    packed = [n for n in pipeline.compiled(method).graph.nodes if n.target is packing and n.args[1] == STEP]
    assert len(packed) == 1  # the ReLU of the meta network, the only float one


@pytest.mark.parametrize("open_norms", [False, True])
def test_weights_take_a_byte_each(open_norms: bool) -> None:
    class Wide(nets.ResNet):
        def __init__(self) -> None:
            super().__init__(width=32)

    plain = capture(nets.trained(Wide()), torch.randn(2, 3, 16, 16), open_norms=open_norms)
    small = quantize(plain, [torch.randn(8, 3, 16, 16)])
    method = methods(Source(small), "infer", 1, torch.randn(1, 3, 16, 16), CLASSES)
    weights = sum(p.numel() for p in Wide().parameters() if p.dim() > 1)
    assert weights < len(lower({method.name: pipeline.compiled(method)}).pte) < 1.2 * weights


@pytest.mark.parametrize("kind", [nets.ResNet, nets.Depthwise])
@pytest.mark.parametrize(("value", "converts"), [(0.0, 3), (1.0, 3), (-3e-12, 5)])
def test_constant_source_data_gives_a_program_that_still_agrees(
    kind: type[nn.Module], value: float, converts: int, tmp_path: Path
) -> None:
    """All of it is in int8 but the first convolution where its bias, in steps of the tiny input, goes beyond int32."""
    plain = pipeline.captured(kind)
    small = quantize(plain, [torch.full((4, *nets.SHAPES[kind]), value)])
    method = methods(Source(small), "infer", BATCH, nets.batch(kind, BATCH), CLASSES)
    got, want = both(tmp_path, method)
    assert torch.isfinite(want["logits"]).all()
    if converts == 3:
        assert len(torch.unique(want["logits"], dim=0)) == BATCH  # the grids leave room for other data
    assert pipeline.apart(got["logits"], want["logits"]) < FLIPS
    assert Counter(lower({method.name: pipeline.compiled(method)}).operators[method.name])["Convert"] == converts


def test_channels_that_training_switched_off_leave_the_others_in_int8(tmp_path: Path) -> None:
    model = nets.trained(nets.ResNet())
    for block in (model.layer1, model.layer2):
        block.bn1.weight.data[:2] = torch.tensor([1e-24, 0.0])
        block.bn1.bias.data[:2] = torch.tensor([0.3, -0.2])
    x = nets.batch(nets.ResNet, BATCH)
    plain = capture(model, x)
    small = quantize(plain, [x])
    method = methods(Source(small), "infer", BATCH, x, CLASSES)
    used = Counter(lower({method.name: pipeline.compiled(method)}).operators[method.name])
    assert used["Convert"] == 3
    got, want = both(tmp_path, method)
    assert pipeline.apart(got["logits"], want["logits"]) < FLIPS
    assert pipeline.apart(want["logits"], plain(x).logits) < ROUNDING


def test_a_channel_of_zeros_has_steps_as_fine_as_its_neighbours() -> None:
    scales = rounding.weight_scales(torch.tensor([[0.0, 0.0], [2.54, -1.0], [0.0, 1.27]]))
    assert torch.allclose(scales, torch.tensor([0.02, 0.02, 0.01]))


def test_a_learner_sees_rounded_taps_and_what_it_puts_there_goes_on() -> None:
    plain, small = encoded(nets.ResNet, taps=TAPS)
    x = nets.batch(nets.ResNet, BATCH)
    seen = small(x).taps
    for mine, theirs in zip(seen, plain(x).taps, strict=True):
        assert len(torch.unique(mine)) <= 256
        assert pipeline.apart(mine, theirs) < ROUNDING
    halved = [encoder(x, tap=lambda _, value: value * 0.5).logits for encoder in (small, plain)]
    assert pipeline.apart(*halved) < ROUNDING
    assert pipeline.apart(halved[1], plain(x).logits) > ROUNDING


def test_grids_reach_as_far_as_the_learner_goes() -> None:
    plain = pipeline.captured(nets.ResNet, taps=TAPS)
    x = nets.batch(nets.ResNet, 16)

    def loud(_: int, value: Tensor) -> Tensor:
        return value * 3

    errors = []
    for run in (lambda encoder, batch: encoder(batch), lambda encoder, batch: encoder(batch, tap=loud)):
        small = quantize(plain, [x], run=run)
        errors.append(pipeline.apart(small(x, tap=loud).logits, plain(x, tap=loud).logits))
    assert errors[1] < ROUNDING < errors[0]


def test_the_encoder_given_stays_as_it_was() -> None:
    plain = pipeline.captured(nets.ResNet, taps=TAPS)
    x = nets.batch(nets.ResNet, BATCH)
    before = copy.deepcopy(plain(x).logits)
    quantize(plain, [x], backward="int8")
    assert torch.equal(plain(x).logits, before)


def test_grids_without_data_are_an_error() -> None:
    with pytest.raises(ProjectError, match="no source data"):
        quantize(pipeline.captured(nets.ResNet), [])
