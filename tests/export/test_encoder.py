"""The captured network against the model that it came from, in float64, and the sites in it."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from edgecl.errors import ProjectError
from export.encoder import capture
from tests.export import nets, pipeline
from tests.export.operators import aten

NETS = list(nets.SHAPES)


class Inplace(nn.Module):
    """Changes tensors in place, as torchvision's networks do; also before and behind others that read them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        x += 1.0
        y += x
        y[:, 0].mul_(2.0)
        logits: Tensor = self.fc(self.pool(self.relu(y)).mean((2, 3)))
        return logits


def _double(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nets.trained(kind()).double()


@pytest.mark.parametrize("open_norms", [False, True])
@pytest.mark.parametrize("kind", NETS)
def test_captured_networks_answer_as_the_model_does_at_any_batch_size(kind: type[nn.Module], open_norms: bool) -> None:
    model = _double(kind)
    encoder = capture(model, nets.batch(kind, 2).double(), open_norms=open_norms)
    assert encoder.classes == 5
    assert encoder.input_shape == nets.SHAPES[kind]
    for size in (1, 7):
        x = nets.batch(kind, size, seed=size).double()
        assert pipeline.apart(encoder(x).logits, model(x)) < 1e-13


@pytest.mark.parametrize("open_norms", [False, True])
def test_a_model_that_changes_tensors_in_place_is_captured(open_norms: bool) -> None:
    model, x = nets.trained(Inplace()).double(), nets.batch(nets.ResNet, 3).double()
    encoder = capture(model, x, open_norms=open_norms)
    assert pipeline.apart(encoder(x).logits, model(x)) < 1e-13
    calls = [node for node in encoder.graph.graph.nodes if node.op == "call_function"]
    assert not any(node.target._schema.is_mutable for node in calls)


def test_the_model_stays_as_it_was_and_the_encoder_does_not_follow_it() -> None:
    model, x = nets.trained(nets.Mlp()).train(), nets.batch(nets.Mlp, 3)
    before = copy.deepcopy(model.state_dict())
    encoder = capture(model, x)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    answer = encoder(x).logits
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(encoder(x).logits, answer)


def test_nothing_in_the_encoder_asks_for_a_gradient() -> None:
    encoder = capture(nets.trained(nets.ResNet()), nets.batch(nets.ResNet, 2))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder(nets.batch(nets.ResNet, 2)).logits.requires_grad


@pytest.mark.parametrize("kind", NETS)
def test_closed_norms_leave_no_batch_normalisation_behind(kind: type[nn.Module]) -> None:
    graph = pipeline.captured(kind).graph.graph
    assert not any("norm" in str(node.target) for node in graph.nodes if node.op == "call_function")


def test_a_norm_behind_a_layer_adds_no_operator() -> None:
    targets = [node.target for node in pipeline.captured(nets.ResNet).graph.graph.nodes]
    assert targets.count(aten.conv2d.default) == 9
    assert not {aten.mul.Tensor, aten.batch_norm.default} & set(targets)


def test_a_layer_that_others_read_too_keeps_its_numbers() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            logits: Tensor = self.fc((self.bn(y) * y).mean((2, 3)))
            return logits

    model, x = nets.trained(Forked()).double(), nets.batch(nets.ResNet, 3).double()
    for open_norms in (False, True):
        assert pipeline.apart(capture(model, x, open_norms=open_norms)(x).logits, model(x)) < 1e-13


def test_open_norms_carry_their_names_and_parameters_and_standardise_what_enters_them() -> None:
    model, x = _double(nets.ResNet), nets.batch(nets.ResNet, 64).double()
    assert isinstance(model, nets.ResNet)
    encoder = capture(model, x, open_norms=True)
    assert [norm.name for norm in encoder.norms] == [
        n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)
    ]
    first = encoder.norms[0]
    bn = model.stem[1]
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and bn.running_var is not None
    assert torch.equal(first.gamma, bn.weight) and torch.equal(first.beta, bn.bias)
    entered: list[Tensor] = []

    def norm(index: int, value: Tensor) -> Tensor:
        entered.append(value)
        return encoder.source_norm(index, value)

    encoder(x, norm=norm)
    raw = model.stem[0](x)
    scale = torch.sqrt(bn.running_var + bn.eps)[:, None, None]
    assert pipeline.apart(entered[0], (raw - bn.running_mean[:, None, None]) / scale) < 1e-13
    assert pipeline.apart(first.anchor.var + first.anchor.eps, torch.ones(8)) < 1e-15
    assert pipeline.apart(first.anchor.mean, torch.zeros(8)) == 0


def test_a_norm_without_a_layer_keeps_the_statistics_of_training() -> None:
    encoder = capture(_double(nets.Mlp), nets.batch(nets.Mlp, 2).double(), open_norms=True)
    model = _double(nets.Mlp)
    assert isinstance(model, nets.Mlp) and model.bn2.running_mean is not None
    assert torch.equal(encoder.norms[1].anchor.mean, model.bn2.running_mean)


@pytest.mark.parametrize(("kind", "shape"), [(nets.Mlp, (3, 16, 1, 1)), (nets.Waves, (3, 2, 1, 24))])
def test_a_norm_site_sees_an_image_whatever_the_dimensions(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    encoder = pipeline.captured(kind, open_norms=True)
    shapes: list[tuple[int, ...]] = []

    def norm(index: int, value: Tensor) -> Tensor:
        shapes.append(tuple(value.shape))
        return encoder.source_norm(index, value)

    encoder(nets.batch(kind, 3), norm=norm)
    assert shapes[0] == shape


# taps


def test_taps_see_what_the_modules_give_and_take() -> None:
    names: tuple[str, ...] = ("layer1", "layer2:in", "layer2.bn1", "layer3:in", "layer3.conv1", "fc:in", "fc")
    model, x = _double(nets.ResNet), nets.batch(nets.ResNet, 3).double()
    modules = dict(model.named_modules())
    want: dict[str, Tensor] = {}
    for name in ("layer1", "layer2", "layer2.bn1", "layer3", "layer3.conv1", "fc"):

        def keep(_: nn.Module, given: tuple[Tensor, ...], result: Tensor, name: str = name) -> None:
            want[f"{name}:in"], want[name] = given[0], result

        modules[name].register_forward_hook(keep)
    model(x)
    for name in modules.values():
        name._forward_hooks.clear()
    with pytest.raises(ProjectError, match="another tap names the same place"):
        capture(model, x, taps=names)  # what layer1 gives is what layer2 takes
    names = tuple(name for name in names if name != "layer2:in")
    for open_norms in (False, True):
        encoder = capture(model, x, taps=names, open_norms=open_norms)
        for tap, seen in zip(encoder.taps, encoder(x).taps, strict=True):
            assert pipeline.apart(seen, want[tap.name]) < 1e-13
            assert tap.shape == want[tap.name].shape[1:]
    assert encoder.features == sum(want[name].shape[1] for name in names)


def test_what_a_tap_returns_goes_on_to_the_rest_of_the_network() -> None:
    model, x = _double(nets.ResNet), nets.batch(nets.ResNet, 3).double()
    assert isinstance(model, nets.ResNet)
    encoder = capture(model, x, taps=("layer1", "layer2"))
    out = encoder(x, tap=lambda index, value: value * 2 if index == 1 else value)
    hidden = model.layer2(model.layer1(model.stem(x)))
    assert pipeline.apart(out.logits, model.fc(model.layer3(2 * hidden).mean((2, 3)))) < 1e-13
    assert pipeline.apart(out.taps[1], hidden) < 1e-13


def test_the_input_of_the_first_module_can_be_tapped() -> None:
    x = nets.batch(nets.ResNet, 3)
    assert torch.equal(pipeline.captured(nets.ResNet, taps=("stem:in",))(x).taps[0], x)


@pytest.mark.parametrize(
    ("taps", "around"),
    [(("layer1", "layer3"), None), (("stem", "fc:in"), None), (("layer1", "layer2.bn2"), "layer2.bn2"),
     (("layer2.conv1:in", "layer2.conv1"), "layer2.conv1")],
)  # fmt: skip
def test_taps_inside_a_residual_block_are_no_cuts(taps: tuple[str, ...], around: str | None) -> None:
    encoder = pipeline.captured(nets.ResNet, taps=taps)
    if around is None:
        encoder.require_cuts()
    else:
        with pytest.raises(ProjectError, match=f"^tap {around}: .* goes around it, and this learner needs .* block$"):
            encoder.require_cuts()


# refusals


@pytest.mark.parametrize("tap", ["third", "first:out"])
def test_a_tap_that_is_not_there_is_answered_with_those_that_are(tap: str) -> None:
    with pytest.raises(ProjectError) as error:
        pipeline.captured(nets.Mlp, taps=(tap,))
    assert str(error.value) == (
        f'tap "{tap}": no such module; the model has first, bn1, second, bn2, last (":in" for an input)'
    )


def test_the_input_of_a_module_with_two_inputs_is_no_tap() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.sum = nn.Linear(12, 5), nn.Linear(12, 5), Sum()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.sum(self.a(x), self.b(x))
            return y

    with pytest.raises(
        ProjectError, match='^tap "sum:in": the module takes 2 tensors; choose a module with one input$'
    ):
        capture(nets.trained(Two()), nets.batch(nets.Mlp, 2), taps=("sum:in",))


class _Bad(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.fc = how, nn.Linear(12, 5)
        self.bn = nn.BatchNorm1d(5, track_running_stats=False)

    def forward(self, x: Tensor) -> object:
        y: Tensor = self.fc(x)
        if self.how == "branches on numbers":
            return y if bool(y.sum() > 0) else -y
        if self.how == "one batch size":
            return y.reshape(2, 5)
        results = {"two results": (y, y), "a number": y.sum(), "an image": y[:, :, None], "batch": self.bn(y)}
        return results[self.how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("branches on numbers", "model: torch.export cannot capture it: .*; make forward\\(\\) traceable"),
        ("one batch size", "model: torch.export cannot capture it: .*; make forward\\(\\) traceable"),
        ("two results", "model: forward\\(\\) must return one tensor of logits .*; wrap it in one that does"),
        ("a number", "model: forward\\(\\) must return one tensor of logits .*; wrap it in one that does"),
        ("an image", "model: forward\\(\\) must return one tensor of logits .*; wrap it in one that does"),
        ("batch", "bn: batch normalisation without running statistics; train with them"),
    ],
)
def test_models_that_cannot_be_used_are_refused_in_one_line(how: str, message: str) -> None:
    with pytest.raises(ProjectError, match=f"^{message}$") as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        capture(_Bad(how), nets.batch(nets.Mlp, 2))
    assert "\n" not in str(error.value)
