"""Host stores for reports: boards that really ran, and journals whose every text is hostile."""

from pathlib import Path

import numpy as np

from edgecl import journal
from edgecl.journal import Domain, Guard, Label, Prediction, Record, Sample, Shift
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.settings import Settings
from tests.edgecl.test_domains import bright, dark, noise
from tests.firmware_host.pulled import BUNDLE, Board, answers, put

HOSTILE = "<script>fetch('http://evil.example/')</script>"
"""As a name; also one that breaks out of an attribute, of a script, and of a plot's label."""
NAMES = (
    HOSTILE,
    '"><img src=http://evil.example/x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    '<a href="javascript:alert(3)">click</a> %{x} <!--',
    "\u202egnp.exe\u0000\u2028\ud7ff",
)
SYNC = Settings(sync=True, wait=True, keep_bytes=1 << 22, domains=3, budget_bytes=0)


class Slow(Board):
    """A board whose every record is seconds later."""

    def monotonic_ns(self) -> int:
        self.now_ns += 4 * 10**9
        return self.now_ns


def lived(bundle: Path, store: Path, device: str, *, seed: int, labelled: float) -> None:
    """A run of a real bundle, with two domains that come, one that comes back, samples and labels."""
    chance = np.random.default_rng(seed)
    with Loop(bundle, store / device, SYNC, source="camera", clock=Slow()) as loop:
        place = 0
        for stretch in (noise(90, seed), dark(200, seed), noise(60, seed + 1), bright(200, seed), dark(60, seed + 2)):
            for x in stretch:
                y = place % 3 if chance.random() < labelled else None
                loop.predict(x, position=place, y=y)
                place += 1
        if labelled:
            loop.operations.label([Given(seq, loop.classes[seq % 3]) for seq in range(100, 130)])
            loop.operations.rename("domain-1", NAMES[0])


def hostile(store: Path) -> None:
    """A device of which every text that a journal can have is hostile."""
    clock = Board()
    records: list[Record] = [
        journal.Run(
            bundle=BUNDLE, name=NAMES[1], lineage=NAMES[2], version=3, learner=NAMES[3], seed=1, threads=1,
            settings=[journal.Setting(name="deployed_by", value=NAMES[0])],
        ),
        *answers(200),
        Shift(seq=60, began=True, test=NAMES[0], share=0.4, similarity=0.1),
        Domain(what=Domain.BEGAN, seq=60, domain=1, name=NAMES[2]),
        Domain(what=Domain.FOUNDED, seq=90, domain=1, name=NAMES[1]),
        Domain(what=Domain.MERGED, seq=120, domain=2, name=NAMES[3], other=1),
        Guard(action=Guard.ROLLED_BACK, reason=NAMES[0], detail=NAMES[1], first_seq=100, last_seq=110),
        Guard(action=Guard.SKIPPED, reason=NAMES[4], first_seq=100, last_seq=110),
        *(Label(seq=seq, y=seq % 4, name=NAMES[seq % 5]) for seq in range(40, 80)),
        *(Prediction(seq=seq, label=seq % 9, confidence=float("nan"), entropy=float("inf")) for seq in range(200, 240)),
    ]  # fmt: skip
    put(store, "cam <b>7", records, clock=clock)
    samples = [sample(seq, (6, 5, 3)[seq % 3]) for seq in range(200)]
    put(store, "cam <b>7", samples, clock=clock, folder="samples")


def sample(seq: int, kind: int) -> Sample:
    """An image, a window of a sensor with holes in it, or bytes that are neither."""
    chance = np.random.default_rng(seq)
    if kind == 6:
        x = chance.integers(0, 256, (200, 120, 3)).astype(np.uint8)
        return Sample(seq=seq, dtype="uint8", shape=x.shape, x=x.tobytes())
    if kind == 5:
        y = chance.normal(size=128).astype(np.float32)
        y[3] = np.nan
        return Sample(seq=seq, dtype="float32", shape=y.shape, x=y.tobytes())
    return Sample(seq=seq, dtype="object", shape=[1 << 31, 1 << 31], x=b"no")
