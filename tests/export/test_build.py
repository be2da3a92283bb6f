"""From a project to a bundle: every learner builds, to the same bytes every time, and what does not fit is one line."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgecl
from edgecl import journal, keys, signed
from edgecl.bundle import open_bundle, read_canaries, read_state, read_vectors
from edgecl.engine import open_program
from edgecl.errors import BudgetError, ProjectError
from export import parity, project
from export.build import build, make_learner
from export.compile import compile_learner, wanted
from export.learners.table import LEARNERS
from export.source_data import SourceData
from tests.export import projects


@pytest.mark.parametrize("learner", [*LEARNERS, "mine:Offset"])
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_every_learner_builds_and_computes_its_vectors(learner: str, quantize: str, tmp_path: Path) -> None:
    changes = projects.named(learner, ("canaries = 9", f'canaries = 9\nquantize = "{quantize}"\nonnx = true'))
    folder = projects.write(tmp_path / "project", *changes)
    with build(project.read(folder), tmp_path / "small.ecl").bundle as bundle:
        manifest = bundle.manifest
        assert manifest.learner.name == learner.rpartition(":")[2]
        expected = {"infer_b1", "infer_b4"}
        expected |= set() if learner == "source" else {"adapt_b4"}
        expected |= {"learn_b4"} if learner.startswith(("tent", "ecotta", "adaptor")) else set()
        assert {method.name for method in manifest.methods} == expected
        assert {method.name for method in manifest.methods} == {
            Path(file.path).stem for file in manifest.files if file.path.endswith(".onnx")
        }
        assert len(read_canaries(bundle).y) == manifest.canaries.count == 9
        assert sorted(read_canaries(bundle).y.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert read_state(bundle).step == 0
        for method in manifest.methods:
            vectors = read_vectors(bundle, method)
            program = open_program(bundle.path("program.pte"), methods=[method.name])
            for got, want in zip(program.execute(method.name, vectors.inputs), vectors.outputs, strict=True):
                assert got.tobytes() == want.tobytes()
            assert method.memory.weights_bytes > 0
            assert method.delegates == 1 and method.outside == ()
            program.close()


@pytest.mark.parametrize("learner", ["norm", "ecotta"])
def test_the_same_project_gives_the_same_bytes(learner: str, tmp_path: Path) -> None:
    folder = projects.write(tmp_path / "project", *projects.named(learner))
    with build(project.read(folder), tmp_path / "here.ecl").bundle as here:
        identity = here.id
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "edgecl",
        "build",
        folder,
        "-o",
        tmp_path / "there.ecl",
        "--json",
    ]
    other = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env=other)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == identity
    assert (tmp_path / "here.ecl").read_bytes() == (tmp_path / "there.ecl").read_bytes()


def test_a_bundle_is_signed_as_it_is_built(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from edgecl.cli import main

    folder, made = projects.write(tmp_path / "project", *projects.named("source")), tmp_path / "small.ecl"
    command = ["build", str(folder), "-o", str(made), "--key"]
    assert main([*command, "nobody"]) == 1  # before anything is built
    assert capfd.readouterr().err.startswith("edgecl: nobody: no such file, and no such key")
    key = keys.new(tmp_path / "keys", "release", "secret")
    (tmp_path / "words").write_text("secret")
    secret = str(tmp_path / "keys" / "release.key")
    assert main([*command, secret, "--passphrase-file", str(tmp_path / "words")]) == 0
    assert f"signed by   release ({key.fingerprint})\n" in capfd.readouterr().out
    with open_bundle(made) as bundle:
        assert signed.tell(bundle, [key]).signer == "release"


def test_over_budget_names_the_method_its_tensors_and_what_would_fit(tmp_path: Path) -> None:
    changes = (("batch = 4", "batch = 256"), ('memory = "200 MB"', 'memory = "46 MB"'))
    folder = projects.write(tmp_path / "project", *changes)
    with pytest.raises(BudgetError, match=r"_b256: the process would take .* the budget is 46.0 MB") as raised:
        build(project.read(folder), tmp_path / "small.ecl")
    assert "[256, 8, 8, 8]" in str(raised.value)
    assert "would fit" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "small.ecl").exists()


def test_fit_takes_a_batch_that_fits(tmp_path: Path) -> None:
    changes = (("batch = 4", "batch = 256"), ('memory = "200 MB"', 'memory = "60 MB"'))
    read = project.read(projects.write(tmp_path / "project", *changes))
    tight = dataclasses.replace(read)
    try:
        with build(tight, tmp_path / "small.ecl", fit=True).bundle as bundle:
            assert 1 <= bundle.manifest.method("adapt").batch <= 256
            assert bundle.manifest.requires.memory_bytes <= 60_000_000
    except BudgetError as error:  # where the process itself is larger than it was on the machine of the constants
        assert "no batch fits" in str(error) or "measured" in str(error)


def test_no_batch_fits_a_budget_below_the_process_itself(tmp_path: Path) -> None:
    folder = projects.write(tmp_path / "project", ('memory = "200 MB"', 'memory = "10 MB"'))
    with pytest.raises(BudgetError, match="no batch fits"):
        build(project.read(folder), tmp_path / "small.ecl", fit=True)


WRONG = {
    "no such factory": (('"model:make"', '"model:made"'), "no made in it"),
    "no such file": (('"model:make"', '"models:make"'), "no such file"),
    "not a model": (('"model:make"', '"model:not_a_model"'), "not an nn.Module"),
    "two outputs": (('"model:make"', '"model:two_outputs"'), "one tensor of logits"),
    "no such tap": (('"body:in"', '"trunk"'), 'tap "trunk": no such module'),
    "too few classes": (('"red", "green", "blue"', '"red", "green"'), "labels must be 0 to 1"),
    "too many classes": (('"red", "green", "blue"', '"red", "green", "blue", "grey"'), "the model has 3 outputs"),
    "floats for images": (('"model:samples"', '"model:floats"'), "input says x uint8"),
    "wrong labels": (('"model:samples"', '"model:wrong_labels"'), "labels must be 0 to 2"),
    "wrong size": (("shape = [8, 8, 3]", "shape = [8, 9, 3]"), "input says x uint8"),
    "no such learner": (('name = "norm"', 'name = "nrom"'), "choose source, norm"),
    "no such setting": (('name = "norm"', 'name = "norm"\nsettings = {kernel = 3}'), "learner.settings.kernel"),
    "no such number": (('name = "norm"', 'name = "norm"\nhyper = {lr = 3.0}'), "learner.hyper.lr"),
    "no such device": (('memory = "200 MB"', 'device = "toaster"'), "choose "),
    "no such data": (('"model:samples"', '"images.npz"'), "images.npz"),
    "dimensions that do not fit": (
        ("[build]", "[detector]\ndimensions = 100\n\n[build]"),
        "detector.dimensions: 100 dimensions for 24 features: give a multiple of 64",
    ),
    "no size": (('memory = "200 MB"', 'memory = "much"'), "is no size"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_project_is_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from edgecl.cli import main

    change, says = WRONG[case]
    folder = projects.write(tmp_path / "project", change)
    assert main(["build", str(folder), "-o", str(tmp_path / "small.ecl")]) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("edgecl: ") and says in last
    assert not (tmp_path / "small.ecl").exists()


def test_a_program_that_computes_something_else_is_not_packed(tmp_path: Path) -> None:
    folder = projects.write(tmp_path / "project", *projects.named("tent"))
    read = project.read(folder)
    data = SourceData(*read.data(read.tables.data.train), read.given)
    learner = make_learner(read, data)
    x = data.inputs(slice(0, 4))
    good = compile_learner({"": learner}, x, 4, 3)
    parity.check(good, learner.noise, data, int8=False)
    for name, constant in learner.encoder.graph.named_buffers():
        if name.startswith("folded"):
            constant.mul_(1.1)  # the eager function is another one now
    with pytest.raises(ProjectError, match="compiled is"):
        parity.check(good, learner.noise, data, int8=False)


@pytest.mark.parametrize("form", ["bits", "full"])
def test_a_bundle_tells_its_source_from_other_images(form: str, tmp_path: Path) -> None:
    more = ("[build]", f'[detector]\nform = "{form}"\ndimensions = 256\n\n[build]')
    read = project.read(projects.write(tmp_path / "project", more))
    source, _ = read.data("model:samples")
    other = np.random.default_rng(1).integers(0, 256, source.shape).astype(np.uint8)
    usual, unusual = [], []
    with edgecl.open(_built(read, tmp_path), state=tmp_path / "state", sync=True) as loop:
        assert [(tap.name, tap.channels) for tap in loop.manifest.taps] == [("body:in", 8), ("body", 16)]
        usual += [loop.predict(x).novel for x in source]
        assert not loop.shifted
        unusual += [loop.predict(x).novel for x in other]
        assert loop.shifted
    assert np.mean(usual) < 0.15 < 0.8 < np.mean(unusual)
    (told,) = [record for record in journal.read(tmp_path / "state" / "journal") if isinstance(record, journal.Shift)]
    assert told.began and len(source) <= told.seq < len(source) + 30


@pytest.mark.parametrize(
    "change",
    [("[build]", '[detector]\nform = "none"\n\n[build]'), ('taps = ["body:in", "body"]', "taps = []")],
    ids=["not wanted", "no taps"],
)
def test_a_bundle_without_a_detector_runs(change: tuple[str, str], tmp_path: Path) -> None:
    read = project.read(projects.write(tmp_path / "project", change))
    with edgecl.open(_built(read, tmp_path), state=tmp_path / "state", sync=True) as loop:
        assert loop.manifest.detector is None
        assert loop.predict(read.data("model:samples")[0][0]).similarity is None


def _built(read: project.Project, folder: Path) -> Path:
    build(read, folder / "small.ecl").bundle.close()
    return folder / "small.ecl"


def test_a_bundle_has_the_methods_that_its_learner_has(tmp_path: Path) -> None:
    read = project.read(projects.write(tmp_path / "project", *projects.named("source")))
    data = SourceData(*read.data(read.tables.data.train), read.given)
    assert wanted(make_learner(read, data), 1) == [("infer", 1)]
    assert wanted(make_learner(read, data), 4) == [("infer", 1), ("infer", 4)]


def test_samples_become_what_the_board_makes_of_them(tmp_path: Path) -> None:
    from edgecl.preprocess import Preprocess

    read = project.read(projects.write(tmp_path / "project"))
    data = SourceData(*read.data(read.tables.data.train), read.given)
    there = Preprocess(read.given).batch(list(data.x[:5]))
    assert np.abs(data.inputs(slice(0, 5)).numpy() - there).max() < 1e-6
