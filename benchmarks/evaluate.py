"""Evaluating a host store: time and memory for one device of many answers, and for a whole fleet at a glance."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import ingest
import msgspec

DEVICES: Final = 10

CHILD: Final = """
import json, resource, sys, time
from pathlib import Path
from firmware_host.evaluate.device import evaluate
from firmware_host.evaluate.fleet import evaluate_fleet
from firmware_host.host_store import HostStore
from firmware_host.replay.bundles import Bundles
store = HostStore(Path(sys.argv[1]))
started = time.perf_counter(), time.process_time()
if sys.argv[2] == "device":
    answers = evaluate(store, "cam-000", Bundles([], []))[0].answers
else:
    answers = sum(one.answers for one in evaluate_fleet(store).devices)
ended = time.perf_counter(), time.process_time()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"answers": answers, "wall_s": ended[0] - started[0], "cpu_s": ended[1] - started[1], "peak": peak}))
"""


def evaluate(store: Path, what: str) -> dict[str, Any]:
    """One evaluation, in a process of its own."""
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(store), what], stdout=subprocess.PIPE, check=True, env=environment
    )
    found: dict[str, Any] = msgspec.json.decode(done.stdout)
    return found


def run() -> dict[str, Any]:
    """Both, on the store that the benchmark of ingest makes."""
    with tempfile.TemporaryDirectory(dir=".") as place:
        store = Path(place) / "store"
        ingest.write(store, "cam-000", "b" * 32, 1)
        ingest.spread(store, DEVICES)
        ingest.ingest(store)
        return {what: evaluate(store, what) for what in ("device", "fleet")}


def render(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    rows = ["| | answers | wall | CPU | peak memory |", "| --- | ---: | ---: | ---: | ---: |"]
    for what, told in (("one device, all figures", "device"), (f"{DEVICES} devices, a line each", "fleet")):
        one = found[told]
        times = f"{one['wall_s']:.2f} s | {one['cpu_s']:.2f} s"
        rows.append(f"| {what} | {one['answers']} | {times} | {one['peak'] / 1e6:.0f} MB |")
    return ["Without the answers of the source model, which cost an inference each.", "\n".join(rows)]
