"""Warm-up trains what the learner owns, on domains that it draws itself, the same way every time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecl.errors import ProjectError
from export import augment, project
from export.build import make_learner
from export.learners import Learner, warms
from export.learners.ecotta import EcoTTA
from export.project import Project, Warmup
from export.source_data import SourceData
from export.warmup import warm_up
from tests.export import projects


def _cold(folder: Path, learner: str = "ecotta") -> tuple[Project, SourceData, Learner]:
    """The project's learner before warm-up, in a project with no epochs."""
    read = project.read(projects.write(folder, *projects.named(learner, ("epochs = 1", "epochs = 0"))))
    data = SourceData(*read.data(read.tables.data.train), read.given)
    return read, data, make_learner(read, data)


def _loss(learner: Learner, data: SourceData) -> float:
    with torch.no_grad():
        logits = learner.infer(learner.theta(), data.inputs(slice(0, 96))).logits
    return torch.nn.functional.cross_entropy(logits, data.labels(slice(0, 96))).item()


def test_before_warm_up_a_partition_passes_on_what_it_gets(tmp_path: Path) -> None:
    _, _, learner = _cold(tmp_path)
    assert isinstance(learner, EcoTTA)
    anchor = learner.anchors["1.bn"]
    assert torch.allclose(learner.start["1.bn.gamma"], torch.sqrt(anchor.var + anchor.eps), rtol=1e-3)
    assert torch.allclose(learner.start["1.bn.beta"], anchor.mean, atol=1e-4)


def test_epochs_lower_the_loss_and_touch_nothing_frozen(tmp_path: Path) -> None:
    _, data, learner = _cold(tmp_path)
    assert warms(learner)
    before, frozen = _loss(learner, data), [b.clone() for b in learner.encoder.graph.buffers()]
    said: list[str] = []
    warm_up(learner, data, Warmup(epochs=6, batch=16, lr=0.05), said.append)
    assert _loss(learner, data) < 0.9 * before
    assert len(said) == 6
    for kept, now in zip(frozen, learner.encoder.graph.buffers(), strict=True):
        assert torch.equal(kept, now)


def test_the_same_seed_gives_the_same_parameters_and_another_one_others(tmp_path: Path) -> None:
    ends = []
    for seed in (0, 0, 1):
        _, data, learner = _cold(tmp_path)
        assert warms(learner)
        warm_up(learner, data, Warmup(epochs=1, batch=32, lr=0.05, seed=seed))
        ends.append(torch.cat([piece.reshape(-1) for piece in learner.start.values()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_rate_that_diverges_is_one_line(tmp_path: Path) -> None:
    _, data, learner = _cold(tmp_path)
    assert warms(learner)
    with pytest.raises(ProjectError, match="lower warmup.lr, now 3e\\+38"):
        warm_up(learner, data, Warmup(epochs=3, batch=16, lr=3e38))


def test_domains_stay_within_what_a_camera_gives() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 12, 12, generator=random)
    seen = [augment.image_domain(x, random) for _ in range(60)]
    assert all(y.shape == x.shape and y.min() >= 0 and y.max() <= 1 for y in seen)
    changed = sum(not torch.equal(y, x) for y in seen)
    assert 20 < changed < 60
    assert torch.equal(augment.mirror(augment.mirror(x, _same()), _same()), x)


def _same() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def test_vectors_get_another_gain_and_offset_in_every_batch() -> None:
    random = torch.Generator().manual_seed(0)
    x, spread = torch.ones(5, 7), torch.ones(7)
    one, two = (augment.vector_domain(x, spread, random) for _ in range(2))
    assert one.shape == x.shape
    assert not torch.equal(one, two)


def test_spread_out_places_cover_data_sorted_by_class(tmp_path: Path) -> None:
    read, data, _ = _cold(tmp_path)
    in_order = SourceData(data.x[np.argsort(data.y)], np.sort(data.y), read.given)
    assert set(in_order.y[in_order.spread_out(9)].tolist()) == {0, 1, 2}
    assert len(in_order.spread_out(10_000)) == len(data)
