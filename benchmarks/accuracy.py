"""Errors on CIFAR-10 under corruption and on clean images, of every learner: compiled and eager, float and int8.

A stream is nine corruptions at severity 5, 1,000 images each, one after another; what was learned is carried over. Each
corruption gives its whole batches, and each answer comes from the step that learns from its batch. No guard watches.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cases
import data
import msgspec
import numpy as np
import numpy.typing as npt
import torch

from edgecl.engine import Program, open_program
from edgecl.manifest import Kind
from edgecl.preprocess import Preprocess
from export.eager import EagerProgram
from export.learners import adapts
from export.trace import Flat

BATCH: Final = 64
SMALL: Final = (1, 4, 16)
"""Batches at which learners are known to collapse."""

CLEAN: Final = slice(0, 3000)
AFTER: Final = slice(3000, 4000)
"""Clean images that follow the corruptions: a network that has collapsed does not know them any more."""
MILD: Final = "brightness"

WORKERS: Final = 2


class Row(msgspec.Struct, frozen=True):
    """Errors in percent of one learner at one precision and batch size, by one engine."""

    learner: str
    precision: str
    batch: int
    engine: str
    """`compiled` or `eager`."""
    errors: dict[str, float]
    """By corruption, in the order of the stream."""
    after: float | None = None
    """Of 1,000 clean images that follow the stream."""
    clean: float | None = None
    """Of 3,000 clean images, from the state as built."""
    mild: float | None = None
    """Of `brightness` alone, from the state as built."""

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.errors.values())))


@dataclass
class Runner:
    """A program, and the state that it goes on from."""

    program: Program
    method: Flat
    batch: int
    pre: Preprocess

    def __post_init__(self) -> None:
        given = dict(zip(self.method.inputs, cases.arrays(self.method), strict=True))
        self._built = {name: given[name] for name in ("theta", "slots") if name in given}
        self._fixed = {name: given[name] for name in ("noise", "hyper") if name in given}
        self.reset()

    def reset(self) -> None:
        """Go back to the state as built."""
        self._state = dict(self._built)

    def error(self, x: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> float:
        """Percent of wrong answers, learning as it goes, in whole batches."""
        wrong = count = 0
        for start in range(0, len(x) - self.batch + 1, self.batch):
            part = slice(start, start + self.batch)
            given = {**self._state, **self._fixed, "x": self.pre.batch(list(x[part]))}
            out = self.program.execute(self.method.name, [given[name] for name in self.method.inputs])
            named = dict(zip(self.method.outputs, out, strict=True))
            wrong += int((named["logits"].argmax(1) != y[part]).sum())
            count += self.batch
            self._state = {name: named.get(name, value) for name, value in self._state.items()}
        return 100 * wrong / count


def rows() -> Iterator[Row]:
    """Every row, as it is found; two processes of one thread each do it in half the time of one with two."""
    jobs = [(learner, precision) for precision in ("int8", "float") for learner in reversed(cases.LEARNERS)]
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(of_learner, *job) for job in jobs]):
            yield from done.result()


def of_learner(name: str, precision: str) -> list[Row]:
    """The rows of one learner at one precision; small batches only in float."""
    torch.set_num_threads(1)
    project = cases.project("resnet20", name, precision)
    learner, source = cases.learner_of(project)
    kind: Kind = "adapt" if adapts(learner) else "infer"
    sizes = (BATCH, *SMALL) if precision == "float" else (BATCH,)
    x = source.inputs(source.spread_out(BATCH))
    made = cases.compiled(learner, x, [(kind, size) for size in sizes])
    pre = Preprocess(project.given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.pte"
        path.write_bytes(made.pte)
        program = open_program(path, methods=list(made.methods))
        found = []
        for size in sizes:
            method = made.methods[f"{kind}_b{size}"]
            found.append(_row(Runner(program, method, size, pre), name, precision, "compiled"))
            if size == BATCH:
                found.append(_row(Runner(EagerProgram([method]), method, size, pre), name, precision, "eager"))
        program.close()
    return found


def _row(runner: Runner, learner: str, precision: str, engine: str) -> Row:
    errors = {corruption: runner.error(*data.corrupted(corruption)) for corruption in data.CORRUPTIONS}
    if engine == "eager":
        return Row(learner, precision, runner.batch, engine, errors)
    x, y = data.clean()
    after = runner.error(x[AFTER], y[AFTER])
    runner.reset()
    clean = runner.error(x[CLEAN], y[CLEAN])
    runner.reset()
    mild = runner.error(*data.corrupted(MILD))
    return Row(learner, precision, runner.batch, engine, errors, after, clean, mild)


if __name__ == "__main__":
    import sys

    found = []
    for row in rows():
        found.append(row)
        print(row, flush=True)
        Path(sys.argv[1]).write_bytes(msgspec.json.encode(found))
