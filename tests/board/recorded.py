"""What a board records: learners on a stream with labels whose light changes, in two runs, and labels that come late.

`python -m tests.board.recorded` makes tests/data/arm anew, which is replayed wherever the tests run.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from export import project as projects
from export.build import build
from tests.board import machine, remote
from tests.export import projects as small

DATA: Final = machine.ROOT / "tests" / "data" / "arm"

KEPT: Final = ("--keep", "1 MB", "--domains", "3", "--hysteresis", "4", "--checkpoint-every", "5")
LIMIT: Final = 150
"""Samples of the first run, in the second light."""
LATE: Final = ("0=green", "1=blue", "2=red", "121=blue", "122=blue", "123=green")
LIGHTS: Final = ((40, 80, 140), (100, 0, 20), (90, 200, 250), (30, 0, 20))
"""Of the stream: images, and the two values that their pixels have, which makes them small when they are packed."""


@dataclass(frozen=True)
class Case:
    """A learner, and how its stream is run."""

    learner: str
    changes: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()


EVERY: Final = ("--hyper", "margin=2")
"""The network is hardly trained and so sure of nothing: without this, EcoTTA would pass over all samples."""
FREELY: Final = ('memory = "200 MB"', 'memory = "0 MB"')
"""The building process has torch in it; the board's has the emulator."""
INT8: Final = ("canaries = 9", 'canaries = 9\nquantize = "int8"\nbackward = "int8"')

CASES: Final = {
    "tent": Case("tent"),  # which learns in the background
    "ecotta": Case("ecotta", words=("--sync", *EVERY)),
    "ecotta-int8": Case("ecotta", (INT8,), ("--sync", *EVERY)),
}
IN_DATA: Final = ("tent", "ecotta-int8")


def stream(path: Path) -> None:
    """Write the images, and labels of every second one."""
    random = np.random.default_rng(6)
    x = np.concatenate([random.choice((low, high), (n, 8, 8, 3)) for n, low, high in LIGHTS])
    y = np.arange(len(x)) % 3
    np.savez(path, x=x.astype(np.uint8), y=y)


def build_bundle(name: str, folder: Path) -> Path:
    """A small bundle for one of CASES."""
    project = small.write(folder / f"{name}-project", *small.named(CASES[name].learner, FREELY, *CASES[name].changes))
    bundle = folder / f"{name}.ecl"
    build(projects.read(project), bundle).bundle.close()
    return bundle


def record(name: str, bundle: Path, images: Path, into: Path) -> None:
    """Run on the board, and bring what it journalled, as `edgecl pull` would. Raises BoardError."""
    remote.put(images, images.name)
    remote.put(bundle, bundle.name)
    remote.ssh("rm -rf state")
    words = ("run", bundle.name, "--source", f"npz:{images.name}", "--state", "state", *KEPT, *CASES[name].words)
    remote.edgecl(*words, "--limit", str(LIMIT))
    remote.edgecl(*words)
    remote.edgecl("label", "state", *LATE)
    into.mkdir(parents=True)
    for part in ("journal", "samples"):
        remote.get(f"state/{part}", into / part)


def main() -> None:
    """Needs the board, as `make board` leaves it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        stream(folder / "stream.npz")
        for name in IN_DATA:
            shutil.rmtree(DATA / name, ignore_errors=True)
            bundle = build_bundle(name, folder)
            record(name, bundle, folder / "stream.npz", DATA / name)
            shutil.copyfile(bundle, DATA / name / bundle.name)


if __name__ == "__main__":
    main()
