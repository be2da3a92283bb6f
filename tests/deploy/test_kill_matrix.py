"""A deployer that is killed anywhere, once or always, comes to the end that it should, by the states that it should."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from edgecl.deployer import ATTEMPTS
from edgecl.deployments import BEFORE_SWITCH
from tests.conftest import MakeBundle
from tests.deploy.forks import version_two
from tests.deploy.killed_deployments import AFTER, Cell

SCRIPT = Path(__file__).with_name("killed_deployments.py")
PATH = ("VERIFY", "STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "COMMIT", "CLEAN", "END")
BACK = ("VERIFY", "STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "ROLLBACK", "CLEAN", "END")

EVERY = 1 if os.environ.get("EDGECL_SOAK") else 0
"""Steps between two that are tried; 0 for three in each state."""


def expected(cell: Cell) -> Cell:
    """What a cell is to come to; the first state was entered before the trace begins."""
    path, reason = (BACK if cell.state == "ROLLBACK" else PATH), ""
    outcome = "rolled back" if cell.state == "ROLLBACK" else "committed"
    if cell.state == "ROLLBACK":
        reason = f"PROBATION was begun {ATTEMPTS} times and never came to its end"
    elif cell.again:
        reason = f"{cell.state} was begun {ATTEMPTS} times and never came to its end"
    if cell.again and cell.state not in ("ROLLBACK", "CLEAN"):
        before = PATH[: PATH.index(cell.state) + 1]
        path = (*before, *(("CLEAN", "END") if cell.state in BEFORE_SWITCH else ("ROLLBACK", "CLEAN", "END")))
        outcome = "refused" if cell.state in BEFORE_SWITCH else "rolled back"
    attempts = tuple(range(1, ATTEMPTS + 1)) if cell.again else (1,)
    return msgspec.structs.replace(
        cell,
        kills=len(attempts),
        attempts=attempts,
        trace=path[1:],
        outcome=outcome,
        reason=reason,
        current="new" if outcome == "committed" else "old",
        learned="kept",
        answered=AFTER,
        step=AFTER // 4,
        wrong="",
    )


def test_a_deployment_that_is_killed_comes_to_the_end_that_it_should(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    second = version_two(make_bundle, tmp_path / "two.ecl")
    command = [sys.executable, "-P", str(SCRIPT), str(looped), str(second), str(tmp_path), str(EVERY)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [msgspec.json.decode(line, type=Cell) for line in done.stdout.splitlines()]
    wrong = [f"{cell}\n  is not\n{expected(cell)}" for cell in found if cell != expected(cell)]
    assert not wrong, "\n".join(wrong)
    assert {cell.state for cell in found} == {*PATH[:-1], "ROLLBACK"}
    assert {(cell.where.isdecimal() or cell.where, cell.again) for cell in found} == {
        (where, again) for where in ("before", True, "after") for again in (False, True)
    }
    print(f"{len(found)} cells, {sum(cell.kills for cell in found)} kills")
