"""Deployments interrupted at random, and how long answers pause when bundles switch.

It runs `tests/deploy` with more of them, in parts. What a part found is kept in the user's cache for as long as the
sources are the same, so that a run that was ended goes on.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import results

ROOT: Final = Path(__file__).parent.parent
TESTS: Final = ROOT / "tests" / "deploy"
SOURCES: Final = ("edgecl/**/*.py", "firmware_host/**/*.py", "tests/deploy/interrupted.py")
STATES: Final = (
    "", "RECEIVE", "VERIFY", "STAGE", "TRIAL", "QUIESCE", "SWITCH", "PROBATION", "COMMIT", "ROLLBACK", "CLEAN", "END",
)  # fmt: skip
REPEATS: Final = 5
"""Switches that are timed."""

PARTS: Final = {"local": (10, 50), "ssh": (2, 25)}
"""Of each link: how many parts, and how many interrupted deployments each has."""

Say = Callable[[str], None]


def run(say: Say) -> dict[str, Any]:
    """Everything: what became of each deployment, and the pauses of several switches."""
    return {
        "pauses": [_told("test_continuity.py", "EDGECL_GAPS") for _ in range(REPEATS)],
        "tally": {way: [one for number in range(parts) for one in part(way, number, say)]
                  for way, (parts, _) in PARTS.items()},
    }  # fmt: skip


def part(way: str, number: int, say: Say) -> list[dict[str, Any]]:
    """Some deployments, each with what became of it."""
    name = f"test_interruptions.py::test_no_interruption_harms_a_board[{way}]"
    count = PARTS[way][1]
    found: list[dict[str, Any]] = _kept(
        f"{way}{number}-{count}", name, "EDGECL_TALLY", EDGECL_INTERRUPTIONS=str(count), EDGECL_SEED=str(100 + number)
    )
    say(f"{way} {number}: {len(found)} deployments, {sum(bool(one['wrong']) for one in found)} wrong")
    interrupted = sum(not one["late"] for one in found)
    if interrupted != count:
        raise SystemExit(f"interruptions: {way} {number}: {interrupted} of {count} deployments came to an end")
    return found


def _kept(key: str, test: str, where: str, **more: str) -> Any:
    """What a test writes into the file that a variable names; of an earlier run, if it is the same."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecl-benchmarks" / "interruptions"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{_digest()}-{key}.json"
    if not kept.exists():
        kept.write_bytes(msgspec.json.encode(_told(test, where, **more)))
    return msgspec.json.decode(kept.read_bytes())


def _told(test: str, where: str, **more: str) -> Any:
    with tempfile.TemporaryDirectory() as name:
        told = Path(name) / "told"
        command = [sys.executable, "-m", "pytest", "-q", str(TESTS / test)]
        done = subprocess.run(command, env=os.environ | more | {where: str(told)}, cwd=ROOT)
        if not told.exists():
            raise SystemExit(f"interruptions: {test}: exit code {done.returncode}")
        return msgspec.json.decode(told.read_bytes())


def _digest() -> str:
    """Of the sources."""
    paths = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:12]


def render(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    tally, pauses = found["tally"], found["pauses"]
    switch = sorted(one["switch_ms"] for one in pauses)
    trial = max(one["longest_during_trial_ms"] for one in pauses)
    return [
        "A host deploys to boards whose services learn all the time. Each deployment is interrupted once, at a time "
        "drawn from 0 to 1.1 times what it takes undisturbed, by SIGKILL in 85 of 100 cases and by SIGTERM in the "
        "others: the agent, the deployer or the service; over SSH also the host's `ssh` or the board's session of "
        "sshd, or the line falls silent while the connection stays. The service is started again as a service manager "
        "does, and the host deploys again. Each bundle has 4 MB that are not there yet. The store is looked at right "
        "after the interruption, before anything is started again, and at the end.",
        *_link("Over a local link", tally["local"]),
        *_link("Over a real sshd on loopback", tally["ssh"]),
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


def _link(title: str, tally: Sequence[dict[str, Any]]) -> list[str]:
    interrupted = [one for one in tally if not one["late"]]
    victims = sorted({one["victim"] for one in interrupted if one["victim"]})
    counts = Counter((one["state"], one["victim"]) for one in interrupted)
    rows = [
        [state or "not begun", *(str(counts[state, victim]) for victim in victims), str(counts[state, ""])]
        for state in STATES
        if any(counts[state, victim] for victim in ("", *victims))
    ]
    ends = Counter(one["outcome"] or "none" for one in interrupted)
    wrong = [one for one in tally if one["wrong"]]
    lost = sum("updates are learned" in str(one["wrong"]) for one in tally)
    return [
        f"## {title}: {len(interrupted)} deployments",
        f"**{len(wrong)} boards were in any other condition than the old bundle or the new one, whole and answering, "
        f"and {lost} had lost updates that had been written.**",
        results.table(["state, when it was interrupted", *victims, "nothing left to interrupt"], rows),
        results.table(["outcome", "deployments"], [[name, str(count)] for name, count in ends.most_common()]),
        f"Another {len(tally) - len(interrupted)} had come to their end before their interruption came; they are not "
        "in the tables, and were looked at as well.",
        *(
            f"* {one['state'] or 'not begun'}, {one['victim']} {one['signal']}: {'; '.join(one['wrong'])}"
            for one in wrong
        ),
    ]
