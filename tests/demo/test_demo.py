"""The demo: its stream is the same every time, its table says what the events say, and all of it runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo import model, shifts
from demo.picture import draw
from demo.table import Result, read, seen, table

ROOT = Path(__file__).parents[2]


def result(
    learner: str, by: str, wrong: list[bool], megabytes: int, rolled_back: int = 0, shifted_at: int | None = None
) -> Result:
    update_ms = None if learner == "source" else 8.0
    return Result(learner, by, np.array(wrong), megabytes * 10**6, 0.25, update_ms, rolled_back, shifted_at)


@pytest.fixture(scope="module")
def held_out() -> tuple[model.Images, model.Labels]:
    return model.held_out()


def test_the_same_seed_gives_the_same_stream(held_out: tuple[model.Images, model.Labels]) -> None:
    one, two, other = (shifts.stream(*held_out, each=20, seed=seed) for seed in (0, 0, 1))
    assert one.x.tobytes() == two.x.tobytes() and one.y.tobytes() == two.y.tobytes()
    assert one.x.tobytes() != other.x.tobytes()


def test_every_shift_but_clean_changes_images_and_keeps_their_form(held_out: tuple[model.Images, model.Labels]) -> None:
    x = held_out[0][:8]
    before = x.copy()
    for name, shift in shifts.SHIFTS.items():
        after = shift(x, np.random.default_rng(0))
        assert after.dtype == np.uint8 and after.shape == x.shape
        changed = [bool((a != b).any()) for a, b in zip(after, x, strict=True)]
        assert changed == [not name.startswith("clean")] * len(x), name
    assert x.tobytes() == before.tobytes()


def test_nothing_that_was_trained_on_is_held_out() -> None:
    train, held_out = ({image.tobytes() for image in part[0]} for part in (model.train(), model.held_out()))
    assert len(held_out) == 500
    assert not train & held_out


def test_a_result_counts_errors_in_the_order_of_the_stream() -> None:
    answers = [{"event": "prediction", "position": n, "label": label, "y": 1} for n, label in ((1, 0), (0, 0), (2, 1))]
    end = {"event": "summary", "resident_bytes": 50_000_000, "answer_ms": 0.5, "update_ms": None, "rolled_back": 3}
    shifts = [{"event": "shift", "seq": n, "began": began} for n, began in ((1, False), (2, True), (3, True))]
    everything = ({"event": "run", "bundle": "x"}, *answers, *shifts, {"event": "end"}, end)
    lines = [json.dumps(event) for event in everything]
    found = read("norm", "edgecl", lines)
    assert found.wrong.tolist() == [True, True, False]
    assert found.shifted_at == 2
    assert (found.resident_bytes, found.answer_ms, found.update_ms, found.rolled_back) == (50_000_000, 0.5, None, 3)


def test_the_table_has_a_line_a_run_and_a_column_a_shift() -> None:
    source = [True, True, False, False]
    results = [result("source", "edgecl", source, 50), result("source", "PyTorch", source, 250)]
    head, *lines = table(results, ("clean", "noise")).splitlines()
    assert head.split() == ["clean", "noise", "all", "MB", "ms/answer", "ms/update"]
    assert lines[0].split() == ["source", "edgecl", "100.0", "0.0", "50.0", "50", "0.25"]
    assert lines[1].split() == ["PyTorch", "100.0", "0.0", "50.0", "250", "0.25"]


def test_what_is_said_of_the_table_is_in_it() -> None:
    ours, theirs = [False, True, True, False], [False, True, False, False]
    said = seen(
        [result("tent", "edgecl", ours, 50, rolled_back=2, shifted_at=3), result("tent", "PyTorch", theirs, 250)],
        ("clean", "noise"),
    )
    assert "until the detector told of it: tent 2." in said
    assert "1 shifts" in said and "tent 50.0 %" in said
    assert "75.0 % or more" in said and "5.0 to 5.0 times" in said
    assert "took back 2 updates of tent" in said


def test_the_picture_is_drawn(held_out: tuple[model.Images, model.Labels], tmp_path: Path) -> None:
    stream = shifts.stream(*held_out, each=80, seed=0)
    random = np.random.default_rng(0)
    draw(
        [result(name, "edgecl", list(random.random(len(stream.y)) < 0.3), 50) for name in ("source", "norm")],
        stream,
        tmp_path / "error.png",
    )
    assert (tmp_path / "error.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_small_demo_learns_and_agrees_with_pytorch(tmp_path: Path) -> None:
    """One learner on a short stream, in a process of its own: it sets how many threads torch may use."""
    script = "import sys, pathlib; from demo import afterwards, model, novel, run, table; " \
        "out = pathlib.Path(sys.argv[1]); " \
        "results, images = run.demo(out, learners=('norm',), each=64, epochs=4); " \
        "print(table.table(results, images.names)); " \
        "bundle = run.bundle_of(out, 'norm'); " \
        "print(novel.said(novel.novel(*model.held_out(), bundle, out / 'novel', run._edgecl))); " \
        "states = {name: out / name / 'state' for name in ('norm', 'novel')}; " \
        "print(afterwards.afterwards(states, 'novel', out, run._edgecl))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "$ edgecl run" in done.stderr
    assert "$ edgecl label" in done.stderr
    shown, strange = done.stdout.split("\nupright digits ", 1)
    _, ours, theirs = (line.split() for line in shown.splitlines())
    (*ours_errors, ours_mb, _, _), (*theirs_errors, theirs_mb, _, _) = ours[2:], theirs[1:]
    assert len(ours_errors) == len(shifts.SHIFTS) + 1
    apart = np.abs(np.array(ours_errors, float) - np.array(theirs_errors, float))
    assert apart.max() < 100 * 1.5 / 64  # one image of a shift may lie on the border
    assert float(ours_mb) < 80 < float(theirs_mb)
    assert (tmp_path / "norm" / "state" / "journal").is_dir()
    upright, unknown, taught, again = (float(line.split(" % ")[0].split()[-1]) for line in strange.splitlines()[:4])
    assert unknown > 70 and taught < unknown - 30, "ten labels a class teach something"
    assert again <= upright + 1, "and nothing is forgotten"
    assert "1  domain-1  " in strange and "  100     head" in strange
    assert "novel, run again from its journal: bit-equal" in strange
    assert "domain-1" in (tmp_path / "report.html").read_text("utf-8")
