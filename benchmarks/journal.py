"""What the journal costs: time and bytes a record, its share of a loop, and what 30 images a second leave."""

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import cases
import msgspec
import numpy as np
import results

from edgecl import journal
from edgecl.boot import boot_id
from edgecl.bundle import open_bundle
from edgecl.clock import SystemClock
from edgecl.journal import Journal, Prediction, Update
from edgecl.loop import Loop
from edgecl.samples import Samples
from edgecl.settings import Settings
from export.build import build

RECORDS: Final = 20_000
SYNC_EVERY: Final = 150
"""Records: as a loop does at 30 samples a second."""
LEARNERS: Final = ("source", "norm", "tent")
ANSWERS: Final = 480
WARM: Final = 64
ROUNDS: Final = 5

FRAMES_S: Final = 30
SECONDS: Final = 120
"""Of such a stream, which is run as fast as it goes."""
SIDE: Final = 96
KEEP: Final = 64 << 20
HOUR: Final = 3600

SHARE: Final = 0.05
"""Of a loop's throughput, at most."""
BYTES: Final = 1.5
"""To the medium a byte of payload, at most."""


class Costs(msgspec.Struct, frozen=True):
    """Of records: one update to fifteen answers."""

    append_us: float
    sync_us: float
    """Of SYNC_EVERY records."""
    read_us: float
    payload_bytes: float
    """A record."""
    file_share: float
    """Bytes of the files a byte of payload."""
    medium_share: float
    """Bytes that the kernel wrote to the medium a byte of payload."""


class Share(msgspec.Struct, frozen=True):
    """Of one loop: seconds of CPU time an answer, with what is learned from it."""

    learner: str
    with_s: tuple[float, ...]
    without_s: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of the throughput that the journal costs."""
        return 1 - statistics.median(self.without_s) / statistics.median(self.with_s)


class Frames(msgspec.Struct, frozen=True):
    """What a stream of images left."""

    images: int
    image_bytes: int
    answers: int
    """In the journal."""
    audit_bytes: int
    sample_bytes: int
    kept: int
    dropped: int
    """Samples, as the journal tells."""


class Nothing(Journal):
    """A journal that writes nothing."""

    def append(self, record: journal.Record) -> None:
        pass

    def sync(self) -> None:
        pass


def run() -> dict[str, Any]:
    """All of it."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        place = Path(folder)
        shares, frames = [], None
        for learner in LEARNERS:
            path = place / f"{learner}.ecl"
            build(cases.project("resnet20", learner, "float", epochs=0), path).bundle.close()
            shares.append(share(learner, path, place))
        frames = stream(place)
        return {"costs": costs(place), "shares": shares, "frames": frames}


def written_bytes() -> int:
    """What this process has caused to be written to the medium."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def costs(place: Path) -> Costs:
    """Of records that are like those of a loop."""
    chance = random.Random(1)
    payload, append_s, sync_s, start_bytes = 0, 0.0, 0.0, written_bytes()
    folder = place / "journal"
    out = Journal(folder, boot="b" * 32, clock=SystemClock())
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
    out.close()
    to_medium = written_bytes() - start_bytes
    size = sum(path.stat().st_size for path in folder.iterdir())
    started = time.perf_counter()
    count = sum(1 for _ in journal.read(folder))
    read_s = time.perf_counter() - started
    return Costs(
        append_us=append_s / RECORDS * 1e6,
        sync_us=sync_s / RECORDS * SYNC_EVERY * 1e6,
        read_us=read_s / count * 1e6,
        payload_bytes=payload / RECORDS,
        file_share=size / payload,
        medium_share=to_medium / payload,
    )


def share(learner: str, bundle: Path, place: Path) -> Share:
    """With a journal and without one, in turn."""
    with open_bundle(bundle) as opened:
        shape = opened.manifest.input.shape
    images = np.random.default_rng(2).integers(0, 256, (WARM, *shape), dtype=np.uint8)
    found: dict[type[Journal], list[float]] = {Journal: [], Nothing: []}
    for number in range(ROUNDS):
        for kind, times in found.items():
            state = place / f"{learner}-{kind.__name__}-{number}"
            settings = Settings(sync=True, budget_bytes=0)
            vars(journal)["Journal"] = kind
            with Loop(bundle, state, settings) as loop:
                for x in images:
                    loop.predict(x)
                started = time.process_time()
                for n in range(ANSWERS):
                    loop.predict(images[n % WARM])
                times.append((time.process_time() - started) / ANSWERS)
    vars(journal)["Journal"] = Journal
    return Share(learner, tuple(found[Journal]), tuple(found[Nothing]))


def stream(place: Path) -> Frames:
    """Answers and their images through a journal and a ring of samples."""
    chance, noise = random.Random(3), np.random.default_rng(3)
    images = noise.integers(0, 256, (FRAMES_S, SIDE, SIDE, 3), dtype=np.uint8)
    audit, ring = place / "audit", place / "ring"
    with (
        Journal(audit, boot=boot_id(), clock=SystemClock()) as out,
        Samples(ring, quota_bytes=KEEP, boot=boot_id(), clock=SystemClock()) as samples,
    ):
        for n in range(FRAMES_S * SECONDS):
            out.append(prediction(chance, n))
            for gone in samples.keep(n, n, images[n % FRAMES_S], None, 0):
                out.append(gone)
            if n % 16 == 15:
                out.append(update(chance, n))
            if n % SYNC_EVERY == SYNC_EVERY - 1:
                out.sync()
    read = list(journal.read(audit))
    return Frames(
        images=FRAMES_S * SECONDS,
        image_bytes=images[0].nbytes,
        answers=sum(isinstance(record, Prediction) for record in read),
        audit_bytes=sum(path.stat().st_size for path in audit.iterdir()),
        sample_bytes=sum(path.stat().st_size for path in ring.iterdir()),
        kept=sum(1 for _ in journal.read(ring)),
        dropped=sum(record.records for record in read if isinstance(record, journal.Dropped)),
    )


def render(found: dict[str, Any]) -> list[str]:
    """As Markdown."""
    costs, shares, frames = found["costs"], found["shares"], found["frames"]
    most = max(one.share for one in shares)
    hours = Settings().journal_bytes / (frames.audit_bytes / SECONDS * HOUR)
    complete = frames.answers == frames.images and frames.kept + frames.dropped == frames.images
    return [
        results.table(
            ["", "wanted", "measured", ""],
            [
                ["share of a loop's throughput", f"<= {SHARE:.0%}", f"{most:.1%}", results.verdict(most <= SHARE)],
                [
                    "bytes to the medium a byte of payload",
                    f"<= {BYTES}",
                    f"{costs.medium_share:.2f}",
                    results.verdict(costs.medium_share <= BYTES),
                ],
                [
                    f"answers of {FRAMES_S} images a second that are in the journal",
                    f"{frames.images}",
                    f"{frames.answers}",
                    results.verdict(complete),
                ],
            ],
        ),
        f"Records: an update to fifteen answers, synced every {SYNC_EVERY}. Appending takes {costs.append_us:.1f} us a "
        f"record of {costs.payload_bytes:.0f} bytes, a sync {costs.sync_us:.0f} us, reading {costs.read_us:.1f} us a "
        f"record. A byte of payload is {costs.file_share:.2f} in the files.",
        f"Loops: ResNet-20 on images of 32 x 32, batches of 16, one thread, `--sync`; {ROUNDS} times {ANSWERS} answers "
        "with a journal and without one in turn, medians of CPU time.",
        results.table(
            ["learner", "with, us an answer", "without", "share"],
            [
                [
                    one.learner,
                    f"{statistics.median(one.with_s) * 1e6:.0f}",
                    f"{statistics.median(one.without_s) * 1e6:.0f}",
                    f"{one.share:.1%}",
                ]
                for one in shares
            ],
        ),
        f"Images: {frames.images} of {frames.image_bytes / 1e3:.0f} kB of noise, {SECONDS} s of a camera at {FRAMES_S} "
        f"a second, with a ring of {KEEP >> 20} MiB. In the end it takes {frames.sample_bytes / 1e6:.0f} MB and has "
        f"{frames.kept} samples; {frames.dropped} were dropped, and no record of the journal was. The journal grows by "
        f"{frames.audit_bytes / SECONDS * HOUR / 1e6:.1f} MB an hour: the {Settings().journal_bytes / 1e9:.0f} GB that "
        f"it may have last {hours:.0f} hours until a host must have taken it.",
    ]


def prediction(chance: random.Random, n: int) -> Prediction:
    """As a loop's."""
    return Prediction(
        seq=n,
        label=chance.randrange(10),
        confidence=chance.random(),
        entropy=chance.random(),
        step=n // 16,
        position=n,
        y=chance.randrange(10),
        latency_ns=1_500_000 + chance.randrange(100_000),
        similarity=chance.random(),
        changes=n // 16,
    )


def update(chance: random.Random, n: int) -> Update:
    """As a loop's."""
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
