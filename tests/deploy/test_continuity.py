"""Answers go on while a bundle is deployed: by the bundle before until the switch, by the next one after it."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec

from edgecl import deployer, deployments, journal
from edgecl.journal import Prediction, Run
from tests.conftest import MakeBundle
from tests.deploy.forks import version_two
from tests.edgecl import stores

EVERY_S = 0.01
"""Between two samples."""


def test_answers_go_on_until_the_switch_and_after_it(looped: Path, make_bundle: MakeBundle, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    first = stores.begun(store, looped, state="STAGE", back=True)
    deployer.carry_on(store)
    ending, fed = threading.Event(), 0
    with stores.serving(store, "stdin", keep="64 kB") as service:

        def feed() -> None:
            nonlocal fed
            assert service.stdin
            while not ending.wait(EVERY_S):
                service.stdin.write(stores.noise(1, fed).tobytes())
                service.stdin.flush()
                fed += 1

        thread = threading.Thread(target=feed)
        thread.start()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples > 20)
        second = stores.begun(store, version_two(make_bundle, tmp_path / "two.ecl"), probation_s=0.5)
        subprocess.run([sys.executable, "-P", "-m", "edgecl.deployer", str(store)], check=True)
        # The service may have been first to carry it on: then that process has nothing to do.
        done = stores.until(lambda: deployments.read(store).find(second.number), lambda now: now.over)
        stores.until(
            lambda: stores.status(store), lambda now: now is not None and now.version == 2 and now.samples > 20
        )
        ending.set()
        thread.join()
        assert service.stdin
        service.stdin.close()
        stores.until(lambda: stores.status(store), lambda now: now is not None and now.ended)
    assert (done.outcome, done.reason) == ("committed", "")

    answers: list[tuple[str, Prediction]] = []
    bundle = ""
    for record in journal.read(store / "journal"):
        if isinstance(record, Run):
            bundle = record.bundle
        elif isinstance(record, Prediction):
            answers.append((bundle, record))
    assert [record.position for _, record in answers] == list(range(fed)), "each sample is answered, once, in order"
    assert [record.seq for _, record in answers] == list(range(fed))
    switched = [name for name, _ in answers].index(second.bundle)
    assert {name for name, _ in answers[:switched]} == {first.bundle}
    assert {name for name, _ in answers[switched:]} == {second.bundle}
    entered = {one.state: one.wall_ns for one in done.trace}
    during = [record for _, record in answers[:switched] if record.stamp.wall_ns > entered["TRIAL"]]
    assert any(record.stamp.wall_ns < entered["QUIESCE"] for record in during), "the trial stopped the answers"

    times_ns = [record.stamp.monotonic_ns for _, record in answers]
    gaps_ms = [(after - before) / 1e6 for before, after in itertools.pairwise(times_ns)]
    told = {
        "switch_ms": gaps_ms[switched - 1],
        "longest_during_trial_ms": max(
            (gap for gap, (_, record) in zip(gaps_ms, answers[1:switched], strict=False)
             if record.stamp.wall_ns > entered["TRIAL"]), default=0.0
        ),
        "usual_ms": sorted(gaps_ms)[len(gaps_ms) // 2],
        "answers_during_deployment": float(len(during)),
    }  # fmt: skip
    print(told)
    if where := os.environ.get("EDGECL_GAPS"):
        Path(where).write_bytes(msgspec.json.encode(told))
