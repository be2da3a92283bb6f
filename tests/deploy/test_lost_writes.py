"""A power cut loses nothing that was acknowledged, whatever it loses of what was not synced; each fsync is needed."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.conftest import MakeBundle
from tests.deploy.forks import version_two
from tests.deploy.lost_writes import Report

SCRIPT = Path(__file__).with_name("lost_writes.py")
SOURCE = Path(__file__).with_name("recorder.cpp")
SAMPLES = 200 if os.environ.get("EDGECL_SOAK") else 3

RESUMED_TRIAL = "a trial is begun again, on a new directory"
NAME = "makes the name of a directory last, which here was there before; needed the first time, as the other case shows"
SECOND = "the same directory is synced once more before anything is acknowledged"

UNNEEDED: dict[str, dict[str, str]] = {
    "deployment": {
        "STAGE .": NAME,
        "STAGE objects": "somebody who received the last object may have been killed before this very fsync",
        "QUIESCE .": NAME,
        "QUIESCE learned": NAME,
        "QUIESCE trial/learned": SECOND,
        "QUIESCE trial": "what is taken over is made again, if it was not moved",
        "SWITCH .": NAME,
        "COMMIT .": SECOND,
    },
    "run": {
        ".": NAME,
        "cache": "a bundle's copy is made again",
        "learned": NAME,
        "journal": SECOND,
        "samples": "samples are a ring: those that a power cut loses are counted",
    },
}
"""Why an fsync may do nothing: the state, and the directory relative to the store."""


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("recording what a process does to files needs a C++ compiler")
    library = tmp_path_factory.mktemp("recorder") / "recorder.so"
    command: list[str | Path] = [
        compiler,
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        SOURCE,
        "-o",
        library,
        "-ldl",
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return library


def report(kind: str, recorder: Path, directory: Path, bundles: list[Path]) -> Report:
    """Of all workers together."""
    command = [sys.executable, "-P", SCRIPT, kind, recorder, directory, *bundles, SAMPLES]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = Report()
    for line in done.stdout.splitlines():
        part = msgspec.json.decode(line, type=Report)
        whole.operations, whole.fsyncs = part.operations, part.fsyncs
        whole.cuts += part.cuts
        whole.images += part.images
        whole.resumed += part.resumed
        whole.failures += part.failures
        whole.unneeded += part.unneeded
    print(f"{whole.operations} operations, {whole.fsyncs} fsyncs, {whole.cuts} power cuts, {whole.images} images, "
          f"{whole.resumed} gone on from")  # fmt: skip
    return whole


@pytest.mark.parametrize("many", [True, False], ids=["one after two", "the first of all"])
def test_a_power_cut_leaves_a_deployment_in_order(
    many: bool, recorder: Path, looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundles = [looped]
    if many:
        bundles += [version_two(make_bundle, tmp_path / "2.ecl"), make_bundle(tmp_path / "3.ecl", version=3)]
    found = report("deployment", recorder, tmp_path, bundles)
    assert not found.failures, "\n".join(found.failures)
    unneeded = Counter(one for one in found.unneeded if not one.startswith("TRIAL "))
    assert unneeded.keys() <= UNNEEDED["deployment"].keys(), unneeded
    assert sum(unneeded.values()) <= len(unneeded) + 2, unneeded
    trials = [one for one in found.unneeded if one.startswith("TRIAL ")]
    assert all(one.startswith("TRIAL trial") or one == "TRIAL ." for one in trials), f"not so: {RESUMED_TRIAL}"


@pytest.mark.parametrize("again", [True, False], ids=["behind one that was killed", "the first of all"])
def test_a_power_cut_leaves_what_was_learned_in_order(
    again: bool, recorder: Path, looped: Path, tmp_path: Path
) -> None:
    found = report("checkpoint", recorder, tmp_path, [looped] * (1 + again))
    assert not found.failures, "\n".join(found.failures)
    unneeded = Counter(one.removeprefix("- ").split("/")[0] for one in found.unneeded)
    assert unneeded.keys() <= UNNEEDED["run"].keys(), unneeded
