"""Deployments interrupted at random, and how long answers pause when bundles switch.

It runs `tests/deploy` with EDGECL_SOAK=1, and tells what that found.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import results

TESTS: Final = Path(__file__).parent.parent / "tests" / "deploy"
STATES: Final = (
    "", "RECEIVE", "VERIFY", "STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "COMMIT", "ROLLBACK", "CLEAN", "END",
)  # fmt: skip
REPEATS: Final = 5
"""Switches that are timed."""


def run() -> dict[str, Any]:
    """Everything: what became of each deployment, and the pauses of several switches."""
    with tempfile.TemporaryDirectory() as folder:
        tally, gaps = Path(folder) / "tally", Path(folder) / "gaps"
        pauses = []
        for _ in range(REPEATS):
            _pytest("test_continuity.py", EDGECL_GAPS=str(gaps))
            pauses.append(msgspec.json.decode(gaps.read_bytes()))
        _pytest("test_interruptions.py", EDGECL_SOAK="1", EDGECL_TALLY=str(tally))
        return {"pauses": pauses, "tally": msgspec.json.decode(tally.read_bytes())}


def _pytest(name: str, **more: str) -> None:
    subprocess.run([sys.executable, "-m", "pytest", "-q", str(TESTS / name)], env=os.environ | more, check=True)


def render(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    tally, pauses = found["tally"], found["pauses"]
    victims = sorted({one["victim"] for one in tally if one["victim"]})
    counts = Counter((one["state"], one["victim"]) for one in tally)
    rows = [
        [state or "not begun", *(str(counts[state, victim]) for victim in victims), str(counts[state, ""])]
        for state in STATES
        if any(counts[state, victim] for victim in ("", *victims))
    ]
    ends = Counter(one["outcome"] for one in tally)
    forced = sum(one["signal"] == "SIGKILL" for one in tally)
    wrong = [one for one in tally if one["wrong"]]
    switch = sorted(one["switch_ms"] for one in pauses)
    trial = max(one["longest_during_trial_ms"] for one in pauses)
    return [
        "Each deployment, over a local link to a board whose service learns all the time, is interrupted once, at a "
        "time drawn from 0 to 1.1 times what it takes undisturbed: the agent, the deployer or the service gets SIGKILL "
        f"({forced} times) or SIGTERM. The store is looked at before anything is started again, and at the end.",
        results.table(["state, when it was interrupted", *victims, "nothing left to interrupt"], rows),
        results.table(["outcome", "deployments"], [[name, str(count)] for name, count in ends.most_common()]),
        f"Of {len(tally)} boards, {len(wrong)} were in any other condition than the old bundle or the new one, whole "
        f"and answering, and {sum('updates are learned' in str(one['wrong']) for one in tally)} had lost updates that "
        "had been written.",
        "## Answers\n\nA service gets a sample every 10 ms while a bundle is deployed.",
        results.table(
            ["", "ms"],
            [
                ["between two answers, median", f"{pauses[0]['usual_ms']:.1f}"],
                ["longest while the new bundle was on trial", f"{trial:.0f}"],
                [f"around the switch, median of {len(pauses)}", f"{switch[len(switch) // 2]:.0f}"],
                ["around the switch, longest", f"{switch[-1]:.0f}"],
            ],
        ),
    ]
