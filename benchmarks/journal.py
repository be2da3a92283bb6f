"""What the journal costs: microseconds and bytes a record, and resident memory.

`python benchmarks/journal.py [FOLDER [BUNDLE]]`. 20,000 records, one Update to fifteen Predictions, synced every 150,
as a loop at 30 samples a second does; FOLDER should lie on the medium in question. With a BUNDLE whose samples are
images, also what share of its loop the journal is, in CPU time of all threads together.
"""

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy  # noqa: F401  # loaded on the board anyway

if TYPE_CHECKING:
    from edgecl.journal import Prediction, Update

RECORDS = 20_000
SYNC_EVERY = 150
SAMPLES = 2_000
ANSWERS = 1_500


def resident_mb() -> float:
    """Resident memory of this process that is not shared."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def written_bytes() -> int:
    """What this process has caused to be written to the medium."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def main(folder: str | None, bundle: str | None) -> None:
    before_mb = resident_mb()
    from edgecl import journal

    loaded_mb = resident_mb()

    class Clock:
        def monotonic_ns(self) -> int:
            return time.monotonic_ns()

        def wall_ns(self) -> int:
            return time.time_ns()

        def quality(self) -> journal.Stamp.Quality.ValueType:
            return journal.Stamp.SYNCHRONISED

    chance = random.Random(1)
    payload, append_s, sync_s, start_bytes = 0, 0.0, 0.0, written_bytes()
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        out = journal.Journal(Path(directory), boot="b" * 32, clock=Clock())
        for n in range(RECORDS):
            record = update(chance, n) if n % 16 == 15 else prediction(chance, n)
            started = time.perf_counter()
            out.append(record)
            append_s += time.perf_counter() - started
            payload += record.ByteSize()
            if n % SYNC_EVERY == SYNC_EVERY - 1:
                started = time.perf_counter()
                out.sync()
                sync_s += time.perf_counter() - started
        used_mb = resident_mb()
        out.close()
        to_medium = written_bytes() - start_bytes
        size = sum(path.stat().st_size for path in Path(directory).iterdir())
        started = time.perf_counter()
        count = sum(1 for _ in journal.read(Path(directory)))
        read_s = time.perf_counter() - started
    print(f"append   {append_s / RECORDS * 1e6:.2f} us a record")
    print(f"sync     {sync_s / RECORDS * SYNC_EVERY * 1e6:.0f} us for {SYNC_EVERY} records")
    print(f"read     {read_s / count * 1e6:.2f} us a record")
    print(f"payload  {payload / RECORDS:.0f} bytes a record")
    print(f"file     {size / payload:.2f} bytes a byte of payload")
    print(f"medium   {to_medium / payload:.2f} bytes a byte of payload")
    print(f"import   {loaded_mb - before_mb:.1f} MB resident")
    print(f"use      {used_mb - loaded_mb:.1f} MB resident")
    samples(folder)
    if bundle:
        loop(folder, bundle, (append_s + sync_s) / RECORDS)


def samples(folder: str | None) -> None:
    """A ring of images, 32 x 32 in colour, of which noise cannot be made smaller."""
    import numpy as np

    from edgecl.boot import boot_id
    from edgecl.clock import SystemClock
    from edgecl.samples import Samples

    images = np.random.default_rng(1).integers(0, 256, (SAMPLES, 32, 32, 3), dtype=np.uint8)
    start_bytes, started = written_bytes(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        with Samples(Path(directory), quota_bytes=64 << 20, boot=boot_id(), clock=SystemClock()) as ring:
            for n, x in enumerate(images):
                ring.keep(n, n, x, None, 0)
        took_s = time.perf_counter() - started
        to_medium = written_bytes() - start_bytes
    print(
        f"sample   {took_s / SAMPLES * 1e6:.0f} us, {to_medium / images.nbytes:.2f} bytes to the medium a byte of image"
    )


def loop(folder: str | None, bundle: str, journal_s: float) -> None:
    """A loop that learns behind its answers, as fast as it can."""
    import numpy as np

    from edgecl import journal
    from edgecl.bundle import open_bundle
    from edgecl.loop import Loop
    from edgecl.settings import Settings

    with open_bundle(Path(bundle)) as opened:
        shape, name = opened.manifest.input.shape, opened.manifest.learner.name
    images = np.random.default_rng(2).integers(0, 256, (100, *shape), dtype=np.uint8)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        state = Path(directory)
        with Loop(Path(bundle), state, Settings(wait=True, budget_bytes=0)) as opened_loop:
            for x in images:
                opened_loop.predict(x)
            started, cpu = time.perf_counter(), time.process_time()
            for n in range(ANSWERS):
                opened_loop.predict(images[n % 100])
            took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
        records = sum(1 for _ in journal.read(state / "journal")) / (ANSWERS + 100)
    wall_us, cpu_us = (seconds / ANSWERS * 1e6 for seconds in (took_s, cpu_s))
    print(f"loop     {name}: {wall_us:.0f} us an answer, {cpu_us:.0f} us of CPU with learning")
    share = records * journal_s / (cpu_s / ANSWERS)
    print(f"share    {share:.1%} of that is the journal, {records:.2f} records an answer")


def prediction(chance: random.Random, n: int) -> "Prediction":
    from edgecl.journal import Prediction

    return Prediction(
        seq=n,
        label=chance.randrange(10),
        confidence=chance.random(),
        entropy=chance.random(),
        step=n // 16,
        position=n,
        y=chance.randrange(10),
        latency_ns=1_500_000 + chance.randrange(100_000),
    )


def update(chance: random.Random, n: int) -> "Update":
    from edgecl.journal import Update

    return Update(
        kind=Update.ADAPT,
        step=n // 16,
        first_seq=n - 15,
        last_seq=n,
        report=[chance.random() for _ in range(4)],
        digest=chance.randbytes(32).hex(),
        committed=True,
        duration_ns=25_000_000 + chance.randrange(1_000_000),
    )


if __name__ == "__main__":
    main(*[*sys.argv[1:], None, None][:2])
