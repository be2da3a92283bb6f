"""A simulated fleet of a thousand boards, from nothing to the report: time and memory of every command.

ResNet-20 on CIFAR-10, with the learner norm, 300 samples each over four days, labels for one in fifty, and a power cut
for every second board. Two workers where a command has workers.

`python benchmarks/fleet.py [BOARDS]` makes a smaller one, and writes nothing down.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cases
import data
import msgspec
import numpy as np
import results

from export.build import build

DEVICES: Final = 1000
SAMPLES: Final = 300
REPLAYED: Final = 50
LEARNER: Final = "norm"
BATCH: Final = 16
MOST_REPORT_MB: Final = 10.0

WATCH: Final = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
sys.exit(code)
"""
"""A small process that starts a command: its memory, which a child begins with, does not count."""

ROOT: Final = Path(__file__).parents[1]


class Step(msgspec.Struct, frozen=True):
    """One command."""

    what: str
    seconds: float
    cpu_s: float
    """Of all of its processes."""
    peak_mb: float
    """Resident, of the largest of its processes."""
    said: str
    """Its last line."""


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    devices: int
    steps: list[Step]
    store_mb: float
    tables_mb: float
    report_mb: float


def run(say: Callable[[str], None], devices: int = DEVICES) -> Found:
    """About half an hour on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, y = data.clean()
        np.savez(folder / "cifar10.npz", x=x, y=y)
        bundle, store, page = folder / "fleet.ecl", folder / "fleet", folder / "report.html"
        build(cases.project("resnet20", LEARNER, "float", batch=BATCH, epochs=0, tapped=True), bundle).bundle.close()
        some = [str(store / f"sim-{number:04}") for number in range(1, min(devices, REPLAYED) + 1)]
        words: list[tuple[str, Sequence[str]]] = [
            ("simulate", ("simulate", str(bundle), "--source", f"npz:{folder / 'cifar10.npz'}", "--out", str(store),
                          "--devices", str(devices), "--samples", str(SAMPLES), "--labels", "0.02",
                          "--power-cuts", "0.5", "--workers", "2")),
            ("ingest", ("ingest", str(store))),
            ("query", ("query", "SELECT device, avg((label = y)::INT) FROM predictions GROUP BY ALL", "--store",
                       str(store))),
            (f"replay {len(some)} boards", ("replay", *some, "--bundles", str(bundle), "--workers", "2")),
            ("evaluate the fleet", ("evaluate", str(store), "--bundles", str(bundle))),
            ("evaluate a board", ("evaluate", str(store), "--device", "sim-0001", "--bundles", str(bundle),
                                  "--phases", str(store / "phases.csv"))),
            ("report", ("report", str(store), "-o", str(page), "--bundles", str(bundle))),
        ]  # fmt: skip
        steps = []
        for what, command in words:
            steps.append(_step(what, command, folder / "cache"))
            say(f"{what}: {steps[-1].seconds:.1f} s, {steps[-1].peak_mb:.0f} MB: {steps[-1].said}")
        sizes = [_mb(store, pattern) for pattern in ("sim-*/*/*.mcap", ".tables/**/*.parquet")]
        return Found(devices, steps, *sizes, page.stat().st_size / 1e6)


def _step(what: str, command: Sequence[str], cache: Path) -> Step:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "XDG_CACHE_HOME": str(cache),
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCH, sys.executable, "-m", "edgecl", *command], stdout=subprocess.PIPE, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}")
    *said, told = done.stdout.decode().strip().splitlines()
    seconds, cpu_s, peak_mb = msgspec.json.decode(told, type=tuple[float, float, float])
    return Step(what, seconds, cpu_s, peak_mb, said[-1] if said else "")


def _mb(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern)) / 1e6


def render(found: Found) -> list[str]:
    """As Markdown."""
    rows = [[one.what, f"{one.seconds:.1f}", f"{one.cpu_s:.1f}", f"{one.peak_mb:.0f}"] for one in found.steps]
    report = results.verdict(found.report_mb < MOST_REPORT_MB)
    return [
        " ".join(str(__doc__).partition("`python")[0].split()),
        results.table(["", "seconds", "CPU seconds", "peak MB"], rows),
        "CPU seconds are those of all processes of a command; the memory is that of its largest. "
        f"{found.steps[0].said.partition(': ')[2]}.",
        f"{found.devices} boards have {found.store_mb:.0f} MB of segments, and {found.tables_mb:.0f} MB of tables; the "
        f"report has {found.report_mb:.1f} MB (less than {MOST_REPORT_MB:.0f}: {report}).",
    ]


def _main(arguments: list[str]) -> Any:
    found = run(print, int(arguments[0]) if arguments else DEVICES)
    print("\n\n".join(render(found)))


if __name__ == "__main__":
    _main(sys.argv[1:])
