"""States of several boards become one: by the formulas in float64, and only where held-out samples are for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl import state
from edgecl.bundle import open_bundle, read_state
from edgecl.errors import EXIT_REFUSED, EXIT_USAGE
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import Guard, Layout, Piece
from edgecl.state import State
from firmware_host.links.table import link_to
from firmware_host.merge import formulas
from firmware_host.merge.combine import Recipe, merge, pairs
from tests.edgecl.test_domains import dark, noise
from tests.firmware_host.hosts import Host, deployed
from tests.firmware_host.pulled import put, run
from tests.firmware_host.stores import KEPT, lived


def wide(theta: dict[str, tuple[int, ...]], slots: dict[str, tuple[int, ...]]) -> Layout:
    def pieces(shapes: dict[str, tuple[int, ...]]) -> tuple[Piece, ...]:
        found, offset = [], 0
        for name, shape in shapes.items():
            found.append(Piece(name=name, shape=shape, offset=offset))
            offset += found[-1].size
        return tuple(found)

    return Layout(theta=pieces(theta), slots=pieces(slots))


LAYOUT = wide(
    {"conv": (4, 3, 2, 2), "bias": (4,), "bn.mean": (4,), "bn.var": (4,), "odd.mean": (2,)},
    {"running.bn.mean": (4,), "running.bn.var": (4,), "momentum": (9,)},
)


def some(seed: int, step: int = 0, layout: Layout = LAYOUT) -> State:
    random = np.random.default_rng(seed)
    made = State(
        layout,
        random.standard_normal(layout.theta_size).astype(np.float32),
        random.standard_normal(layout.slots_size).astype(np.float32),
        step,
        step * 16,
    )
    theta, slots = made.theta.copy(), made.slots.copy()
    for vector, pieces in ((theta, layout.theta), (slots, layout.slots)):
        for piece in pieces:
            if piece.name.endswith(".var"):
                part = slice(piece.offset, piece.offset + piece.size)
                vector[part] = np.abs(vector[part]) + 0.1
    return replace(made, theta=theta, slots=slots)


# the formulas


def test_an_average_is_weighted_by_updates() -> None:
    one, other = some(1, 10), some(2, 30)
    merged = merge([one, other], some(0), Recipe())
    for name in ("conv", "bias", "odd.mean", "momentum"):
        want = 0.25 * one.piece(name).astype(np.float64) + 0.75 * other.piece(name).astype(np.float64)
        assert merged.piece(name) == pytest.approx(want, abs=1e-7)
    assert (merged.step, merged.seen) == (30, 480)
    equal = merge([one, other], some(0), Recipe(weights="equal"))
    assert equal.piece("bias") == pytest.approx((one.piece("bias") + other.piece("bias")) / 2, abs=1e-7)
    fresh = merge([some(1), some(2)], some(0), Recipe())
    assert fresh.theta == pytest.approx(merge([some(1), some(2)], some(0), Recipe(weights="equal")).theta)


def test_statistics_are_those_of_all_samples_together() -> None:
    """Against the mean and variance of numbers that were drawn, in float64: a mean of variances is too small."""
    random = np.random.default_rng(5)
    groups = [
        random.normal(centre, spread, (count, 4)) for centre, spread, count in ((0, 1, 100), (3, 2, 700), (-1, 0.5, 50))
    ]
    states = []
    for group in groups:
        made = some(0, len(group))
        theta, slots = made.theta.copy(), made.slots.copy()
        for vector, pieces, before in ((theta, LAYOUT.theta, ""), (slots, LAYOUT.slots, "running.")):
            for piece in pieces:
                if piece.name.removeprefix(before) in ("bn.mean", "bn.var"):
                    value = group.mean(0) if piece.name.endswith("mean") else group.var(0)
                    vector[piece.offset : piece.offset + piece.size] = value
        states.append(replace(made, theta=theta, slots=slots))
    together = np.concatenate(groups)
    for method in ("average", "sequential"):
        merged = merge(states, some(0), Recipe(method))
        for before in ("", "running."):
            assert merged.piece(f"{before}bn.mean") == pytest.approx(together.mean(0), rel=1e-5)
            assert merged.piece(f"{before}bn.var") == pytest.approx(together.var(0), rel=1e-5)
    assert [(mean.name, var.name) for mean, var in pairs(LAYOUT.theta)] == [("bn.mean", "bn.var")]
    # as the law has it, and above the mean of the variances
    mean, var = formulas.pooled([group.mean(0) for group in groups], [group.var(0) for group in groups], [1 / 3] * 3)
    by_hand = sum((group**2).mean(0) for group in groups) / 3 - mean**2
    assert var == pytest.approx(by_hand, rel=1e-12) and (var > sum(group.var(0) for group in groups) / 3).all()


def by_definition(difference: Any, merged: Any, alpha: float) -> Any:
    """P, one product of singular vectors after another, from full bases: Tang et al. 2025, section 4."""
    rows, columns = difference.shape
    u, s, vt = np.linalg.svd(merged)
    first = next(k for k in range(len(s)) if s[: k + 1].sum() / s.sum() > alpha)
    found = np.zeros_like(difference)
    for i in range(rows):
        for j in range(columns):
            if i != j and not (i < first and j < first):
                base = np.outer(u[:, i], vt[j])
                found += (difference * base).sum() * base
    return found


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 3), (1, 6)])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
def test_the_projection_is_that_of_the_paper(shape: tuple[int, int], alpha: float) -> None:
    random = np.random.default_rng(3)
    merged, difference = random.standard_normal(shape), random.standard_normal(shape)
    found = formulas.projected(difference, merged, alpha)
    assert found == pytest.approx(by_definition(difference, merged, alpha), abs=1e-12)
    assert (found * merged).sum() == pytest.approx(0, abs=1e-12)
    again = formulas.projected(found, merged, alpha)
    assert again == pytest.approx(found, abs=1e-12)


def test_the_projection_of_what_is_of_low_rank_leaves_the_rest() -> None:
    random = np.random.default_rng(4)
    column, row = random.standard_normal(6), random.standard_normal(5)
    merged, difference = np.outer(column, row), random.standard_normal((6, 5))
    u, v = column / np.linalg.norm(column), row / np.linalg.norm(row)
    assert formulas.projected(difference, merged) == pytest.approx(difference - (u @ difference @ v) * np.outer(u, v))
    assert formulas.projected(difference, np.zeros((6, 5))) == pytest.approx(difference)
    assert formulas.projected(difference, merged, 1.0) == pytest.approx(formulas.projected(difference, merged, 0.5))
    kernel = random.standard_normal((6, 5, 3, 3))
    flat = formulas.projected(kernel.reshape(6, 45), kernel[::-1].reshape(6, 45))
    assert formulas.projected(kernel, kernel[::-1]).reshape(6, 45) == pytest.approx(flat)


def test_sequential_merging_is_that_of_the_paper() -> None:
    random = np.random.default_rng(6)
    given = [{"a": random.standard_normal((5, 4)), "b": random.standard_normal(7)} for _ in range(4)]

    def norm(one: dict[str, Any]) -> float:
        return float(np.sqrt(sum((value**2).sum() for value in one.values())))

    merged, scale = given[0], 1.0
    for t in range(2, 5):
        new = {
            "a": scale * merged["a"] + by_definition(given[t - 1]["a"], merged["a"], 0.5),
            "b": scale * merged["b"] + given[t - 1]["b"],
        }
        scale = norm(new) / np.mean([norm(one) for one in given[:t]])
        merged = {name: value / scale for name, value in new.items()}
        found = formulas.sequential(given[:t])
        assert all(found[name] == pytest.approx(value, abs=1e-12) for name, value in merged.items())
        assert norm(found) == pytest.approx(np.mean([norm(one) for one in given[:t]]))


def test_what_cancels_or_has_not_moved_stays_as_built() -> None:
    built = some(0)
    assert merge([built, built, built], built, Recipe("sequential")).theta == pytest.approx(
        merge([built], built, Recipe("sequential")).theta
    )
    bias = {"b": np.ones(3)}
    assert formulas.sequential([bias, {"b": -np.ones(3)}])["b"].tolist() == [0, 0, 0]
    for method in ("average", "sequential"):
        alone = some(1, 7)
        assert merge([alone], built, Recipe(method)).digest == alone.digest


# the command


@pytest.fixture
def boards(tmp_path: Path, looped: Path) -> Path:
    """Two boards that have learned, each in a light of its own. Labels are what the bundle answers as built."""
    store = tmp_path / "pulled"
    for device, images in (("one", noise(60, 1)), ("two", noise(60, 2))):
        lived(store, device, looped, images, answers(looped, images, tmp_path / f"try-{device}"))
    return store


def answers(bundle: Path, images: Any, scratch: Path) -> list[int]:
    with Loop(bundle, scratch, replace(KEPT, hyper={"rate": 0})) as loop:
        return [loop.predict(x).index for x in images]


@pytest.fixture
def moved(tmp_path: Path, looped: Path) -> tuple[Path, Path]:
    """Two states, as far from the source in opposite directions."""
    with open_bundle(looped) as bundle:
        built = read_state(bundle)
    step = np.random.default_rng(0).standard_normal(built.theta.size).astype(np.float32)
    paths = tmp_path / "left.safetensors", tmp_path / "right.safetensors"
    for path, sign in zip(paths, (1, -1), strict=True):
        path.write_bytes(state.dump(replace(built, theta=built.theta + sign * step, step=5, seen=80)))
    return paths


def test_a_better_state_is_written(
    host: Host, boards: Path, moved: tuple[Path, Path], looped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged.safetensors"
    done = host("merge", *moved, "--bundle", looped, "--held-out", boards, "-o", out)
    assert (done.code, done.err) == (0, "")
    with open_bundle(looped) as bundle:
        built, merged = read_state(bundle), state.load(out, bundle.manifest.layout)
    assert merged.theta == pytest.approx(built.theta, abs=1e-6) and (merged.step, merged.seen) == (5, 80)
    table = {line.split("  ")[0]: line.split() for line in done.out.splitlines() if line}
    assert table["merged"][1] == "1.0000" and table["as built"][2] == "1.0000"
    assert float(table["left"][1]) < 1 and "on 120 samples of 2 boards, 120 with a label" in done.out
    again = tmp_path / "again.safetensors"
    assert host("merge", *moved, "--bundle", looped, "--held-out", boards, "-o", again).code == 0
    assert again.read_bytes() == out.read_bytes()
    lines = [json.loads(line) for line in host(
        "merge", *moved, "--bundle", looped, "--held-out", boards, "-o", out, "--json", "--samples", 20
    ).out.splitlines()]  # fmt: skip
    assert [line["name"] for line in lines] == ["as built", "left", "right", "merged"]
    assert lines[3]["accuracy"] == 1 and lines[3]["answers"] == 40 and sum(lines[3]["classes"]) == 40


def test_a_worse_state_is_refused_and_nothing_is_written(
    host: Host, boards: Path, moved: tuple[Path, Path], looped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged.safetensors"
    command = ["merge", moved[0], moved[0], "--bundle", looped, "--held-out", boards, "-o", out]
    done = host(*command)
    assert done.code == EXIT_REFUSED and not out.exists()
    (line,) = done.err.splitlines()
    assert line.startswith("edgecl: merged answers ") and "of 120 held-out samples right, as built 100.0%" in line
    assert line.endswith("nothing was written (--anyway writes it)")
    assert list(tmp_path.glob(".*new")) == []
    assert host(*command, "--slack", "0.99").code == 0 and out.exists()
    out.unlink()
    assert host(*command, "--anyway").code == 0 and out.exists()


def test_what_boards_have_learned_is_merged(host: Host, boards: Path, looped: Path, tmp_path: Path) -> None:
    """From pulled state directories: what each learned led away from the source, so the source is the better one."""
    for method in ("average", "sequential"):
        out = tmp_path / f"{method}.safetensors"
        command = ["merge", boards / "one", boards / "two", "--bundle", looped, "--held-out", boards, "-o", out]
        done = host(*command, "--method", method, "--anyway", "--json")
        assert done.code == 0
        names = [json.loads(line)["name"] for line in done.out.splitlines()]
        assert names == ["as built", "one", "two", "merged"]
        with open_bundle(looped) as bundle:
            merged = state.load(out, bundle.manifest.layout)
        assert merged.step == 15 and merged.finite


def test_without_labels_the_answers_of_the_boards_decide(
    host: Host, moved: tuple[Path, Path], looped: Path, tmp_path: Path
) -> None:
    store, out = tmp_path / "pulled", tmp_path / "merged.safetensors"
    still = replace(KEPT, hyper={"rate": 0})
    lived(store, "one", looped, noise(60, 1), [None] * 60, settings=still)
    done = host("merge", *moved, "--bundle", looped, "--held-out", store, "-o", out)
    assert done.code == 0 and "60 samples of 1 boards, 0 with a label" in done.out
    done = host("merge", moved[0], "--bundle", looped, "--held-out", store, "-o", tmp_path / "x.safetensors")
    assert done.code == EXIT_REFUSED and "of 60 answers that the boards gave, as built 100.0%" in done.err
    (tmp_path / "none").mkdir()
    put(tmp_path / "none", "one", [run("looped")])
    done = host("merge", *moved, "--bundle", looped, "--held-out", tmp_path / "none", "-o", out)
    assert done.code == EXIT_REFUSED and "there is no held-out sample to judge by" in done.err


def test_labels_that_were_learned_do_not_judge(host: Host, looped: Path, tmp_path: Path) -> None:
    store, out = tmp_path / "pulled", tmp_path / "merged.safetensors"

    def told(loop: Loop) -> None:
        loop.operations.label([Given(seq, "dog") for seq in range(40)])

    for device in ("one", "two"):
        lived(store, device, looped, noise(60, 1), [None] * 60, then=told)
    command = ["merge", store / "one", "--bundle", looped, "-o", out, "--anyway"]
    assert "on 60 samples of 1 boards, 40 with a label" in host(*command, "--held-out", store / "two").out
    done = host(*command, "--held-out", store / "one").out
    assert (
        "on 20 samples of 1 boards, 0 with a label" in done and "40 were left out, as their labels were learned" in done
    )


def test_a_merged_bundle_is_deployed(
    host: Host, boards: Path, moved: tuple[Path, Path], looped: Path, store: Path, tmp_path: Path
) -> None:
    """Through trial and canaries like any bundle; only the state and the manifest travel."""
    link, out = link_to(f"local:{store}"), tmp_path / "merged.ecl"
    assert deployed(link, looped).outcome == "committed"
    done = host("merge", *moved, "--bundle", looped, "--held-out", boards, "-o", out)
    assert done.code == 0, done.err
    with open_bundle(looped) as before, open_bundle(out) as after:
        assert (after.manifest.version, after.manifest.learned) == (before.manifest.version + 1, "discard")
        assert after.manifest.lineage == before.manifest.lineage
        changed = {file.path for file in after.manifest.files} - {
            one.path for one in before.manifest.files if one in after.manifest.files
        }
        assert changed == {"state.safetensors"}
        state_ = read_state(after)
        assert (state_.step, state_.seen) == (0, 0) and state_.theta == pytest.approx(
            read_state(before).theta, abs=1e-6
        )
        identity = after.id
    assert host("verify", out).code == 0
    assert deployed(link, out).outcome == "committed"
    assert (store / "current").resolve().name == identity
    done = host("merge", *moved, "--bundle", looped, "--held-out", boards, "-o", out, "--bundle-version", "9")
    with open_bundle(out) as after:
        assert done.code == 0 and after.manifest.version == 9


def test_domains_of_boards_are_merged_by_name(host: Host, looped: Path, tmp_path: Path) -> None:
    store, out = tmp_path / "pulled", tmp_path / "night.safetensors"
    routed = replace(KEPT, domains=3)
    for device in ("one", "two"):
        images = [*noise(60, 1), *dark(200, 2)]
        lived(
            store, device, looped, images, [0] * 260, settings=routed,
            then=lambda loop: loop.operations.rename("domain-1", "night"),
        )  # fmt: skip
    command = ["merge", store / "one", store / "two", "--bundle", looped, "-o", out, "--anyway", "--held-out", store]
    done = host(*command, "--domain", "night")
    assert done.code == 0
    count = int(done.out.partition("\non ")[2].split()[0])
    assert 200 < count < 420, done.out
    done = host(*command, "--domain", "day")
    assert done.code == 1 and "it has no domain day; there are source, night" in done.err


def test_what_does_not_belong_together_is_refused(
    host: Host, boards: Path, moved: tuple[Path, Path], looped: Path, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_bundle(tmp_path / "other.ecl", name="other", lineage="other")
    away = lived(tmp_path / "away", "three", other, noise(20, 3), [None] * 20)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(state.dump(some(1, 3)))
    cut, wrong, text = (tmp_path / name for name in ("cut.safetensors", "wrong.safetensors", "text.safetensors"))
    cut.write_bytes(moved[0].read_bytes()[:-5])
    damaged = bytearray(moved[0].read_bytes())
    damaged[-3] ^= 1
    wrong.write_bytes(damaged)
    text.write_text("no state")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out.safetensors"
    for given, held, code, said in (
        ([boards / "one", away], boards, EXIT_REFUSED, "is of lineage other, the bundle of looped"),
        (
            [boards / "one", foreign],
            boards,
            EXIT_REFUSED,
            "foreign.safetensors: its layout is another than that of looped",
        ),
        ([boards / "one"], away, EXIT_REFUSED, "three: its journal is of lineage other, the bundle of looped"),
        ([cut], boards, 1, "cut.safetensors: not a state file"),
        ([wrong], boards, 1, "wrong.safetensors: its digest does not match"),
        ([text], boards, 1, "text.safetensors: not a state file"),
        ([tmp_path / "gone"], boards, 1, "No such file"),
        ([tmp_path / "empty"], boards, 1, "nothing learned is there"),
        ([boards / "one"], tmp_path / "gone", 1, "not there; give a state directory"),
    ):
        done = host("merge", *given, "--bundle", looped, "--held-out", held, "-o", out)
        assert (done.code, said in done.err, len(done.err.splitlines())) == (code, True, 1), (said, done)
        assert not out.exists()
    assert host("merge", moved[0], "--bundle", looped, "-o", out).code == EXIT_USAGE
    assert host("merge", moved[0], "--bundle", looped, "-o", out, "--anyway", "--bundle-version", 3).code == EXIT_USAGE
    assert host("merge", moved[0], "--bundle", tmp_path / "cut.safetensors", "-o", out, "--anyway").code == EXIT_REFUSED
    nowhere = host("merge", *moved, "--bundle", looped, "--held-out", boards, "-o", "/proc/nowhere/x")
    assert nowhere.code == 1 and "give another file" in nowhere.err


def test_a_state_that_fails_the_canaries_is_refused(
    host: Host, make_bundle: Callable[..., Path], moved: tuple[Path, Path], tmp_path: Path
) -> None:
    strict = make_bundle(
        tmp_path / "strict.ecl", guard=Guard(canary_every=1, canary_floor=1.0, entropy_floor=0, window=16)
    )
    store = tmp_path / "pulled"
    lived(store, "one", strict, noise(20, 1), [None] * 20, settings=replace(KEPT, hyper={"rate": 0}))
    done = host("merge", *moved, "--bundle", strict, "--held-out", store, "-o", tmp_path / "out.safetensors")
    assert done.code == EXIT_REFUSED and "of the canaries right, the floor is 100.0%" in done.err
