"""What every learner must do, compiled.

Agree with its eager function in float64, leave alone what is frozen or not selected.
"""

import hashlib
import importlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from export import trace
from export.eager import eager
from export.learners import Learner, Pieces, adapts
from export.passes import lean
from tests.contract.learners import ADAPTING, CASES, CLASSES, TRAINING, each, graph, make, shifted
from tests.export import nets, pipeline

SPLITTING = importlib.import_module("export.passes.split_batch")
ECOTTA = [name for name in ADAPTING if name.startswith("ecotta")]
SELECTING = [name for name in ADAPTING if name.startswith(("ecotta", "adaptor"))]
LEARNING_BY = ("tent", "ecotta", "adaptor film, head", "adaptor bottleneck, pcr, head")
FORMS = ("adaptor film", "adaptor bottleneck")
"""Of the forms of adaptors, those whose gradients are compared with autograd's too: the passes are the same."""
LEAN = [
    *(
        pytest.param(name, "adapt", marks=pytest.mark.xdist_group(name))
        for name in ADAPTING
        if not name.startswith("adaptor") or name.startswith(FORMS)
    ),
    *(pytest.param(name, "learn", marks=pytest.mark.xdist_group(name)) for name in LEARNING_BY),
    *(pytest.param(name, "infer", marks=pytest.mark.xdist_group(name)) for name in CASES if "source" in name),
]
STEPS = 50
BATCH = 8

LOGITS_TOLERANCE = 2e-3
"""Of the largest logit, after 50 steps in which float32 and float64 each went their own way."""
STATE_TOLERANCE = 2e-3
"""Of the distance that the state has moved."""

Arrays = dict[str, npt.NDArray[np.float32]]


class Compiled:
    """Methods of a learner as a program, called by name."""

    def __init__(self, name: str, folder: Path, *kinds: str, batch: int = BATCH) -> None:
        self.learner = learner = make(name)
        made = {kind: graph(name, kind, batch) for kind in kinds}
        self.methods = {kind: method for kind, (method, _) in made.items()}
        self.program = pipeline.xnnpack(folder, {method.name: lean for method, lean in made.values()})
        self.file = folder / "program.pte"
        self.state = {
            "theta": trace.flat(learner.theta()).float().numpy(), "slots": trace.flat(learner.slots()).float().numpy()
        }  # fmt: skip
        self.hyper = np.array(list(learner.hyper.values()), np.float32)

    def __call__(self, kind: str, **given: npt.NDArray[np.float32]) -> Arrays:
        """Outputs by name; state and hyper are the built ones unless given."""
        method, known = self.methods[kind], self.state | {"hyper": self.hyper} | given
        values = self.program.execute(method.name, [np.ascontiguousarray(known[tensor]) for tensor in method.inputs])
        return dict(zip(method.outputs, values, strict=True))

    def step(self, kind: str, **given: npt.NDArray[np.float32]) -> Arrays:
        """The same, going on from where the last step left."""
        out = self(kind, **given)
        self.state |= {key: out[key] for key in ("theta", "slots") if key in out}
        return out


@pytest.mark.parametrize("name", each(ADAPTING))
def test_fifty_steps_compiled_are_fifty_steps_in_float64(name: str, tmp_path: Path) -> None:
    compiled = Compiled(name, tmp_path, "adapt")
    learner = make(name, torch.float64)
    shape = shifted(name, 1, 0).shape[1:]
    reference = eager(learner, "adapt", BATCH, shape, CLASSES, torch.float64)
    method = trace.methods(learner, "adapt", BATCH, shifted(name, BATCH, 0, torch.float64), CLASSES)
    start = {"theta": trace.flat(learner.theta()).numpy(), "slots": trace.flat(learner.slots()).numpy()}
    state = dict(start)
    for step in range(STEPS):
        x = shifted(name, BATCH, step).numpy()
        out = compiled.step("adapt", x=x)
        given = state | {"x": x, "hyper": np.array(list(learner.hyper.values()))}
        want = dict(zip(method.outputs, reference.execute(method.name, [given[t] for t in method.inputs]), strict=True))
        state = {key: want[key] for key in ("theta", "slots")}
        assert pipeline.apart(out["logits"], want["logits"]) < LOGITS_TOLERANCE
        assert pipeline.apart(out["report"], want["report"]) < LOGITS_TOLERANCE
    for key in ("theta", "slots"):
        moved = np.linalg.norm(state[key] - start[key])
        assert moved > 0
        assert np.linalg.norm(compiled.state[key] - state[key]) < STATE_TOLERANCE * moved


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("name", "kind"), LEAN)
def test_the_lean_graph_is_the_traced_one_to_ten_digits(
    name: str, kind: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: gradients written as convolutions, masks, folded scalars and parts of a batch are autograd's."""
    monkeypatch.setattr(SPLITTING, "LEAST_BYTES", 0)
    learner = make(name, torch.float64)
    method = trace.methods(learner, kind, BATCH, shifted(name, BATCH, 0, torch.float64), CLASSES)
    example = tuple(_labels() if t == "y" else value for t, value in zip(method.inputs, method.example, strict=True))
    stock = trace.trace(method)
    for got, want in zip(lean(stock, example, parts=parts)(*example), method.run(*example), strict=True):
        assert pipeline.apart(got, want) < 1e-10


@pytest.mark.parametrize("name", each(ECOTTA))
def test_one_forward_pass_gives_the_gradients_of_two(name: str) -> None:
    """Song et al.: the entropy trains every partition, the regulariser only the partition that it belongs to."""
    learner = make(name, torch.float64)
    theta, slots = ({k: v.double() for k, v in pieces.items()} for pieces in (learner.theta(), learner.slots()))
    hyper = {key: torch.tensor(value, dtype=torch.float64) for key, value in learner.hyper.items()}
    x = shifted(name, BATCH, 1, torch.float64)
    assert adapts(learner)
    step = learner.adapt(theta, slots, x, torch.zeros(0), hyper)
    velocity = step.slots["momentum"]
    entropy, regularisers = _objective(learner, theta, slots, x, hyper)
    want = []
    for piece in learner.trained:
        leaf, k = entropy[0][piece], int(piece.partition(".")[0])
        (one,) = torch.autograd.grad(entropy[1], [leaf], retain_graph=True)
        (two,) = torch.autograd.grad(regularisers[1][k - 1], [regularisers[0][piece]], retain_graph=True)
        want.append((one + hyper["lambda"] * two).reshape(-1))
    assert pipeline.apart(velocity, torch.cat(want)) < 1e-10


def _objective(
    learner: Learner, theta: Pieces, slots: Pieces, x: Tensor, hyper: Pieces
) -> tuple[tuple[Pieces, Tensor], tuple[Pieces, list[Tensor]]]:
    """Leaves and loss of a pass that is one graph, and of another in which each partition's input is detached."""
    from export.learners.ecotta import EcoTTA
    from export.learners.norm import Following
    from export.objectives import below, distance, entropy, entropy_margin, mean_over
    from export.optimizers import leaves

    assert isinstance(learner, EcoTTA)

    def run(cut: bool) -> tuple[Pieces, object]:
        params, following = leaves(theta, learner.trained), Following(slots, x, hyper["memory"])
        return params, learner._pass(params, x, lambda n, v, g, b: following(n, v, g, b, learner.anchors[n]), cut=cut)

    whole, out = run(False)
    h = entropy(out.encoded.logits)  # type: ignore[attr-defined]
    loss = mean_over(h, below(h, entropy_margin(CLASSES)))
    parts, out = run(True)
    pulls = [distance(part.adapted, part.left.detach()) for part in out.partitions]  # type: ignore[attr-defined]
    return (whole, loss), (parts, pulls)


@pytest.mark.parametrize("name", each(SELECTING))
def test_a_step_with_nothing_selected_changes_nothing(name: str, tmp_path: Path) -> None:
    compiled = Compiled(name, tmp_path, "adapt")
    compiled.hyper[list(compiled.learner.hyper).index("margin")] = 0.0
    before = {key: value.copy() for key, value in compiled.state.items()}
    out = compiled("adapt", x=shifted(name, BATCH, 1).numpy())
    assert out["report"][1] == 0
    for key in ("theta", "slots"):
        assert out[key].tobytes() == before[key].tobytes()


@pytest.mark.parametrize("name", each(TRAINING))
def test_learning_ignores_samples_without_a_label(name: str, tmp_path: Path) -> None:
    compiled = Compiled(name, tmp_path, "learn")
    x, y = shifted(name, BATCH, 1).numpy(), _labels().float().numpy()
    y[3:] = 0
    other = x.copy()
    other[3:] += 1
    one, two = compiled("learn", x=x, y=y), compiled("learn", x=other, y=y)
    if "regulariser" not in compiled.learner.report:  # which sees all samples
        assert pipeline.apart(one["theta"], two["theta"]) < 1e-6
    assert np.linalg.norm(one["theta"] - compiled.state["theta"]) > 0
    none = compiled("learn", x=x, y=np.zeros_like(y))
    for key in ("theta", "slots"):
        assert none[key].tobytes() == compiled.state[key].tobytes()


@pytest.mark.parametrize("name", each(TRAINING))
def test_learning_from_labels_lowers_their_loss(name: str, tmp_path: Path) -> None:
    compiled = Compiled(name, tmp_path, "learn")
    compiled.hyper[list(compiled.learner.hyper).index("lr")] *= 20
    x, y = shifted(name, BATCH, 1).numpy(), _labels().float().numpy()
    losses = [compiled.step("learn", x=x, y=y)["report"][0] for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", each(["norm", "tent", "ecotta", "ecotta-frozen"]))
def test_frozen_things_stay_frozen_over_a_thousand_steps(name: str, tmp_path: Path) -> None:
    compiled = Compiled(name, tmp_path, "infer", "adapt")
    x, built = shifted(name, BATCH, 7).numpy(), compiled.state["theta"].copy()
    before, file = compiled("infer", x=x), hashlib.sha256(compiled.file.read_bytes()).hexdigest()
    batches = [shifted(name, BATCH, seed).numpy() for seed in range(10)]
    for step in range(1000):
        compiled.step("adapt", x=batches[step % len(batches)])
    assert np.isfinite(compiled.state["theta"]).all()
    assert compiled.state["theta"].tobytes() != built.tobytes()
    after = compiled("infer", x=x, theta=built)
    assert {key: value.tobytes() for key, value in after.items()} == {key: v.tobytes() for key, v in before.items()}
    assert hashlib.sha256(compiled.file.read_bytes()).hexdigest() == file


@pytest.mark.parametrize("batch", [1, BATCH])
def test_on_source_data_the_statistics_stay_those_of_the_source(batch: int, tmp_path: Path) -> None:
    """No harm: where nothing has shifted, norm answers nearly as the network does, whatever the batch."""
    name = "norm"
    compiled = Compiled(name, tmp_path, "adapt", batch=batch)
    learner = compiled.learner
    agreed = []
    for step in range(256 // batch):
        x = nets.batch(CASES[name][1], batch, seed=100 + step)
        with torch.no_grad():
            as_built = learner.infer(learner.theta(), x).logits.argmax(1).numpy()
        agreed.append((compiled.step("adapt", x=x.numpy())["logits"].argmax(1) == as_built).mean())
    assert np.mean(agreed) > 0.9


def _labels() -> Tensor:
    return torch.eye(CLASSES, dtype=torch.float64)[torch.arange(BATCH) % CLASSES]
