"""Kills a run at random moments: `killed_runs.py BUNDLE IMAGES STATE KILLS SEED`.

After each kill, and before the next run repairs anything, the state directory must be sound. Prints a line for each
kill: records of the run that was killed, `opening` where it had none yet, or `ended`. Then it runs to the end of the
images, and prints `sound` and the digest of the last state.
"""

import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from edgecl import journal, state
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints
from edgecl.journal import Checkpoint, Guard, Loss, Prediction, Record, Run, Update
from edgecl.loop import Loop
from edgecl.manifest import Layout
from edgecl.settings import Settings

OPENING = 0.25
"""Share of runs that are killed within OPENING_S of their start; opening takes some 20 ms."""
OPENING_S = 0.03
MOST_RECORDS = 40
"""The others are killed within RUNNING_S of a record up to this one: longer than most gaps between two records."""
RUNNING_S = 0.005
POLL_S = 0.0002


def run(bundle: Path, images: Path, where: Path, *, sync: bool, every: int, seen: mmap.mmap | None = None) -> str:
    """Go on with the run to the end of the images. `seen`: counts of records, and of records synced."""
    count = decided = synced = 0

    def note(record: Record) -> None:
        nonlocal count, decided, synced
        count += 1
        if isinstance(record, Update | Guard):
            decided = count
        elif isinstance(record, Checkpoint):
            synced = decided  # answers that came during the sync may lie between the decision and the checkpoint
        if seen:
            seen[0:16] = count.to_bytes(8, "little") + synced.to_bytes(8, "little")

    x = np.load(images, mmap_mode="r")
    settings = Settings(sync=sync, wait=True, checkpoint_every=every)
    with Loop(bundle, where, settings, source="images", on_record=note) as loop:
        for position in range(loop.place.position, len(x)):
            loop.predict(x[position], position=position)
    return loop.state.digest


class Witness:
    """Knows what the journal said before, and what it may say next."""

    def __init__(self, where: Path, layout: Layout, built: str) -> None:
        self._where = where
        self._layout = layout
        self._built = built
        self._records = 0
        self._last_seq = -1

    def check(self, counted: int, synced: int) -> None:
        """Look at a state directory as a kill left it; the run had journalled so many records."""
        torn: list[journal.Torn] = []
        found: list[Record] = []
        for record in journal.read(self._where / "journal") if (self._where / "journal").is_dir() else ():
            if isinstance(record, journal.Torn):
                torn.append(record)
            else:
                found.append(record)
        assert len(torn) <= 1, torn
        new = found[self._records :]
        assert synced <= len(new) <= counted, (synced, len(new), counted)
        assert [record.stamp.sequence for record in new] == list(range(len(new)))
        for record in new:
            if isinstance(record, Prediction):
                assert record.seq > self._last_seq, "a number was given twice"
                self._last_seq = record.seq
        self._records = len(found)

        named = {self._built}
        named |= {record.digest for record in found if isinstance(record, Update) and record.committed}
        named |= {record.digest for record in found if isinstance(record, Guard)}
        for path in self._where.glob("learned/*/[0-9]*.json"):
            for kept in Checkpoints(path.parent).load(path, self._layout).learned.states.values():
                assert kept.digest in named, "the journal does not name this state"

    def check_losses(self, kills: int) -> None:
        """Look at the journal of a run that ended in good order."""
        found = list(journal.read(self._where / "journal"))
        runs = [record for record in found if isinstance(record, Run)]
        updates = {record.digest for record in found if isinstance(record, Update)}
        assert all(run.digest in updates | {self._built} for run in runs)
        assert 0 < sum(isinstance(record, Loss) for record in found) <= kills
        assert not any(isinstance(record, journal.Torn) for record in found)


def killed(child: int, seen: mmap.mmap, records: int, delay_s: float) -> int:
    """Kill a child some time after it has counted so many records. Returns its status; it may have ended before."""
    while int.from_bytes(seen[0:8], "little") < records:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(POLL_S)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main(bundle: Path, images: Path, where: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with open_bundle(bundle) as opened:
        layout = opened.manifest.layout
        built = state.load(opened.path("state.safetensors"), layout).digest
    Loop(bundle, where, Settings(), source="images").close("so that the self-test is behind us")
    witness = Witness(where, layout, built)
    witness.check(4, 4)  # a boot, the clock, a run and its end
    for _ in range(kills):
        seen, records, delay_s = mmap.mmap(-1, 16), chance.randint(1, MOST_RECORDS), chance.uniform(0, RUNNING_S)
        if chance.random() < OPENING:
            records, delay_s = 0, chance.uniform(0, OPENING_S)
        child = os.fork()
        if not child:
            try:
                run(bundle, images, where, sync=chance.random() < 0.5, every=3, seen=seen)
            finally:
                os._exit(0)
        status = killed(child, seen, records, delay_s)
        counted, synced = (int.from_bytes(seen[at : at + 8], "little") for at in (0, 8))
        print("ended" if os.WIFEXITED(status) else counted or "opening", flush=True)
        witness.check(counted + 1, synced)  # the last one may not have been counted yet
    digest = run(bundle, images, where, sync=True, every=1000)
    witness.check_losses(kills)
    print("sound", digest, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
