"""A journal run again with the board's own code: equal to the bit, or different at the record that was changed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import Guard
from edgecl.settings import Settings
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.device import Replay, Verdict
from firmware_host.replay.recording import recordings
from tests.conftest import MakeBundle
from tests.edgecl.test_domains import bright, dark, noise

LIVED = Path(__file__).parent / "lived_runs.py"
SYNC = Settings(sync=True, wait=True, keep_bytes=1 << 24, checkpoint_every=5)
WAIT = replace(SYNC, sync=False)
MODES = pytest.mark.parametrize("settings", [SYNC, WAIT], ids=["sync", "background"])


def verified(state: Path, *given: Path) -> Verdict:
    (recording,) = recordings([state])
    with Bundles(given, [state]) as bundles:
        return Replay(recording, bundles).verify()


@MODES
def test_a_run_is_the_same_again(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        for x in noise(203, 1):
            loop.predict(x)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.runs, found.answers, found.updates) == ("bit-equal", [], 1, 203, 50)


@MODES
def test_domains_come_and_go_the_same_way(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, replace(settings, domains=3)) as loop:
        for stretch in (noise(100, 1), dark(200, 2), noise(50, 3), bright(200, 4), dark(50, 5)):
            for x in stretch:
                loop.predict(x)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.answers) == ("bit-equal", [], 600)


@MODES
def test_labels_and_operations_are_the_same(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, replace(settings, domains=3)) as loop:
        ask = loop.operations
        for x in (*dark(200, 2), *bright(60, 3)):
            loop.predict(x)
        ask.add_class("emu")
        ask.label([Given(seq, ("cat", "emu")[seq % 2]) for seq in range(100, 130)])
        ask.rename("domain-1", "night")
        for x in bright(150, 3):
            loop.predict(x)
        loop.learn(noise(6, 8), np.arange(6) % 4)
        ask.label([Given(seq, "dog") for seq in range(110, 140)])
        ask.snapshot()
        ask.merge("night", "domain-2")
        for x in dark(40, 2):
            loop.predict(x)
        ask.drop("night")
        ask.held = True
        for x in dark(40, 2):
            loop.predict(x)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.answers) == ("bit-equal", [], 490)


GUARDED = Guard(canary_every=6, canary_floor=0.2, entropy_floor=0.6, window=32)
"""Which goes back now and then."""
SOAK = os.environ.get("EDGECL_SOAK") == "1"


@pytest.fixture(scope="module")
def guarded(make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("guarded") / "guarded.ecl", guard=GUARDED)


@pytest.mark.parametrize("seed", range(20 if SOAK else 4))
def test_a_life_of_runs_that_were_killed_is_the_same_again(guarded: Path, tmp_path: Path, seed: int) -> None:
    samples = 8000 if SOAK else 500
    command = [sys.executable, str(LIVED), str(guarded), str(tmp_path), str(seed), str(samples), "cat", "dog"]
    lived = subprocess.run(command, capture_output=True, text=True)
    assert lived.returncode == 0, lived.stderr
    found = verified(tmp_path)
    assert (found.outcome, found.gaps) == ("bit-equal", []), found
    assert found.runs == int(lived.stdout.split()[0])
