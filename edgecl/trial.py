"""A trial of a bundle on the board, in a process of its own: the board's code, its memory limit, its own samples.

`python -m edgecl.trial STORE ID SCRATCH LEARNED BUDGET PARENT NEWEST` opens a bundle with what it would go on from,
answers the newest of the board's samples, none after NEWEST (its canaries, where none are kept), learns from a batch so
that memory is told whole, and prints the JSON of `Figures`. What it writes lies in SCRATCH. An error is one line on
stderr. It ends with the process PARENT.
"""

import ctypes
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from edgecl import journal, resident, samples, service_file
from edgecl.bundle import read_canaries
from edgecl.contents import CANARIES
from edgecl.deployments import Figures
from edgecl.engine_choice import AUTO, choose
from edgecl.errors import BundleError, EdgeclError, JournalError
from edgecl.loop import Loop
from edgecl.preprocess import Preprocess
from edgecl.settings import Settings
from edgecl.store import Store

SAMPLES: Final = 200
"""Of the board's own, at most."""

WARM: Final = 10
"""First answers, which no latency is taken from: they make room in memory."""

LIMIT_FACTOR: Final = 1.25
LIMIT_SLACK_BYTES: Final = 128 << 20
"""What a trial may allocate beyond its budget before the kernel refuses it more: the budget itself is compared with
what became resident, and a trial that cannot allocate would tell less."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

_ANY: Final = (1 << 64) - 1

TIMEOUT_S: Final = 900.0
"""A trial that takes longer has failed."""


def run(
    store: Store, identity: str, scratch: Path, learned: Path, budget_bytes: int, *, newest: int | None = None
) -> Figures:
    """Try a bundle; the trial ends with the thread that called. `newest`: answer no samples after this one, so that
    another bundle is given the same while the board keeps more. Raises BundleError: it failed, or came to no end.
    """
    last = _ANY if newest is None else newest
    given = map(str, (store.directory, identity, scratch, learned, budget_bytes, os.getpid(), last))
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "edgecl.trial", *given],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"trial: no end after {TIMEOUT_S:.0f} s; build a smaller bundle") from None
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"its process ended with {child.returncode}"]
        raise BundleError(f"trial: {said[-1]}")
    return msgspec.json.decode(child.stdout, type=Figures)


def _newest(directory: Path, last: int) -> list[journal.Sample]:
    """The newest samples that the board keeps, none after the last one."""
    kept: deque[journal.Sample] = deque(maxlen=SAMPLES)
    if directory.is_dir():
        for record in journal.read(directory):
            if isinstance(record, journal.Sample) and record.seq <= last:
                kept.append(record)
    return list(kept)


def _inputs(loop: Loop, found: list[journal.Sample], own: "hashlib._Hash") -> Iterator[tuple[Any, int | None]]:
    """What the bundle can answer of it, with its label, and into the digest; canaries where that is nothing."""
    preprocess, some = Preprocess(loop.manifest.input), False
    for record in found:
        try:
            x = preprocess.check(samples.array(record))
        except EdgeclError:
            continue  # another bundle took other samples
        some = True
        own.update(f"{record.seq} {record.dtype} {record.shape} ".encode() + record.x)
        yield x, record.y if record.HasField("y") else None
    if not some:
        canaries = read_canaries(loop.bundle)
        for x, y in zip(canaries.x[:SAMPLES], canaries.y[:SAMPLES], strict=True):
            yield x, int(y)


def _try(store: Store, identity: str, scratch: Path, learned: Path, last: int) -> Figures:
    latencies: list[int] = []
    right: list[bool] = []

    def note(record: journal.Record) -> None:
        if isinstance(record, journal.Prediction):
            latencies.append(record.latency_ns)
            if record.HasField("y"):
                right.append(record.label == record.y)

    found = _newest(store.directory / "samples", last)
    own, nothing = hashlib.sha256(), hashlib.sha256().digest()
    file = store.directory / service_file.FILE
    wanted = service_file.read(store.directory).engine if file.exists() else AUTO
    engine = choose(wanted, store.manifest(identity))
    settings = Settings(sync=True, checkpoint_every=1 << 30, budget_bytes=0, engine=engine)
    with Loop(store.place(identity), scratch, settings, source=None, learned=learned, on_record=note) as loop:
        loop.operations.held = True
        seen = [x for x, y in _inputs(loop, found, own) if loop.predict(x, y=y)]
        canary_accuracy = loop.canary_accuracy()
        figures = latencies[WARM:] or latencies
        is_own = own.digest() != nothing
        answered, accuracy = len(latencies), sum(right) / len(right) if right and is_own else None
        latency_ms = float(np.percentile(figures, 95)) / 1e6 if figures else 0.0
        loop.operations.held = False
        if loop.manifest.has("adapt") and seen:
            for place in range(2 * loop.manifest.method("adapt").batch):
                loop.predict(seen[place % len(seen)])
        return Figures(
            samples=answered,
            canary_accuracy=canary_accuracy,
            accuracy=accuracy,
            latency_ms=latency_ms,
            resident_bytes=resident.peak_resident_bytes(),
            inputs=own.hexdigest() if is_own else "",
            canaries=next((file.sha256 for file in loop.manifest.files if file.path == CANARIES), ""),
            newest=found[-1].seq if found else None,
        )


def _main(arguments: list[str]) -> int:
    store, identity, scratch, learned, budget, parent, last = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return 1  # it was gone before
    if int(budget):
        limit = int(int(budget) * LIMIT_FACTOR) + LIMIT_SLACK_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        figures = _try(Store(Path(store)), identity, Path(scratch), Path(learned), int(last))
    except (EdgeclError, MemoryError, JournalError) as error:
        print(str(error) or "it may have no more memory", file=sys.stderr)
        return 1
    print(msgspec.json.encode(figures).decode())
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
