"""Run by test_kills.py: a run that grows, labels, merges and drops is killed at each step of writing in turn.

    killed_operations.py BUNDLE DIRECTORY EVERY

The run is the same each time, so what an uninterrupted one leaves after each operation is known. A child is killed, by
itself and without warning, at its k-th call that changes the disk, for each EVERY-th k; the newest checkpoint must then
be one of those known, whole, and a run must go on from it.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgecl import disk
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.settings import Settings

SETTINGS = Settings(sync=True, domains=3, keep_bytes=1 << 20, checkpoint_every=1000)


def stretch(seed: int, low: int, high: int, count: int = 150) -> Any:
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3)).astype(np.uint8)


def live(bundle: Path, where: Path, done: Callable[[Loop], object]) -> None:
    """Grow two domains and label them; grow a third, for which two are merged; add a class, label, rename, drop."""
    with Loop(bundle, where, SETTINGS) as loop:
        ask = loop.operations

        def see(*of: Any) -> None:
            for x in stretch(*of):
                loop.predict(x)
            done(loop)

        see(1, 0, 60)
        ask.label([Given(seq, "owl") for seq in range(100, 110)])
        done(loop)
        see(2, 200, 256)
        ask.label([Given(seq, "yak") for seq in range(250, 260)])
        done(loop)
        see(3, 100, 130)
        ask.add_class("emu")
        done(loop)
        ask.label([Given(seq, "emu") for seq in range(400, 410)])
        done(loop)
        last = ask.domains()[-1].name
        ask.rename(last, "dusk")
        done(loop)
        ask.drop("dusk")
        done(loop)


def index(directory: Path) -> bytes | None:
    """The newest checkpoint's own bytes."""
    found = sorted(directory.glob("learned/looped/[0-9]*.json"))
    return found[-1].read_bytes() if found else None


def killing(at: int) -> None:
    """From the at-th call on that changes the disk, there is no process any more."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for place, name in ((disk, "write_new"), (disk, "sync_directory"), (disk, "remove"), (os, "fsync"), (os, "rename")):
        setattr(place, name, counted(getattr(place, name)))
    Path.rename = counted(Path.rename)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]


def main(bundle: Path, directory: Path, every: int) -> None:
    known: set[bytes | None] = {None}
    plain = directory / "plain"
    live(bundle, plain, lambda loop: known.add(index(plain)))
    known |= {path.read_bytes() for path in plain.glob("learned/looped/[0-9]*.json")}
    # Each checkpoint on the way is one of a change that was settled: they are known by watching them being written.
    seen: set[bytes] = set()
    watched = directory / "watched"
    rename = Path.rename

    def noted(self: Path, target: Any) -> Path:
        if Path(target).suffix == ".json":
            seen.add(self.read_bytes())
        return rename(self, target)

    Path.rename = noted  # type: ignore[method-assign, assignment]
    live(bundle, watched, lambda loop: None)
    Path.rename = rename  # type: ignore[method-assign]
    assert known - {None} <= seen, "the run is not the same each time"

    at, died = 1, True
    kills = 0
    while died:
        where = directory / str(at)
        child = os.fork()
        if not child:
            killing(at)
            live(bundle, where, lambda loop: None)
            os._exit(0)
        died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        left = index(where)
        assert left is None or left in seen, f"killed at {at}: neither old nor new"
        if left:
            with open_bundle(bundle) as opened:
                found = Checkpoints(where / "learned" / "looped").newest(opened.manifest.layout)
            assert found and not found.passed_over, f"killed at {at}: {found and found.passed_over}"
        with Loop(bundle, where, SETTINGS) as loop:
            loop.predict(stretch(9, 0, 60, 1)[0])
            names = [one.name for one in loop.operations.domains()]
            assert names[0] == "source" and len(set(names)) == len(names)
        kills += died
        at += every
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
