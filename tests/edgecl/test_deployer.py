"""Deployments go through their states, to the right end, with a service and without one."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgecl import deployer, deployer_start, deployments
from edgecl.deployments import Deployment, Figures
from edgecl.errors import BundleError
from edgecl.store import Store
from edgecl.verdict import comparable, judge
from firmware_host.said import said
from tests.conftest import MakeBundle
from tests.edgecl import stores


def test_the_first_bundle_of_a_board_is_committed(looped: Path, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    begun = stores.begun(store, looped)
    deployer.carry_on(store)
    done = deployments.read(store).find(begun.number)
    assert (done.outcome, done.reason) == ("committed", "")
    assert stores.states(done) == ["STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "COMMIT", "CLEAN", "END"]
    assert Store(store).current == begun.bundle
    assert done.trial and done.trial.samples == 8
    with Store(store).open(begun.bundle) as opened:
        assert opened.manifest.name == "looped"


def test_the_next_version_follows(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    stores.begun(store, looped)
    deployer.carry_on(store)
    second = stores.begun(store, make_bundle(tmp_path / "two.ecl", version=2))
    deployer.carry_on(store)
    done = deployments.read(store).find(second.number)
    assert (done.outcome, done.reason) == ("committed", "")
    assert Store(store).current == second.bundle
    assert done.trial and done.before and not comparable(done.trial, done.before)
    assert (done.trial.accuracy, done.before.accuracy) == (None, None)  # it kept no samples of its own
    assert "not compared with the bundle before: the board keeps no samples" in said("TRIAL", done)


def test_only_answers_to_the_same_samples_are_compared() -> None:
    begun = Deployment(
        number=1, bundle="b", signature="", name="n", lineage="l", version=1, previous="a", by="me", learned="carry",
        latency_ms=0.0, probation_s=0.0, boot="", begun_ns=0, deadline_s=1.0,
    )  # fmt: skip
    better = Figures(samples=100, accuracy=0.9, inputs="aa", canaries="one", canary_accuracy=0.9)
    worse = Figures(samples=100, accuracy=0.5, inputs="aa", canaries="two", canary_accuracy=0.5)
    with pytest.raises(BundleError, match="0.500 of the board's own samples answered right, 0.900 before"):
        judge(begun, 0.0, 0, worse, better)
    for inputs, why in (("bb", "samples went meanwhile"), ("", "only one of them takes the samples of the board")):
        other = msgspec.structs.replace(worse, inputs=inputs)
        judge(begun, 0.0, 0, other, better)
        told = said("TRIAL", msgspec.structs.replace(begun, trial=other, before=better))
        assert why in told and "->" not in told
    told = said("TRIAL", msgspec.structs.replace(begun, trial=better, before=worse))
    assert told == "100 samples, right 0.500 -> 0.900, canaries 0.900, 0.0 ms, 0 B"


def test_a_service_goes_over_to_the_next_bundle_and_takes_along_what_it_learned(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    store = stores.made(tmp_path / "store")
    stores.begun(store, looped)
    deployer.carry_on(store)
    with stores.serving(store, "stdin") as service:
        assert service.stdin
        service.stdin.write(stores.noise(400).tobytes())
        service.stdin.flush()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == 400)
        before = stores.status(store)
        second = stores.begun(store, make_bundle(tmp_path / "two.ecl", version=2), probation_s=0.5)
        deployer.carry_on(store)
        done = deployments.read(store).find(second.number)
        after = stores.status(store)
        service.stdin.write(stores.noise(100, 6).tobytes())
        service.stdin.flush()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == 100)
    print(before, after, done, (store / "service.err").read_text())
    assert (done.outcome, done.reason) == ("committed", "")
    assert before and after and (before.version, after.version) == (1, 2)
    assert done.trial and done.before and done.trial.inputs == done.before.inputs != ""
    assert done.trial.samples == done.before.samples == 200 and "not compared" not in said("TRIAL", done)
    assert after.step == before.step > 0


def test_a_second_process_leaves_a_deployment_alone(looped: Path, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    begun = stores.begun(store, looped)
    command = [sys.executable, "-P", "-m", "edgecl.deployer", str(store)]
    with deployer_start.alone(store):
        subprocess.run(command, check=True)
        assert deployments.read(store).find(begun.number).state == "VERIFY"
    subprocess.run(command, check=True)
    assert deployments.read(store).find(begun.number).outcome == "committed"
