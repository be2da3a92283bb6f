"""Other settings on a recorded stream: what would have become of it."""

import json
from pathlib import Path

import pytest

from edgecl.cli import main
from edgecl.labels import Given
from edgecl.loop import Loop
from tests.conftest import MakeBundle
from tests.edgecl.test_domains import noise
from tests.firmware_host.test_replay import SYNC, run

WHAT_IF = """
[[try]]
name = "same"

[[try]]
name = "other rate"
hyper = { rate = 0.05 }

[[try]]
name = "strict"
guard = { canary_every = 1, canary_floor = 1.1, window = 8 }

[[try]]
name = "by path"
bundle = "other.ecl"
"""


def test_what_ifs_are_answered_side_by_side(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "other.ecl", methods=("infer_b1",), canary_count=0)
    (tmp_path / "tries.toml").write_text(WHAT_IF)
    board = tmp_path / "board"
    run(looped, board, SYNC, noise(60, 1))
    with Loop(looped, board, SYNC, source=None) as loop:
        loop.operations.label([Given(seq, "cat") for seq in range(30)])
    run(looped, board, SYNC, noise(100, 1))
    assert main(["replay", str(board), "--what-if", str(tmp_path / "tries.toml"), "--json"]) == 0
    results = {one["name"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(results) == ["the board", "unchanged", "same", "other rate", "strict", "by path"]
    for one in results.values():
        assert one["answers"] == one["known"] == 100
        assert sum(part[0] for part in one["parts"]) == 100
    for name in ("unchanged", "same"):
        for fact in ("right", "agreeing", "updates", "refused"):
            assert results[name][fact] == results["the board"][fact], "it learned at once, and no moment stopped it"
        assert results[name]["entropy"] == pytest.approx(results["the board"]["entropy"])
    assert results["other rate"]["entropy"] != results["same"]["entropy"]
    assert results["strict"]["updates"] == 0 and results["strict"]["refused"] > 0
    assert results["by path"]["updates"] == 0
    assert main(["replay", str(board), "--what-if", str(tmp_path / "tries.toml")]) == 0
    assert "other rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Object missing required field `try`"),
        ("[[try]]\nname = 'a'\n[[try]]\nname = 'a'", "a name of its own"),
        ("[[try]]\nname = 'a'\nspeed = 3", "unknown field `speed`"),
        ("[[try]]\nname = 'a'\nhyper = { rat = 1.0 }", "hyper-parameter rat"),
        ("[[try]]\nname = 'a'\nguard = { rat = 1.0 }", "a guard has no rat"),
        ("[[try]]\nname = 'a'\nguard = { window = 1.5 }", "guard: Expected `int`, got `float` - at `$.window`"),
        ("[[try]]\nname = 'a'\nbundle = 'none.ecl'", "no bundle none.ecl"),
        ("name", "tries.toml"),
    ],
)
def test_what_ifs_that_cannot_be_are_refused(
    looped: Path, tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tries.toml").write_text(text)
    run(looped, tmp_path / "board", SYNC, noise(9, 1))
    assert main(["replay", str(tmp_path / "board"), "--what-if", str(tmp_path / "tries.toml")]) in (1, 2)
    assert says in capsys.readouterr().err
