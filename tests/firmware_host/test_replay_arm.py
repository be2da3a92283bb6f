"""Journals of a 64-bit Arm board, in tests/data/arm, replayed on whatever processor this is."""

import shutil
from pathlib import Path

import pytest

from edgecl import journal
from edgecl.journal import Domain, Label, Prediction, Record, Run, Shift, Update
from edgecl.processor import processor
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.compare import TOLERANCE
from firmware_host.replay.device import Replay, Verdict
from firmware_host.replay.recording import recordings
from tests.firmware_host.test_replay import rewrite

DATA = Path(__file__).parents[1] / "data" / "arm"


def verified(folder: Path) -> Verdict:
    (recording,) = recordings([folder])
    with Bundles([folder], [folder]) as bundles:
        return Replay(recording, bundles).verify()


def recorded(folder: Path) -> list[Record]:
    return [record for record in journal.read(folder / "journal") if not isinstance(record, journal.Torn)]


@pytest.mark.parametrize("name", ["tent", "ecotta-int8"])
def test_what_an_arm_board_journalled_is_replayed_here(name: str) -> None:
    found = verified(DATA / name)
    (there,) = {record.processor for record in recorded(DATA / name) if isinstance(record, Run)}
    assert there.startswith("aarch64")
    assert found.difference is None
    assert (found.gaps, found.runs, found.unchecked) == ([], 3, 0)
    assert found.answers >= 260
    assert found.updates >= 80
    assert found.apart < TOLERANCE
    if not processor().startswith("aarch64"):
        assert found.outcome == "within tolerance", "sums of other kernels differ in their last bits"
        assert found.apart > 0
        assert found.notes[0] == f"recorded on {there}, replayed on {processor()}"


@pytest.mark.parametrize("name", ["tent", "ecotta-int8"])
def test_the_recording_has_what_could_come_out_otherwise(name: str) -> None:
    records = recorded(DATA / name)
    whats = {record.what for record in records if isinstance(record, Domain)}
    assert {Domain.BEGAN, Domain.FOUNDED, Domain.ENTERED} <= whats
    assert any(isinstance(record, Label) for record in records)
    assert any(isinstance(record, Shift) for record in records)
    assert any(record.HasField("y") for record in records if isinstance(record, Prediction))
    assert {record.domain for record in records if isinstance(record, Update)} >= {0, 1}


def test_a_changed_decision_of_the_board_is_told(tmp_path: Path) -> None:
    shutil.copytree(DATA / "tent", tmp_path / "tent")

    def other(record: Record) -> Record:
        if isinstance(record, Prediction) and record.seq == 200:
            record.label = (record.label + 1) % 3
        return record

    rewrite(tmp_path / "tent" / "journal", other)
    found = verified(tmp_path / "tent")
    assert found.outcome == "diverged"
    assert found.difference
    assert found.difference.seq == 200
    assert found.difference.fields().keys() >= {"label"}
