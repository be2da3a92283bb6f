"""The search: scores against known numbers, budgets, the same answer every time, and the command."""

import functools
import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from edgecl import devices
from edgecl.cli import main
from edgecl.errors import BudgetError, ProjectError
from export import project as project_files
from export import proxies, search
from export.above import above
from export.build import make_learner
from export.candidates import Candidate, Sized, candidates, estimated, within
from export.correlations import correlations
from export.encoder import Encoder
from export.learners.adaptor import Adaptor
from export.ranks import kendall
from export.search import Domain, Row, Scores
from export.source_data import SourceData
from tests.export import nets, pipeline, projects

TAPS = ("layer1", "layer2", "layer3")


@functools.cache
def _encoder() -> Encoder:
    return pipeline.captured(nets.ResNet, taps=TAPS)


def _domain(count: int = 80, *, labels: bool = True) -> Domain:
    """Inputs of too large a scale, labelled as they were before it."""
    x = nets.batch(nets.ResNet, count, seed=9)
    y = _encoder()(x).logits.argmax(1)
    return Domain("shifted", 2.5 * x + 0.5, y if labels else None)


# proxies


def test_codes_are_of_the_adaptor_and_of_all_above_it() -> None:
    learner, x = Adaptor(_encoder(), "bottleneck4", at=("layer3",)), nets.batch(nets.ResNet, 6)
    codes = proxies.codes_of(learner.logits, learner.start, x)
    upper = above(_encoder(), 2)
    assert upper is not None
    own = Adaptor(upper, "bottleneck4")
    (only,) = proxies.codes_of(own.logits, own.start, _encoder()(x).taps[2])
    assert torch.equal(codes[-1], only)
    assert only.shape == (6, 4 * 4 * 4) and set(only.flatten().tolist()) == {0.0, 1.0}
    inner = torch.einsum("bchw,rc->brhw", _encoder()(x).taps[2], own.start["1.down"][:, :, 0, 0])
    assert torch.equal(only, (inner > 0).flatten(1).float())


def test_gradients_and_jacobian_are_those_of_autograd() -> None:
    learner = Adaptor(pipeline.captured(nets.ResNet, torch.float64, taps=TAPS), "film")
    pieces = {name: piece.double() + 0.1 for name, piece in learner.start.items()}
    x, y = nets.batch(nets.ResNet, 3).double(), torch.eye(5, dtype=torch.float64)[:3]
    rows = torch.autograd.functional.jacobian(  # type: ignore[no-untyped-call]
        lambda *given: learner.logits(dict(zip(pieces, given, strict=True)), x).sum(1), tuple(pieces.values())
    )
    wanted = torch.cat([row.reshape(3, -1) for row in rows], 1)
    assert pipeline.apart(proxies.jacobian_of(learner.logits, pieces, x), wanted) < 1e-10
    stacked = proxies.gradients_of(learner.logits, pieces, [(x, y), (x[:2], y[:2])])
    given = {name: piece.clone().requires_grad_(True) for name, piece in pieces.items()}
    loss = torch.nn.functional.cross_entropy(learner.logits(given, x[:2]), torch.arange(2))
    for name, grad in zip(given, torch.autograd.grad(loss, list(given.values())), strict=True):
        assert stacked[name].shape[0] == 2
        assert pipeline.apart(stacked[name][1], grad) < 1e-10


# ranks


def test_kendall_of_known_orders() -> None:
    assert kendall([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert kendall([1, 2, 3, 4], [8, 6, 4, 2]) == -1
    assert kendall([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]) == pytest.approx(-0.4714045207910317)  # from scipy's manual
    assert kendall([1, 1], [1, 2]) is None
    assert kendall([1, 2, 9], [1, 2, 0], lambda i, j: j < 2) == 1
    assert kendall([1, 2], [1, 2], lambda i, j: False) is None


# candidates


def test_candidates_are_forms_at_each_tap_at_all_and_at_halves() -> None:
    found = candidates(_encoder())
    assert [c.at for c in found if c.form == "film"] == [
        ("layer1",), ("layer2",), ("layer3",), TAPS, ("layer1", "layer2"),
    ]  # fmt: skip
    assert [c.at for c in found if c.form == "meta"] == [("layer2",), ("layer3",), ("layer2", "layer3")]
    assert [c.at for c in found if c.form == "bottleneck16"] == [("layer3",)]  # wider than the other taps
    assert [c.at for c in found if c.form.startswith("input")] == [(), ()]
    assert [c.form for c in candidates(pipeline.captured(nets.ResNet))] == ["input", "input3"]


def test_budgets_let_through_what_keeps_to_them() -> None:
    wanted = [Candidate("film", ("layer1",)), Candidate("film", ("layer3",)), Candidate("depthwise", ("layer1",))]
    free = within(_encoder(), wanted)
    assert [(one.parameters, one.state_bytes) for one in free] == [(16, 128), (64, 512), (72, 576)]
    assert [one.candidate for one in within(_encoder(), wanted, state_bytes=512)] == wanted[:2]
    needs = [estimated(_encoder(), one, 2).workspace_bytes or 0 for one in free[:2]]
    assert needs[0] > needs[1] > 0  # gradients go down to layer1
    kept = within(_encoder(), wanted[:2], memory_bytes=needs[1], batch=2)
    assert [(one.candidate, one.workspace_bytes) for one in kept] == [(wanted[1], needs[1])]
    for state_bytes, memory_bytes in ((127, 0), (0, 1000)):
        with pytest.raises(BudgetError, match="none of 1 candidates"):
            within(_encoder(), wanted[:1], batch=2, state_bytes=state_bytes, memory_bytes=memory_bytes)


# scores


def test_the_same_seed_gives_the_same_scores_and_another_one_others() -> None:
    wanted = [Candidate("film", ("layer3",)), Candidate("lowrank4", ("layer2",))]
    one, two, other = (search.score(_encoder(), _domain(), wanted, seed=seed) for seed in (0, 0, 5))
    assert one == two
    assert all(a.zico != b.zico for a, b in zip(one, other, strict=True))


def test_values_kept_at_a_tap_change_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [Candidate("bottleneck4", ("layer3",)), Candidate("meta", ("layer2",)), Candidate("input", ())]
    kept = search.score(_encoder(), _domain(), wanted)
    trained = search.accuracies(_encoder(), _domain(), wanted, steps=3)
    monkeypatch.setattr(search, "above", lambda encoder, tap: None)
    whole = search.score(_encoder(), _domain(), wanted)
    for one, two in zip(kept, whole, strict=True):
        assert one.zico == pytest.approx(two.zico, rel=1e-2)
        assert one.condition == pytest.approx(two.condition, rel=1e-2)
        assert one.naswot <= two.naswot  # which counts what lies below as well
    assert trained == pytest.approx(search.accuracies(_encoder(), _domain(), wanted, steps=3))


def test_without_labels_the_answers_of_the_network_stand_in() -> None:
    wanted = [Candidate("film", ("layer3",))]
    domain = _domain(labels=False)
    answers = _encoder()(domain.x).logits.argmax(1)
    unknown, known = (search.score(_encoder(), d, wanted) for d in (domain, replace(domain, y=answers)))
    assert unknown[0].zico == pytest.approx(known[0].zico)
    true = search.score(_encoder(), _domain(), wanted)
    assert true[0].zico != pytest.approx(known[0].zico)


def test_training_makes_a_candidate_more_accurate() -> None:
    wanted = [Candidate("film", TAPS)]
    (before,), (after,) = (search.accuracies(_encoder(), _domain(320), wanted, steps=steps) for steps in (0, 60))
    assert after > before + 0.05


def test_the_most_accurate_of_the_best_ranked_wins() -> None:
    wanted = [Candidate(form, at) for form in ("film", "lowrank4") for at in (("layer2",), ("layer3",), TAPS)]
    sized = within(_encoder(), wanted)
    found = search.search(_encoder(), sized, [_domain(200)], train=True)
    assert [row.rank for row in found.rows] == sorted(row.rank for row in found.rows)
    assert {row.sized.candidate for row in found.rows} == set(wanted)
    assert [bool(row.probed) for row in found.rows] == [True] * 3 + [False] * 3
    assert found.winner in found.rows[:3]
    assert found.winner.probed[0] == max(row.probed[0] for row in found.rows[:3])
    assert all(len(row.trained) == 1 for row in found.rows)
    unlabelled = search.search(_encoder(), sized[:2], [_domain(200, labels=False)])
    assert unlabelled.winner == unlabelled.rows[0] and unlabelled.winner.probed == unlabelled.as_built == ()


def test_too_few_samples_and_missing_labels_are_one_clear_line() -> None:
    sized = within(_encoder(), [Candidate("film", ("layer3",))])
    with pytest.raises(ProjectError, match="shifted: 63 samples; the search takes 64"):
        search.search(_encoder(), sized, [_domain(63)])
    with pytest.raises(ProjectError, match="shifted: no labels"):
        search.search(_encoder(), sized, [_domain(labels=False)], train=True)


def test_correlations_are_with_accuracy_and_within_equal_bytes() -> None:
    def row(size: int, zico: float, accuracy: float) -> Row:
        scores = Scores(zico=zico, naswot=-zico, condition=1.0, rank=0.0)
        return Row(Sized(Candidate("film", ()), size, 8 * size), (scores, scores), (), (accuracy, accuracy))

    rows = [row(10, 1, 0.2), row(15, 2, 0.1), row(100, 3, 0.5), row(150, 4, 0.4)]
    found = {one.proxy: one for one in correlations(rows)}
    assert found["zico"].parameters == 1 and list(found["zico"].by_domain) == pytest.approx([1 / 3] * 2)
    assert found["zico"].accuracy == pytest.approx(1 / 3) == -found["naswot"].accuracy  # type: ignore[operator]
    assert found["zico"].equal_bytes == -1 == -found["naswot"].equal_bytes  # type: ignore[operator]
    assert found["condition"].accuracy is found["rank"].equal_bytes is None
    assert found["parameters"].accuracy == pytest.approx(1 / 3)


# the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project, and samples of new domains beside it."""
    folder = projects.write(tmp_path_factory.mktemp("search") / "project")
    read = project_files.read(folder)
    x, y = read.data("model:samples")
    dark, grey = (x * 0.3).astype(np.uint8), (x * 0.5 + 60).astype(np.uint8)
    np.savez(folder / "dark.npz", x=dark, y=y)
    np.savez(folder / "grey.npz", x=grey, y=y)
    np.savez(folder / "unlabelled.npz", x=dark)
    np.savez(folder / "small.npz", x=x[:, :4], y=y)
    np.savez(folder / "classes.npz", x=x, y=y + 3)
    return folder


def _domains(folder: Path, *names: str) -> list[str]:
    return [word for name in names for word in ("--domain", f"npz:{folder / name}.npz")]


def test_the_command_says_what_to_write_and_that_builds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["search", str(folder), *_domains(folder, "dark", "grey"), "--state-bytes", "1 KB", "--top", "2", "--train"]
    assert main(given) == 0
    *table, told = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["form", "taps", "numbers"] and table[0].split()[-2:] == ["probe", "trained"]
    assert len(table[1].split()) >= 10 and table[3] == ""
    assert [line.split()[0] for line in table[-6:-1]] == ["zico", "naswot", "condition", "rank", "parameters"]
    settings = told.removeprefix("edgecl.toml: [learner] ")
    learner = tomllib.loads(f"learner = {{ {settings} }}")["learner"]
    text = (
        (folder / "edgecl.toml")
        .read_text()
        .replace('name = "norm"', "\n".join(f"{k} = {_toml(v)}" for k, v in learner.items()))
    )
    (folder / "chosen.toml").write_text(text)
    chosen = project_files.read(folder / "chosen.toml")
    made = make_learner(chosen, SourceData(*chosen.data("model:samples"), chosen.given))
    assert isinstance(made, Adaptor) and 4 * 2 * sum(piece.numel() for piece in made.start.values()) <= 1000


def test_the_time_of_an_answer_is_a_budget() -> None:
    wanted = [Candidate("film", ("layer1",)), Candidate("depthwise", ("layer3",))]
    board, unknown = devices.find("raspberry-pi-zero-2w"), replace_latency(devices.find("raspberry-pi-zero-2w"))
    kept = within(_encoder(), wanted, latency_ms=1e9, profile=board)
    assert [one.candidate for one in kept] == wanted
    assert all(one.answer_ms and one.answer_ms > 0 for one in kept)
    with pytest.raises(BudgetError, match="none of 2 candidates"):
        within(_encoder(), wanted, latency_ms=1e-9, profile=board)
    with pytest.raises(ProjectError, match="its profile tells no speed; name another with --device"):
        within(_encoder(), wanted, latency_ms=1.0, profile=unknown)


def replace_latency(profile: devices.Profile) -> devices.Profile:
    return msgspec.structs.replace(profile, latency=None)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def test_as_json_it_gives_all_candidates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(folder), *_domains(folder, "unlabelled"), "--state-bytes", "400 B", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in found["rows"]] == sorted(row["rank"] for row in found["rows"])
    assert all(row["state_bytes"] <= 400 and row["workspace_bytes"] is None for row in found["rows"])
    assert found["winner"] == {key: found["rows"][0][key] for key in ("form", "at")}
    assert found["as_built"] == [] and found["correlations"] == []


@pytest.mark.parametrize(("names", "options", "code", "says"), [
    (["small"], [], 1, r"uint8\[96, 4, 8, 3\], the bundle takes"),
    (["absent"], [], 1, "absent.npz"),
    (["classes"], [], 1, "no sample could be read"),
    (["dark"], ["--state-bytes", "1 B"], 5, "none of 17 candidates keeps to the budgets"),
    (["dark"], ["--latency", "0.0000001 ms"], 5, "none of 17 candidates keeps to the budgets"),
    (["dark"], ["--latency", "soon"], 2, '"soon" is no time'),
    (["dark"], ["--latency", "5 ms", "--device", "abacus"], 1, "device abacus: no such profile"),
    (["dark"], ["--memory", "much"], 1, '"much" is no size'),
    (["dark"], ["--train"], 1, "give --domain twice"),
    (["dark", "unlabelled"], ["--train"], 1, "unlabelled.npz: no labels"),
    ([], ["--domain", "dark"], 2, "names no source"),
    ([], [], 2, "--domain"),
])  # fmt: skip
def test_what_cannot_be_used_is_one_clear_line(
    names: list[str], options: list[str], code: int, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(folder), *_domains(folder, *names), *options]) == code
    out = capsys.readouterr()
    assert out.out == ""
    assert re.search(says, out.err)
