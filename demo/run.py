"""The demo: a small network is trained, four learners are built for it, and all of them meet what happens to cameras.

`make demo` runs it. It needs no network and two to three minutes on two cores; all that it writes lies in build/demo.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from demo import eager, model, train
from demo.afterwards import afterwards
from demo.novel import novel, said
from demo.picture import draw
from demo.shifts import SHIFTS, Stream, stream
from demo.table import Result, read, seen, table

HERE: Final = Path(__file__).parent
OUT: Final = HERE.parent / "build" / "demo"
LEARNERS: Final = ("source", "norm", "tent", "ecotta")
NOVEL: Final = "ecotta"
"""Whose bundle also meets what is new."""
EACH: Final = 320
"""Images under each shift: 20 updates."""
ONE_THREAD: Final = os.environ | {"OMP_NUM_THREADS": "1"}
"""Two builds at once are faster than one with two threads."""


def main() -> None:
    """Run all of it, and show what it gave."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    results, images = demo(OUT)
    shown = f"{table(results, images.names)}\n\n{seen(results, images.names)}\n"
    _say("and now what it has never seen: digits rotated by a quarter and mirrored")
    strange = said(novel(*model.held_out(), _near(bundle_of(OUT, NOVEL)), _near(OUT / "novel"), _edgecl))
    _say("and what their journals know, as it would come from boards")
    states = {name: _near(OUT / name / "state") for name in (*LEARNERS, "novel")}
    known = afterwards(states, "novel", _near(OUT), _edgecl)
    (OUT / "table.txt").write_text(f"{shown}\n{strange}\n{known}\n")
    draw([result for result in results if result.by == "edgecl"], images, OUT / "error.png")
    budget = tomllib.loads((HERE / "edgecl.toml").read_text())["build"]["memory"]
    print(f"\nErrors in percent, of {images.each} images under each shift. Resident memory of the process in MB; its")
    print(f"budget in edgecl.toml is {budget}. One thread each.\n\n{shown}\n{strange}\n{known}\n")
    print(f"picture   {_near(OUT)}/error.png")
    print(f"projects  {_near(OUT)}/<learner>/edgecl.toml; the bundle and the journal lie beside it")
    print(f"look at   edgecl inspect {_near(bundle_of(OUT, 'ecotta'))}")


def demo(
    out: Path, *, learners: Sequence[str] = LEARNERS, each: int = EACH, epochs: int = train.EPOCHS
) -> tuple[list[Result], Stream]:
    """Train, build and run in an empty folder: what edgecl and what PyTorch made of the stream with each learner."""
    _say(f"training a small residual network on {model.TRAINED_ON} handwritten digits, with plain PyTorch")
    error = train.train(out / "digits.safetensors", epochs=epochs)
    _say(f"{100 * error:.1f} % error on those held out; they become a stream of {len(SHIFTS)} times {each} images")
    images = stream(*model.held_out(), each=each, seed=0)
    np.savez(out / "stream.npz", x=images.x, y=images.y)
    for learner in learners:
        write_project(out / learner, learner, out / "digits.safetensors")
        _say(f"$ edgecl build {_near(out / learner)}")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda learner: _python("edgecl", "build", out / learner), learners))
    results = []
    for learner in learners:
        bundle, saved = bundle_of(out, learner), out / learner / "eager.pickle"
        source, state = f"npz:{_near(out / 'stream.npz')}", f"{_near(out / learner / 'state')}"
        words = ("run", f"{_near(bundle)}", "--source", source, "--state", state, "--sync", "--json")
        _say(f"$ edgecl {' '.join(words)}")
        results.append(read(learner, "edgecl", _python("edgecl", *words)))
        eager.save(out / learner, bundle, saved)
        results.append(read(learner, "PyTorch", _python("demo.eager", saved, out / "stream.npz")))
    return results, images


def write_project(folder: Path, learner: str, weights: Path) -> None:
    """A folder for `edgecl build`."""
    folder.mkdir()
    shutil.copy(HERE / "model.py", folder)
    shutil.copy(weights, folder)
    (folder / "edgecl.toml").write_text((HERE / "edgecl.toml").read_text().replace("ecotta", learner))


def bundle_of(out: Path, learner: str) -> Path:
    """Where `edgecl build` puts it."""
    return out / learner / f"digits-{learner}.ecl"


def _python(module: str, *arguments: str | Path) -> list[bytes]:
    """The lines that a module prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], env=ONE_THREAD, capture_output=True)
    if done.returncode:
        sys.exit(f"{module}: exit code {done.returncode}\n{done.stderr.decode()}")
    return done.stdout.splitlines()


def _edgecl(*words: object) -> list[bytes]:
    """A command of the second part, shown as it is run."""
    _say(f"$ edgecl {shlex.join(map(str, words))}")
    return _python("edgecl", *map(str, words))


def _near(path: Path) -> Path:
    """A path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
