"""The emulated 64-bit Arm board beside this machine: what each method computes there, and what a run learns there.

It needs the wheel of `make wheel-arm64`, and what `make board` needs.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cases
import data
import msgspec
import numpy as np
import results

from edgecl.bundle import open_bundle
from edgecl.selftest import Result
from export.build import build
from tests.board import compare, machine, remote

BATCH: Final = 16
SAMPLES: Final = 32
"""Of `gaussian_noise`: two updates."""
LEARNER: Final = "ecotta"

RESIDENT: Final = "print(int(open('/proc/self/statm').read().split()[1]) * 4096)"
"""Bytes of a Python that has loaded nothing."""


class Summary(msgspec.Struct, frozen=True):
    """Of a run, as `edgecl run --json` tells it."""

    updates: int
    answer_ms: float
    update_ms: float
    resident_bytes: int
    peak_bytes: int


class Ran(msgspec.Struct, frozen=True):
    """The same stream there and here."""

    there: Summary
    here: Summary
    distance: compare.Distance


class Precision(msgspec.Struct, frozen=True):
    """Everything of one bundle."""

    precision: str
    methods: list[Result]
    """On the board; expected is what this machine computed when it built the bundle."""
    run: Ran


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    board: str
    python_bytes: int
    """Resident memory of an empty Python on the board, emulator included."""
    python_here_bytes: int
    precisions: list[Precision]


def run() -> Found:
    """Start the board where it is not running, measure, and leave it as it was."""
    was_running = machine.running()
    machine.build()
    machine.start()
    try:
        remote.install()
        return Found(
            board=_board(),
            python_bytes=int(remote.ssh(f'python3 -c "{RESIDENT}"')),
            python_here_bytes=int(subprocess.check_output([sys.executable, "-c", RESIDENT])),
            precisions=[_precision(precision) for precision in cases.PRECISIONS],
        )
    finally:
        if not was_running:
            machine.stop()


def _board() -> str:
    """What it is, in a line."""
    code = "import edgecl, numpy, platform; from edgecl import _runtime as r; print(platform.python_version(), "
    code += "edgecl.__version__, r.EXECUTORCH_VERSION, numpy.__version__)"
    python, edgecl, executorch, numpy = remote.ssh(f'{remote.VENV}/python -c "{code}"').split()
    debian, arch = remote.ssh("cat /etc/debian_version; uname -m").split()
    emulator = subprocess.check_output([machine.EMULATOR, "--version"], text=True).split("(")[0].replace(" version", "")
    software = f"Python {python}, edgecl {edgecl}, executorch {executorch}, numpy {numpy}"
    return f"Debian {debian} {arch}, {machine.CPU} by {emulator.strip()}. {software}"


def _precision(precision: str) -> Precision:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, stream, name = folder / f"bench-{precision}.ecl", folder / "bench.npz", f"bench-{precision}.ecl"
        build(cases.project("resnet20", LEARNER, precision, batch=BATCH, epochs=1), bundle).bundle.close()
        np.savez(stream, x=data.corrupted("gaussian_noise")[0][:SAMPLES])
        remote.ssh("rm -rf bench-state")
        for path in (bundle, stream):
            remote.put(path, path.name)
        methods = remote.verified(name)
        words = ("run", "--sync", "--json", "--memory", "0", "--state")
        there = _summary(remote.edgecl(*words, "bench-state", name, "--source", "npz:bench.npz"))
        command = [sys.executable, "-m", "edgecl", *words, str(folder / "here"), str(bundle)]
        here = _summary(subprocess.check_output([*command, "--source", f"npz:{stream}"], text=True))
        remote.get("bench-state", folder / "there")
        with open_bundle(bundle) as opened:
            distance = compare.distance(opened, folder / "here", folder / "there")
        return Precision(precision, methods, Ran(there, here, distance))


def _lines(out: str) -> list[str]:
    return out.splitlines()


def _summary(out: str) -> Summary:
    return msgspec.json.decode(_lines(out)[-1], type=Summary)


def render(found: Found) -> Sequence[str]:
    """Sections of Markdown."""
    methods = [
        (f"{each.precision} {result.method}", f"{result.distance:.1e}", result.output, f"{result.ms / 1e3:.2f}")
        for each in found.precisions
        for result in each.methods
    ]
    runs = []
    for each in found.precisions:
        ran = each.run
        far = (f"{number:.1e}" for number in (ran.distance.answers, ran.distance.reports, ran.distance.state))
        times = f"{ran.there.answer_ms / 1e3:.2f}", f"{ran.there.update_ms / 1e3:.1f}"
        memory = (f"{used / 1e6:.0f}" for used in (ran.there.peak_bytes, ran.here.peak_bytes))
        runs.append((each.precision, str(ran.there.updates), *far, *times, *memory))
    empty = f"{found.python_bytes / 1e6:.0f} MB there and {found.python_here_bytes / 1e6:.0f} MB here"
    return [
        f"The board: {found.board}.",
        "**The processor is emulated: the times and the memory say nothing of real hardware.** What this page shows is "
        "that the programs compute on 64-bit Arm what they computed where they were built.",
        f"## Methods: ResNet-20, `{LEARNER}`, on the bundle's own vectors",
        "`edgecl verify` on the board. The distance is relative to the largest number of the output, for theta and "
        "slots to the largest change of the step. `of` is the output that is furthest off. Seconds are medians.",
        results.table(("method", "distance", "of", "s a call"), methods),
        f"## A run: {SAMPLES} images with noise, batches of {BATCH}",
        "There and here, compared record by record: the same classes, the same decisions. `answers` is the largest "
        "difference of a confidence or an entropy, `reports` of a number that an update reports, `state` of theta or "
        "slots in the end, relative to their change. Seconds are medians. Memory is the most that was resident; the "
        f"emulator is part of it there: a Python that has loaded nothing takes {empty}.",
        results.table(
            ("", "updates", "answers", "reports", "state", "s an answer", "s an update", "MB there", "MB here"), runs
        ),
    ]
