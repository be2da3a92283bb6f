"""The third part of the demo: journals are pulled as from boards, one is run again bit by bit, and all become a page.

Each learner's run was a board's, in its state directory; here each is a device of a fleet.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from demo.novel import Edgecl


def afterwards(states: dict[str, Path], replayed: str, out: Path, edgecl: Edgecl) -> str:
    """Pull, verify and show what the state directories have; `replayed` kept its samples. What it gave, for people.

    Writes `fleet.toml`, `pulled` and `report.html` into `out`.
    """
    fleet, pulled, page = out / "fleet.toml", out / "pulled", out / "report.html"
    fleet.write_text("\n".join(f'[device.{name}]\naddress = "local:{path}"\n' for name, path in states.items()))
    edgecl("pull", *states, "--fleet", fleet, "--into", pulled, "--keep")
    verdict = _verdict(edgecl("replay", pulled / replayed, "--verify", "--bundles", out, "--json"))
    edgecl("ingest", pulled)
    edgecl("report", pulled, "--bundles", out, "-o", page)
    return (
        f"{replayed}, run again from its journal: {verdict['outcome']}, "
        f"{verdict['answers']} answers and {verdict['updates']} updates.\n"
        f"What each met and learned, and the samples behind it: {page}"
    )


def _verdict(lines: Sequence[bytes]) -> dict[str, object]:
    events = [json.loads(line) for line in lines]
    found: dict[str, object] = next(event for event in events if "outcome" in event)
    return found
