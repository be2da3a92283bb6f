"""Lives a random life in a state directory: `lived_runs.py BUNDLE STATE SEED SAMPLES ANSWERING...`.

Runs follow each other, each with settings of its own; most are killed. While samples are answered, another thread gives
labels, adds classes, changes domains, and pauses learning. ANSWERING are names of classes that labels may name.
"""

import contextlib
import os
import random
import signal
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgecl.errors import EdgeclError
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.settings import Settings

STRETCH = 150
"""Samples between two changes of the light."""
LIGHTS = ((0, 256), (0, 60), (200, 256), (90, 140))
KILLED = 0.7
"""Share of runs."""
OPERATIONS = ("label", "label", "label", "class", "rename", "merge", "drop", "pause", "snapshot", "nothing")


def image(position: int, seed: int) -> npt.NDArray[np.uint8]:
    """The sample at a place of the source, which a run that goes on there sees again."""
    low, high = LIGHTS[random.Random(seed + position // STRETCH).randrange(len(LIGHTS))]
    return np.random.default_rng(seed << 20 | position).integers(low, high, (8, 8, 3)).astype(np.uint8)


def settings(chance: random.Random, threads: int) -> Settings:
    return Settings(
        sync=chance.random() < 0.3,
        wait=chance.random() < 0.7,
        checkpoint_every=chance.choice((1, 3, 10, 50)),
        budget_bytes=1 << 20 if chance.random() < 0.1 else 0,
        seed=chance.randrange(5),
        threads=threads,
        domains=chance.choice((1, 2, 3, 6)),
        hysteresis=chance.choice((1, 4, 8)),
        keep_bytes=1 << 28,
        rehearse=chance.choice((0, 2)),
    )


def operate(loop: Loop, chance: random.Random, names: list[str], answered: list[int]) -> None:
    """One thing that somebody wants."""
    ask = loop.operations
    what = chance.choice(OPERATIONS)
    known = [facts.name for facts in ask.domains() if facts.number]
    with contextlib.suppress(EdgeclError):
        if what == "label" and answered:
            seqs = chance.sample(answered, min(len(answered), chance.randrange(1, 20)))
            ask.label([Given(seq, chance.choice((*names, *loop.classes))) for seq in seqs])
        elif what == "class" and len(loop.classes) < 8:
            ask.add_class(f"class-{len(loop.classes)}")
        elif what == "rename" and known:
            ask.rename(chance.choice(known), f"place-{chance.randrange(1000)}")
        elif what == "merge" and len(known) > 1:
            ask.merge(*chance.sample(known, 2))
        elif what == "drop" and chance.random() < 0.3 and known:
            ask.drop(chance.choice(known))
        elif what == "pause":
            ask.held = not ask.held and chance.random() < 0.3
        elif what == "snapshot":
            ask.snapshot()


def run(bundle: Path, state: Path, chance: random.Random, seed: int, samples: int, names: list[str]) -> int:
    """Go on in the source, in a process of its own; its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        with Loop(bundle, state, settings(chance, 1 + seed % 2), source="images") as loop:
            answered: list[int] = []
            ending = threading.Event()

            def ask() -> None:
                asking = random.Random(chance.random())
                while not ending.wait(asking.random() / 50):
                    operate(loop, asking, names, answered)

            other = threading.Thread(target=ask)
            if chance.random() < 0.8:
                other.start()
            last = loop.place.position + chance.randrange(1, 2 * samples // 3)
            kill = chance.random() < KILLED
            for position in range(loop.place.position, min(last, samples)):
                answered.append(loop.predict(image(position, seed), position=position, y=position % 4).seq)
                if chance.random() < 0.002 and loop.manifest.has("learn"):
                    some = np.stack([image(position + place, seed) for place in range(5)])
                    loop.learn(some, [place % len(loop.manifest.classes) for place in range(5)])
            if kill and last < samples:
                os.kill(os.getpid(), signal.SIGKILL)
            ending.set()
            if other.ident:
                other.join()
            if last < samples:
                loop.close("enough")
        status = 0 if last < samples else 2
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def main(bundle: Path, state: Path, seed: int, samples: int, names: list[str]) -> None:
    chance = random.Random(seed)
    runs = killed = 0
    while True:
        status = run(bundle, state, random.Random(chance.random()), seed, samples, names)
        runs += 1
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) != 1, "a run failed"
            if os.WEXITSTATUS(status) == 2:
                break
    print(runs, killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
