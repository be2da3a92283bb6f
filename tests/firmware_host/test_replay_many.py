"""Replays of many devices: the same in one process, in several and on Ray; and no device is done twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecl.cli import main
from firmware_host.replay.results_file import ResultsFile
from tests.edgecl.test_domains import noise
from tests.firmware_host.test_replay import SYNC, rewrite, run
from tests.firmware_host.test_what_if import WHAT_IF

HOW = {"here": (), "pool": ("--workers", "2"), "ray": ("--workers", "2", "--executor", "ray")}


@pytest.fixture
def boards(looped: Path, tmp_path: Path) -> Path:
    """Three, of which the second has one bit wrong and the third no samples."""
    for number, settings in enumerate((SYNC, SYNC, replace(SYNC, keep_bytes=0))):
        run(looped, tmp_path / "boards" / f"board-{number}", settings, noise(40, number))

    def lie(record: Any) -> Any:
        if type(record).__name__ == "Update" and record.step == 3:
            record.committed = False
        return record

    rewrite(tmp_path / "boards" / "board-1" / "journal", lie)
    return tmp_path / "boards"


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [{name: value for name, value in one.items() if name != "seconds"} for one in found]


@pytest.mark.parametrize("how", ["pool", "ray"])
def test_it_does_not_matter_who_replays(
    boards: Path, looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    if how == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    (tmp_path / "tries.toml").write_text(WHAT_IF.partition('[[try]]\nname = "by path"')[0])
    what_if = ("--what-if", str(tmp_path / "tries.toml"))
    capsys.readouterr()
    assert main(["replay", str(boards), "--json"]) == 7
    here = printed(capsys)
    assert [one["outcome"] for one in here] == ["bit-equal", "diverged", "not replayable"]
    assert here[1]["step"] == 3 and here[1]["differs"] == {"committed": ["None", "True"]}
    assert main(["replay", str(boards), "--json", *HOW[how]]) == 7
    assert printed(capsys) == here
    if how == "pool":
        assert main(["replay", str(boards), "--json", *what_if]) == 7
        tried = printed(capsys)
        assert len(tried) == 2 * 5
        assert main(["replay", str(boards), "--json", *what_if, *HOW[how]]) == 7
        assert printed(capsys) == tried


def test_devices_that_were_done_are_not_done_again(
    boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    assert main(["replay", str(boards / "board-0"), "--json", "--results", str(results)]) == 0
    (one,) = printed(capsys)
    told = results.read_text()
    results.write_text(told.replace('"answers":40', '"answers":41') + '{"mark":"cut')
    assert main(["replay", str(boards), "--json", "--results", str(results)]) == 7
    found = printed(capsys)
    assert found[0] == {**one, "answers": 41}, "as the file has it"
    assert len(results.read_text().splitlines()) == 2, "one that could not be replayed may be another time"
    segment = next((boards / "board-0" / "samples").iterdir())
    segment.touch()
    assert main(["replay", str(boards / "board-0"), "--json", "--results", str(results)]) == 0
    assert printed(capsys) == [one], "its segments have changed"


def test_what_is_no_file_of_results_is_refused(
    boards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("no results\n")
    assert main(["replay", str(boards), "--results", str(tmp_path / "text")]) == 1
    assert "not a file of results" in capsys.readouterr().err
    assert main(["replay", str(boards), "--results", str(tmp_path)]) == 1
    with ResultsFile(tmp_path / "new") as kept:
        assert kept.find("mark", int) is None
