"""A bundle with several forms: each computes what its eager function does; the board ranks them as the host does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecl import forms as board
from edgecl import journal
from edgecl.bundle import open_bundle, read_state
from edgecl.checkpoints import Checkpoints
from edgecl.errors import BundleError, ProjectError
from edgecl.journal import Domain, Update
from edgecl.loop import Loop
from edgecl.programs import Programs
from edgecl.proxies import condition, naswot, rank_sums, zico
from edgecl.settings import Settings
from edgecl.state import State
from export import forms, project, proxies, trace
from export.build import build, make_learner
from export.source_data import SourceData
from tests.export import projects

FORMS = """
[learner.forms.narrow]
form = "bottleneck4"

[learner.forms.late]
form = "film"
at = ["body"]
"""


def written(folder: Path, text: str = FORMS) -> Path:
    """A project whose learner is `adaptor`: film at both taps, and these forms."""
    made = projects.write(folder, *projects.named("adaptor", ('name = "adaptor"', 'name = "adaptor"')))
    (made / "edgecl.toml").write_text((made / "edgecl.toml").read_text() + text)
    return made


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    build(project.read(written(folder / "project")), folder / "several.ecl").bundle.close()
    return folder / "several.ecl"


def images(seed: int, count: int, low: int, high: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3)).astype(np.uint8)


def source(seed: int, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """What the project was trained on: a colour each."""
    x = images(seed, count, 0, 120).astype(np.int64)
    x[np.arange(count), :, :, np.arange(count) % 3] += 100
    return x.astype(np.uint8)


def test_every_form_has_its_methods_and_its_state(several: Path) -> None:
    with open_bundle(several) as bundle:
        manifest = bundle.manifest
        assert [form.name for form in manifest.forms] == ["film", "narrow", "late"]
        assert list(manifest.layouts) == ["", "narrow", "late"]
        kinds = ["infer_b1", "infer_b4", "adapt_b4", "learn_b4", "score_b1"]
        assert {method.name for method in manifest.methods} == {
            *kinds, *(f"{form}.{kind}" for form in ("narrow", "late") for kind in kinds)
        }  # fmt: skip
        for form, layout in manifest.layouts.items():
            assert read_state(bundle, form).layout == layout
            assert manifest.form_of(layout) == form
        with pytest.raises(BundleError, match="no method adapt"):
            manifest.method("adapt", form="wide")


def test_all_forms_answer_alike_as_built(several: Path) -> None:
    with open_bundle(several) as bundle, Programs(bundle) as programs:
        x = np.random.default_rng(1).random((1, 3, 8, 8), np.float32)
        answers = [
            programs.call(bundle.manifest.method("infer", 1, form), theta=read_state(bundle, form).theta, x=x)["logits"]
            for form in bundle.manifest.layouts
        ]
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=1e-5)


def test_the_board_ranks_as_eager_functions_do(several: Path, tmp_path: Path) -> None:
    read = project.read(written(tmp_path / "project"))
    data = SourceData(*read.data(read.tables.data.train), read.given)
    made = forms.forms(read, make_learner(read, data))
    x = torch.from_numpy(np.random.default_rng(3).random((board.SAMPLES, 3, 8, 8), np.float32))
    first = made[""]
    with torch.no_grad():
        y = torch.eye(3)[first.infer(first.theta(), x).logits.argmax(1)]
    with open_bundle(several) as bundle, Programs(bundle) as programs:
        built = [read_state(bundle, form) for form in bundle.manifest.layouts]
        found = board.choose(bundle.manifest, programs, built, x.numpy(), y.numpy())
        each = []
        for draw in range(board.DRAWS):
            scores = []
            for (form, learner), state in zip(made.items(), built, strict=True):
                assert trace.layout(learner) == bundle.manifest.layouts[form]
                pieces = trace.split(torch.from_numpy(board._drawn(state, draw).theta), state.layout.theta)
                batches = [(x[part], y[part]) for part in (slice(0, board.SCORED), slice(board.SCORED, None))]
                gradients = proxies.gradients_of(learner.logits, pieces, batches)  # type: ignore[attr-defined]
                codes = proxies.codes_of(learner.logits, pieces, x[: board.SCORED])  # type: ignore[attr-defined]
                tangents = proxies.jacobian_of(learner.logits, pieces, x[: board.SCORED // 2])  # type: ignore[attr-defined]
                scores.append(
                    (
                        zico({name: g.numpy() for name, g in gradients.items()}),
                        naswot([code.numpy() for code in codes]),
                        condition(tangents.numpy()),
                    )
                )
            each.append(scores)
    places = np.mean([rank_sums(scores) for scores in each], axis=0)
    for place, form in enumerate(made):
        (one,) = (one for one in found if one.form == form)
        assert one.rank == places[place]
        for mine, theirs in zip(
            (one.zico, one.naswot, one.condition), np.mean([scores[place] for scores in each], axis=0), strict=True
        ):
            assert mine == pytest.approx(theirs, rel=1e-2)
    assert [one.rank for one in found] == sorted(places)


def test_a_new_domain_takes_the_best_form_and_the_others_keep_theirs(several: Path, tmp_path: Path) -> None:
    with Loop(several, tmp_path / "state", Settings(sync=True, domains=4, budget_bytes=0)) as loop:
        for x in np.concatenate([source(1, 60), images(2, 200, 180, 256)]):
            loop.predict(x)
        assert loop.domain == "domain-1"
        first = loop.state
        for x in np.concatenate([source(3, 60), images(4, 200, 0, 30)]):
            loop.predict(x)
        grown = [one.name for one in loop.operations.domains()]
    found = list(journal.read(tmp_path / "state" / "journal"))
    formed = [record for record in found if isinstance(record, Domain) and record.what == Domain.FORMED]
    assert len(formed) == len(grown) - 1 >= 1
    with open_bundle(several) as opened:
        layouts = opened.manifest.layouts
        learned = Checkpoints(tmp_path / "state" / "learned" / "small").newest(*layouts.values())
        assert learned
        for record in formed:
            assert sorted(score.form for score in record.scores) == ["film", "late", "narrow"]
            assert [score.rank for score in record.scores] == sorted(score.rank for score in record.scores)
            state = learned.learned.states[record.domain]
            form = opened.manifest.form_of(state.layout)
            assert (form or "film") == record.scores[0].form
            mine = [r for r in found if isinstance(r, Update) and r.domain == record.domain]
            assert mine, [(r.domain, r.committed) for r in found if isinstance(r, Update)]
            last = [r for r in mine if r.committed][-1]
            assert last.digest == state.digest
        assert learned.learned.states[0].layout == opened.manifest.layout
    assert learned.learned.states[1].digest == first.digest, "a domain that was left stays as it is"
    with Loop(several, tmp_path / "state", Settings(sync=True, domains=4)) as loop:
        assert loop.predict(images(2, 1, 180, 256)[0]).label in ("red", "green", "blue")


def test_a_state_of_a_form_that_is_not_there_is_refused(several: Path, looped: Path, tmp_path: Path) -> None:
    with open_bundle(several) as bundle, open_bundle(looped) as other:
        state = read_state(bundle, "narrow")
        with pytest.raises(BundleError, match="the state belongs to another bundle"):
            State(other.manifest.layout, state.theta, state.slots)


@pytest.mark.parametrize(
    ("learner", "text", "problem"),
    [
        ("tent", '[learner.forms.wide]\nform = "film"\n', "the board cannot rank tent"),
        ("adaptor", '[learner.forms.film]\nform = "bottleneck4"\n', "the name of the first form"),
        ("adaptor", '[learner.forms.wide]\nform = "wide"\n', 'form "wide": unknown'),
        ("adaptor", "[learner.forms.wide]\nwidth = 3\n", "width"),
        ("adaptor", "[learner.forms.same]\nseed = 3\n", "its state is like that of another form"),
    ],
)
def test_forms_that_cannot_be_built_are_one_line(learner: str, text: str, problem: str, tmp_path: Path) -> None:
    made = projects.write(tmp_path / "project", *projects.named(learner))
    (made / "edgecl.toml").write_text((made / "edgecl.toml").read_text() + "\n" + text)
    with pytest.raises(ProjectError, match=problem):
        build(project.read(made), tmp_path / "a.ecl")
