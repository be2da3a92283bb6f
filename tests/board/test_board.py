"""edgecl on an emulated 64-bit Arm board, by `make test-board`: it computes and learns there what it does here."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgecl.bundle import open_bundle, write
from edgecl.errors import EXIT_REFUSED
from export import project as projects
from export.build import build
from tests.board import compare, remote
from tests.export import projects as small

pytestmark = pytest.mark.usefixtures("board")

UNTRAINED = ("canaries = 9", "canaries = 0")
"""Answers of the small network are no measure of anything, so nothing is taken back for them."""
FREELY = ('memory = "200 MB"', 'memory = "0 MB"')
"""The building process has torch in it; the board's has the emulator."""
INT8 = ("canaries = 0", 'canaries = 0\nquantize = "int8"\nbackward = "int8"')

LABELS = ("0=green", "1=blue", "2=red", "3=blue", "4=blue", "5=green")


@dataclass(frozen=True)
class Case:
    """A learner, how its stream is run, and how far the board may be from this machine."""

    learner: str
    changes: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    vectors: float = 1e-5
    """As the self-test measures it."""
    answers: float = 1e-5
    reports: float = 1e-4
    state: float = 1e-3
    """These as tests/board/compare.py measures them."""


EVERY = ("--hyper", "margin=2")
"""The network is trained on nothing and so sure of nothing: without this, EcoTTA would pass over all samples."""

CASES = {
    "norm": Case("norm"),
    "tent": Case("tent"),
    "ecotta": Case("ecotta", words=EVERY),
    # An int8 number that lies between two steps may be rounded to the other one.
    "ecotta-int8": Case("ecotta", (INT8,), EVERY, vectors=0.01, answers=0.01, reports=0.05, state=0.1),
}


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for six updates of four."""
    path, random = tmp_path_factory.mktemp("stream") / "stream.npz", np.random.default_rng(6)
    np.savez(path, x=random.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def bundles(stream: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small bundle for each case and a stream, here and in the board's home directory."""
    remote.put(stream, stream.name)
    folder, made = tmp_path_factory.mktemp("bundles"), {}
    for name, case in CASES.items():
        project = small.write(folder / name, *small.named(case.learner, UNTRAINED, FREELY, *case.changes))
        made[name] = folder / f"{name}.ecl"
        build(projects.read(project), made[name]).bundle.close()
        remote.put(made[name], made[name].name)
    return made


def test_the_board_is_one() -> None:
    assert remote.ssh("uname -m; id -un").split() == ["aarch64", "pi"]
    assert "0xd08" in remote.ssh("cat /proc/cpuinfo")
    code = "from edgecl import _runtime; print(_runtime.EXECUTORCH_VERSION)"
    assert remote.ssh(f"{remote.VENV}/python -c '{code}'").startswith("1.5.1")
    assert remote.ssh(f"{remote.VENV}/python -c 'import torch' 2>/dev/null", expect=1) == ""


@pytest.mark.parametrize("name", CASES)
def test_every_method_computes_there_what_it_did_where_it_was_built(name: str, bundles: dict[str, Path]) -> None:
    results = remote.verified(bundles[name].name)
    with open_bundle(bundles[name]) as bundle:
        assert [result.method for result in results] == [method.name for method in bundle.manifest.methods]
    for result in results:
        assert result.distance <= CASES[name].vectors, result


@pytest.mark.parametrize("name", CASES)
def test_a_stream_is_answered_and_learned_from_as_here(
    name: str, bundles: dict[str, Path], stream: Path, tmp_path: Path
) -> None:
    case, bundle = CASES[name], bundles[name]
    words = ("--sync", "--keep", "1 MB", *case.words)
    remote.ssh("rm -rf state")
    remote.edgecl("run", bundle.name, "--source", f"npz:{stream.name}", "--state", "state", *words)
    remote.here("run", bundle, "--source", f"npz:{stream}", "--state", tmp_path / "here", *words)
    if case.learner != "norm":  # which learns nothing from labels
        remote.edgecl("label", "state", *LABELS)
        remote.here("label", tmp_path / "here", *LABELS)
    remote.get("state", tmp_path / "there")
    with open_bundle(bundle) as opened:
        found = compare.distance(opened, tmp_path / "here", tmp_path / "there")
    assert found.steps >= 6
    assert found.answers <= case.answers
    assert found.reports <= case.reports
    assert found.state <= case.state


def test_a_run_that_goes_on_is_bit_equal_to_one_that_never_stopped(bundles: dict[str, Path], tmp_path: Path) -> None:
    name = "tent"
    words = ("run", f"{name}.ecl", "--source", "npz:stream.npz", "--sync")
    remote.ssh("rm -rf whole parts")
    remote.edgecl(*words, "--state", "whole")
    remote.edgecl(*words, "--state", "parts", "--limit", "10")
    remote.edgecl(*words, "--state", "parts")
    for state in ("whole", "parts"):
        remote.get(state, tmp_path / state)
    with open_bundle(bundles[name]) as bundle:
        whole, parts = (compare.learned(bundle, tmp_path / state / "learned" / "small") for state in ("whole", "parts"))
    assert (whole.step, whole.digest) == (parts.step, parts.digest)


def test_a_bundle_for_another_processor_is_refused_there(bundles: dict[str, Path], tmp_path: Path) -> None:
    with open_bundle(bundles["norm"]) as bundle:
        requires = msgspec.structs.replace(bundle.manifest.requires, arch=("x86_64",))
        files = {file.path: (bundle.directory / file.path).read_bytes() for file in bundle.manifest.files}
        write(msgspec.structs.replace(bundle.manifest, requires=requires), files, tmp_path / "other.ecl").close()
    remote.put(tmp_path / "other.ecl", "other.ecl")
    remote.edgecl("verify", "other.ecl", expect=EXIT_REFUSED)
