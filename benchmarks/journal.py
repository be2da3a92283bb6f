"""What the journal costs: microseconds and bytes a record, and resident memory. `python benchmarks/journal.py [FOLDER]`

20,000 records, one Update to fifteen Predictions, synced every 50; FOLDER should lie on the medium in question.
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
SYNC_EVERY = 50


def resident_mb() -> float:
    """Resident memory of this process that is not shared."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def written_bytes() -> int:
    """What this process has caused to be written to the medium."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def main(folder: str | None) -> None:
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
    main(sys.argv[1] if len(sys.argv) > 1 else None)
