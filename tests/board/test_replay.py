"""What the emulated board journals is replayed here: all is decided the same, and numbers are within tolerance."""

import json
from pathlib import Path

import pytest

from firmware_host.replay.compare import TOLERANCE
from tests.board import recorded, remote

pytestmark = pytest.mark.usefixtures("board")


@pytest.mark.parametrize("name", recorded.CASES)
def test_a_journal_of_the_board_is_replayed_here(name: str, tmp_path: Path) -> None:
    recorded.stream(tmp_path / "stream.npz")
    bundle = recorded.build_bundle(name, tmp_path)
    recorded.record(name, bundle, tmp_path / "stream.npz", tmp_path / name)
    found = json.loads(remote.here("replay", tmp_path / name, "--verify", "--bundles", bundle, "--json"))
    assert found["outcome"] == "within tolerance", found
    assert found["runs"] == 3
    assert not found["gaps"]
    assert found["updates"] >= 80
    assert 0 < found["apart"] < TOLERANCE
