"""`edgecl run` as a user meets it: what it prints, how it ends, and how it goes on."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgecl import journal
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints
from edgecl.events import EVENTS

MakeBundle = Callable[..., Path]

COMMAND = (sys.executable, "-P", "-m", "edgecl")
NOT_INSTALLED = ("torch", "executorch", "onnx", "onnxruntime", "serial")


def edgecl(*arguments: Any, cwd: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, **more)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """103 labelled images in an npz."""
    random, path = np.random.default_rng(4), tmp_path_factory.mktemp("stream") / "s.npz"
    np.savez(path, x=random.integers(0, 256, (103, 8, 8, 3), dtype=np.uint8), y=random.integers(0, 4, 103))
    return path


def events(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_run_tells_what_it_amounts_to(looped: Path, stream: Path, tmp_path: Path) -> None:
    done = edgecl("run", looped, "--source", f"npz:{stream}", "--state", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "looped version 1, learner faulty: starts as built\n"
    samples, right, novel, updates, time, memory, checkpoint = done.stdout.splitlines()
    assert samples == "samples     103"
    assert re.fullmatch(r"right       \d+\.\d%, of the last 103 \d+\.\d%", right)
    assert re.fullmatch(r"novel       \d+\.\d%", novel)
    assert updates == "updates     25 committed, 0 skipped, 0 rolled back"
    assert re.fullmatch(r"time        \d+\.\d\d ms an answer, \d+\.\d\d ms an update", time)
    assert re.fullmatch(r"memory      \d+\.\d MB, \d+\.\d MB at most", memory)
    assert checkpoint == f"checkpoint  {tmp_path}/learned/looped/00000003.json"


def test_a_shift_of_the_stream_is_told(looped: Path, make_bundle: MakeBundle, stream: Path, tmp_path: Path) -> None:
    with open_bundle(looped) as opened:
        assert opened.manifest.detector
        passes = msgspec.structs.replace(opened.manifest.detector.calibration, threshold=1.5)
        strict = msgspec.structs.replace(opened.manifest.detector, calibration=passes)
    bundle = make_bundle(tmp_path / "a.ecl", detector=strict)
    done = edgecl("run", bundle, "--source", f"npz:{stream}", "--state", tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert "sample 13: inputs are unlike the source: 100% of the last ones are novel\n" in done.stderr
    assert "novel       100.0%\n" in done.stdout


@pytest.mark.parametrize("mode", [(), ("--sync",)], ids=["background", "sync"])
def test_json_is_the_journal(looped: Path, stream: Path, tmp_path: Path, mode: tuple[str, ...]) -> None:
    done = edgecl("run", looped, "--source", f"npz:{stream}", "--state", tmp_path, "--json", "--limit", 21, *mode)
    assert done.returncode == 0, done.stderr
    *told, summary = events(done)
    kept = list(journal.read(tmp_path / "journal"))
    assert len(told) == len(kept)
    names = ("cat", "dog", "owl", "yak")
    for event, record in zip(told, kept, strict=True):
        assert not isinstance(record, journal.Torn)
        assert event["event"] == EVENTS[type(record)]
        assert event["sequence"] == record.stamp.sequence
        if isinstance(record, journal.Prediction):
            assert event["class"] == names[record.label]
            assert (event["seq"], event["position"], event["y"]) == (record.seq, record.position, record.y)
            assert np.float32(event["confidence"]) == np.float32(record.confidence)
        elif isinstance(record, journal.Update):
            assert (event["kind"], event["digest"], event["committed"]) == ("adapt", record.digest, True)
            np.testing.assert_array_equal(np.array(event["report"], np.float32), np.array(record.report, np.float32))
        elif isinstance(record, journal.Run):
            assert event["settings"]["hyper.rate"] == "0.001"
    right = sum(event["label"] == event["y"] for event in told if event["event"] == "prediction")
    assert (summary["samples"], summary["updates"], summary["accuracy"]) == (21, 5, pytest.approx(right / 21))
    assert told[-1]["reason"] == "limit"


def test_another_engine_learns_the_same(make_bundle: MakeBundle, stream: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'edgecl[onnx]'")
    bundle, states = make_bundle(tmp_path / "b.ecl", onnx=True), []
    for engine in ("executorch", "onnxruntime"):
        where = tmp_path / engine
        assert edgecl("verify", bundle, "--engine", engine).returncode == 0
        done = edgecl("run", bundle, "--source", f"npz:{stream}", "--state", where, "--engine", engine)
        assert done.returncode == 0, done.stderr
        with open_bundle(bundle) as opened:
            learned = where / "learned" / "looped" / "00000003.json"
            states.append(Checkpoints(learned.parent).load(learned, opened.manifest.layout).learned.states[0])
    first, second = states
    assert first.step == second.step == 25
    np.testing.assert_allclose(first.theta, second.theta, rtol=1e-4, atol=1e-6)


def test_answers_are_written_where_asked(looped: Path, stream: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    done = edgecl("run", looped, "--source", f"npz:{stream}", "--state", tmp_path / "s", "--answers", file)
    assert done.returncode == 0, done.stderr
    head, *rows = file.read_text().splitlines()
    assert head == "seq,position,class,confidence,entropy,y,similarity,domain"
    labels = np.load(stream)["y"]
    assert [row.split(",")[::5] for row in rows] == [[str(i), str(labels[i])] for i in range(103)]
    assert {row.split(",")[2] for row in rows} <= {"cat", "dog", "owl", "yak"}
    assert all(-1 <= float(row.split(",")[6]) <= 1 for row in rows)
    assert {row.split(",")[7] for row in rows} == {"source"}


def test_the_same_command_goes_on_and_says_when_nothing_is_left(looped: Path, stream: Path, tmp_path: Path) -> None:
    command = ("run", looped, "--source", f"npz:{stream}", "--state", tmp_path, "--json")
    assert edgecl(*command, "--limit", 30).returncode == 0
    second = edgecl(*command)
    assert "goes on at step 7, sample 28 of npz:" in second.stderr
    assert events(second)[-1]["samples"] == 75
    third = edgecl(*command)
    assert third.returncode == 0
    assert f"npz:{stream}: no sample is left; give --again to run through it once more" in third.stderr
    again = edgecl(*command, "--again")
    assert "goes on at step 25, sample 0 of" in again.stderr
    assert events(again)[-1]["samples"] == 103
    seqs = [record.seq for record in journal.read(tmp_path / "journal") if isinstance(record, journal.Prediction)]
    assert seqs == list(range(30 + 75 + 103))


def test_without_a_state_directory_nothing_is_kept(looped: Path, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = edgecl("run", looped, "--source", "canaries", env=environment)
    assert done.returncode == 0, done.stderr
    assert "nothing that is learned will be kept; give --state DIR to keep it" in done.stderr
    assert done.stdout.startswith("samples     8\n")
    assert "checkpoint" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("mode", [(), ("--sync",)], ids=["background", "sync"])
def test_a_signal_ends_a_run_in_good_order(looped: Path, tmp_path: Path, name: str, mode: tuple[str, ...]) -> None:
    images = np.random.default_rng(5).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    command = [*COMMAND, "run", str(looped), "--source", "stdin", "--state", str(tmp_path), "--json", *mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdin and run.stdout and run.stderr
        run.stdin.write(images.tobytes())
        run.stdin.flush()
        seen = 0
        while seen < 10:
            seen += json.loads(run.stdout.readline())["event"] == "prediction"
        run.send_signal(signal.Signals[name])  # while it waits for the next sample, or is about to
        output, errors = run.stdout.read(), run.stderr.read()
        assert run.wait() == 130, errors
    *_, end, summary = map(json.loads, output.splitlines())
    assert (end["event"], end["reason"], end["samples"]) == ("end", name, 10)
    assert summary["updates"] == 2
    assert b"Traceback" not in errors
    done = edgecl("run", looped, "--source", "stdin", "--state", tmp_path, stdin=subprocess.DEVNULL)
    assert "goes on at step 2, sample 8 of stdin" in done.stderr


def test_a_reader_that_goes_away_ends_a_run_in_good_order(looped: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "long.npz", x=np.zeros((20_000, 8, 8, 3), np.uint8))
    source = f"npz:{tmp_path / 'long.npz'}"
    command = [*COMMAND, "run", str(looped), "--source", source, "--state", str(tmp_path / "s"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout and run.stderr
        run.stdout.readline()
        run.stdout.close()
        errors = run.stderr.read()
        assert run.wait() == 1
    assert b"Traceback" not in errors and b"Exception" not in errors
    *_, end = journal.read(tmp_path / "s" / "journal")
    assert isinstance(end, journal.End)
    assert end.reason == "output closed"
    assert 0 < end.samples < 20_000


def test_wrong_images_are_told_and_passed_over(looped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(folder / "4.png")
    done = edgecl("run", looped, "--source", f"folder:{tmp_path / 'images'}", "--state", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "sample 2 is damaged: cat/2.png: " in done.stderr
    assert "sample 4 is damaged: cat/4.png: 8x9 pixels where the bundle takes 8x8; resize it" in done.stderr
    assert done.stdout.startswith("samples     4, 2 damaged\n")
    damaged = [r for r in journal.read(tmp_path / "s" / "journal") if isinstance(r, journal.Damaged)]
    assert [record.position for record in damaged] == [2, 4]


def test_vectors_that_are_not_finite_are_told_and_passed_over(make_bundle: MakeBundle, tmp_path: Path) -> None:
    given = {"kind": "vector", "shape": (3, 8, 8), "scale": (1.0,) * 3, "shift": (0.0,) * 3}
    with open_bundle(make_bundle(tmp_path / "images.ecl")) as opened:
        vector = msgspec.structs.replace(opened.manifest.input, **given)
    bundle = make_bundle(tmp_path / "b.ecl", input=vector)
    x = np.random.default_rng(6).random((9, 3, 8, 8), dtype=np.float32)
    x[3, 1, 2, 3], x[7, 0, 0, 0] = np.nan, np.inf
    np.savez(tmp_path / "s.npz", x=x)
    done = edgecl("run", bundle, "--source", f"npz:{tmp_path / 's.npz'}", "--state", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "sample 3 is damaged: it holds numbers that are not finite" in done.stderr
    assert "sample 7 is damaged: it holds numbers that are not finite" in done.stderr
    assert "samples     7, 2 damaged" in done.stdout
    assert "updates     1 committed" in done.stdout


def test_what_a_crash_lost_is_told(looped: Path, stream: Path, tmp_path: Path) -> None:
    command = ("run", looped, "--source", f"npz:{stream}", "--state", tmp_path)
    assert edgecl(*command, "--limit", 30).returncode == 0
    (segment,) = (tmp_path / "journal").iterdir()
    segment.write_bytes(segment.read_bytes()[:-400])
    done = edgecl(*command)
    assert done.returncode == 0
    assert re.search(rf"an earlier run was cut off: {segment.name} keeps \d+ records, \d+ bytes", done.stderr)


def test_guard_actions_are_told(looped: Path, stream: Path, tmp_path: Path) -> None:
    command = ("run", looped, "--source", f"npz:{stream}", "--state", tmp_path)
    done = edgecl(*command, "--hyper", "poison=1")
    assert "updates     0 committed, 25 skipped, 0 rolled back" in done.stdout
    assert done.stderr.count("an update was skipped: the update holds numbers that are not finite") == 1
    done = edgecl(*command, "--again", "--memory", "1 MB")
    assert "updates     0 committed, 25 skipped, 0 rolled back" in done.stdout
    assert done.stderr.count("bytes resident, the budget is 1000000") == 1


def test_a_trace_is_written_where_asked(looped: Path, stream: Path, tmp_path: Path) -> None:
    done = edgecl("run", looped, "--source", f"npz:{stream}", "--limit", 8, "--trace", tmp_path / "t.etdump")
    assert done.returncode == 0, done.stderr
    assert b"ED00" in (tmp_path / "t.etdump").read_bytes()[:16]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        ("", 2, "Missing option '--source'"),
        ("--source nowhere", 2, "'nowhere' names no source; give one of folder:PATH, npz:PATH, stdin, canaries"),
        ("--source canaries --hyper rate", 2, """Invalid value for '--hyper': "rate" is not like rate=0.001"""),
        ("--source canaries --memory big", 2, """Invalid value for '--memory': "big" is no size"""),
        ("--source canaries --hyper rat=1", 2, "edgecl: hyper-parameter rat: faulty does not have it; it has rate,"),
        ("--source canaries --engine abacus", 2, "edgecl: engine abacus: unknown; give executorch or onnxruntime"),
        ("--source canaries --engine onnxruntime", 5, "it has no onnx/infer_b1.onnx; build the bundle with it"),
        ("--source npz:missing.npz", 1, "edgecl: missing.npz: "),
        ("--source canaries --state /proc/nothing", 1, "edgecl: /proc/nothing: "),
        ("--source canaries --answers /nowhere/a.csv", 1, "edgecl: /nowhere/a.csv: No such file or directory"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(looped: Path, tmp_path: Path, arguments: str, code: int, line: str) -> None:
    done = edgecl("run", looped, *arguments.split(), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert line in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_state_directory_in_use_is_refused(looped: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "run", str(looped), "--source", "stdin", "--state", str(tmp_path), "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin and run.stdout
        run.stdout.readline()
        second = edgecl("run", looped, "--source", "canaries", "--state", tmp_path)
        assert second.returncode == 1
        assert second.stderr.startswith(f"edgecl: {tmp_path}: another process is using it; stop that one")
        run.stdin.close()
        assert run.wait() == 0


def test_a_run_needs_nothing_but_the_base_install(looped: Path, stream: Path, tmp_path: Path) -> None:
    for package in NOT_INSTALLED:
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('no {package} here', name='{package}')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert subprocess.run([sys.executable, "-P", "-c", "import torch"], env=environment, capture_output=True).returncode
    done = edgecl("run", looped, "--source", f"npz:{stream}", "--state", tmp_path / "s", env=environment)
    assert done.returncode == 0, done.stderr
    assert edgecl("verify", looped, env=environment).returncode == 0
