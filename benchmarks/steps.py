"""Times of single steps, compiled in float and int8 and by PyTorch eager, call by call in turn; and the memory of each.

PyTorch runs benchmarks/peers.py in the faster of its two memory layouts.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import cases
import children
import models
import msgspec
import numpy as np
import numpy.typing as npt
import peers
import results
import torch
from process import Memory

from edgecl.engine import Program, open_program
from edgecl.manifest import Kind
from export.learners import adapts

Array = npt.NDArray[Any]
Call = Callable[[], object]

THREADS: Final = (1, 2)

WORKERS: Final = 2

BUDGET_S: Final = 1.5
"""For each group of calls that are timed in turn; more where that is too short for LEAST_ROUNDS."""
LEAST_ROUNDS: Final = 7
PAUSE_S: Final = 0.01
"""Before each turn: threads of both engines wait for work busily for some milliseconds, and would slow the other."""
SHORT_S: Final = 0.03
"""A call this short is made once untimed at the start of its turn, where caches are cold and threads asleep."""
TURN_S: Final = 0.01
MOST_IN_TURN: Final = 8
DISTURBED: Final = 2.0


class Case(msgspec.Struct, frozen=True):
    """A learner on a network, at one batch size."""

    model: str
    learner: str
    kernel: int
    """Of EcoTTA's meta convolutions; 1 for others."""
    batch: int

    @property
    def title(self) -> str:
        kernel = f" {self.kernel}×{self.kernel}" if self.learner.startswith("ecotta") else ""
        return f"{self.learner}{kernel}"


class Time(msgspec.Struct, frozen=True):
    """Of many calls."""

    median_ms: float
    least_ms: float
    calls: int


class Timed(msgspec.Struct, frozen=True):
    """One method by everything that can run it: `float`, `int8`, `torch`."""

    case: Case
    kind: Kind
    threads: int
    layout: str
    """The memory layout that served PyTorch better."""
    times: Mapping[str, Time]

    def ratio(self, precision: str) -> float:
        """Median against PyTorch's."""
        return self.times[precision].median_ms / self.times["torch"].median_ms


class Used(msgspec.Struct, frozen=True):
    """Memory of one case at one precision, or in PyTorch."""

    case: Case
    by: str
    """`float`, `int8` or `torch`."""
    workspace_bytes: Mapping[str, int]
    """Of each kind of method, measured; empty for PyTorch."""
    process: Memory


@dataclass(frozen=True)
class Family:
    """A learner on a network at one precision: one program, with its methods at all batch sizes."""

    model: str
    learner: str
    kernel: int
    precision: str


@dataclass(frozen=True)
class Made:
    """A program, and example inputs of each method."""

    path: Path
    inputs: Mapping[str, Sequence[Array]]


def all_cases() -> list[Case]:
    """Every case, small batches first."""
    resnet = [*((learner, 1) for learner in cases.LEARNERS), ("ecotta-frozen", 3)]
    found = [Case("resnet20", learner, kernel, batch) for batch in (1, 16, 64) for learner, kernel in resnet]
    return found + [Case("mobilenet_v2", learner, 1, batch) for batch in (1, 8) for learner in ("source", "ecotta")]


def run(wanted: Sequence[Case]) -> Iterator[tuple[list[Timed], list[Used]]]:
    """Times and memory of each case, as they are found; all programs are compiled before the first is timed."""
    families: dict[Family, list[int]] = {}
    for case in wanted:
        for precision in cases.PRECISIONS:
            families.setdefault(Family(case.model, case.learner, case.kernel, precision), []).append(case.batch)
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = {family: pool.submit(_make, family, sizes, Path(folder)) for family, sizes in families.items()}
            made = {family: job.result() for family, job in jobs.items()}
        for case in wanted:
            programs = {p: made[Family(case.model, case.learner, case.kernel, p)] for p in cases.PRECISIONS}
            yield _times_of(case, programs), _memory_of(case, programs)


def _make(family: Family, batches: Sequence[int], folder: Path) -> Made:
    """Compile a family, in a worker."""
    torch.set_num_threads(1)
    project = cases.project(family.model, family.learner, family.precision, kernel=family.kernel, epochs=0)
    learner, source = cases.learner_of(project)
    kinds: list[Kind] = ["infer", "adapt"] if adapts(learner) else ["infer"]
    x = source.inputs(source.spread_out(max(batches)))
    methods: list[tuple[Kind, int]] = [("infer", 1), *((kind, batch) for batch in batches for kind in kinds)]
    made = cases.compiled(learner, x, list(dict.fromkeys(methods)))
    path = folder / f"{family.model}-{family.learner}-{family.kernel}-{family.precision}.pte"
    path.write_bytes(made.pte)
    return Made(path, {name: cases.arrays(method) for name, method in made.methods.items()})


def _kinds(case: Case, made: Made) -> list[Kind]:
    kinds: tuple[Kind, ...] = ("infer", "adapt")
    return [kind for kind in kinds if f"{kind}_b{case.batch}" in made.inputs]


def _times_of(case: Case, made: Mapping[str, Made]) -> list[Timed]:
    timed = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        for kind in _kinds(case, made["float"]):
            name = f"{kind}_b{case.batch}"
            opened = {p: open_program(made[p].path, methods=[name], threads=threads) for p in made}
            calls = {p: _executes(opened[p], name, made[p].inputs[name]) for p in made}
            x = next(array for array in made["float"].inputs[name] if array.ndim == 4)
            layout, calls["torch"] = _peer(case, kind, torch.from_numpy(x))
            timed.append(Timed(case, kind, threads, layout, alternate(calls, BUDGET_S)))
            for program in opened.values():
                program.close()
    return timed


def _memory_of(case: Case, made: Mapping[str, Made]) -> list[Used]:
    kinds = _kinds(case, made["float"])
    methods = {kind: f"{kind}_b{case.batch}" for kind in kinds}
    running = list(dict.fromkeys(["infer_b1", methods[kinds[-1]]]))
    with ThreadPoolExecutor(1) as pool:
        in_torch = pool.submit(children.of_torch, case.model, case.learner, case.kernel, case.batch)
        used = []
        for precision, program in made.items():
            costs = children.costs(program.path, list(methods.values()))
            workspace: dict[str, int] = {kind: costs[method].workspace_bytes for kind, method in methods.items()}
            used.append(Used(case, precision, workspace, children.of_program(program.path, running)))
        return [*used, Used(case, "torch", {}, in_torch.result())]


def _executes(program: Program, method: str, given: Sequence[Array]) -> Call:
    return partial(program.execute, method, given)


def _peer(case: Case, kind: Kind, x: torch.Tensor) -> tuple[str, Call]:
    """The peer's step in the faster layout."""
    make = {"adapt": peers.adapt_step, "infer": peers.infer_step}[kind]
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        make_model: Any = getattr(models, case.model)
        model = make_model().to(memory_format=layout)
        call = partial(make(case.learner, model, case.kernel), x.to(memory_format=layout))
        call()
        found.append((min(_seconds(call) for _ in range(3)), str(layout).removeprefix("torch."), call))
    _, layout_name, call = min(found, key=lambda item: item[0])
    return layout_name, call


def alternate(calls: Mapping[str, Call], budget_s: float) -> dict[str, Time]:
    """Time calls in turn, so that whatever else the machine does meets all of them alike."""
    first = {}
    for name, call in calls.items():
        call()
        first[name] = min(_seconds(call), _seconds(call))
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget_s
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        rounds += 1
        for name, call in calls.items():
            time.sleep(PAUSE_S)
            if first[name] < SHORT_S:
                call()
            for _ in range(max(1, min(MOST_IN_TURN, int(TURN_S / first[name])))):
                found[name].append(_seconds(call))
    return {
        name: Time(1e3 * float(np.median(seconds)), 1e3 * min(seconds), len(seconds)) for name, seconds in found.items()
    }


def _seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def render(timed: Sequence[Timed], used: Sequence[Used]) -> list[str]:
    """What was found, as Markdown."""
    sections = [
        "Milliseconds, median (least); `/ PyTorch` compares medians. A median above twice the least has a `?`: "
        "something else used the machine. int8 is the frozen network and its gradients. "
        + " ".join(str(__doc__).split("\n\n", 1)[1].split())
    ]
    for model in dict.fromkeys(found.case.model for found in timed):
        for kind in ("adapt", "infer"):
            for threads in THREADS:
                rows = [
                    found for found in timed if (found.case.model, found.kind, found.threads) == (model, kind, threads)
                ]
                sections += [f"## {model}: {kind}, {threads} thread{'s' * (threads > 1)}", _times(rows)]
        sections += [
            f"## {model}: memory",
            "MB. Workspace: what executing takes beside weights. Resident, peak: the whole process, which in turn "
            "answers one sample (`infer`, batch 1) and adapts to a batch, with one thread.",
            _memory([found for found in used if found.case.model == model]),
        ]
    return [*sections, "## Targets", _targets(timed)]


def _times(rows: Sequence[Timed]) -> str:
    lines = []
    for row in rows:
        shown = [_ms(row.times.get(by)) for by in ("float", "int8", "torch")]
        ratios = [f"{row.ratio(precision):.2f}" for precision in cases.PRECISIONS]
        lines.append([row.case.title, str(row.case.batch), *shown, *ratios])
    return results.table(["", "batch", "float", "int8", "PyTorch", "float / PyTorch", "int8 / PyTorch"], lines)


def _memory(rows: Sequence[Used]) -> str:
    by = {(found.case, found.by): found for found in rows}
    lines = []
    for case in dict.fromkeys(found.case for found in rows):
        spaces = [_mb(by[case, p].workspace_bytes.get(kind)) for kind in ("adapt", "infer") for p in cases.PRECISIONS]
        process = [by[case, engine].process for engine in (*cases.PRECISIONS, "torch")]
        whole = [f"{found.resident_bytes / 1e6:.0f}, {found.peak_bytes / 1e6:.0f}" for found in process]
        lines.append([case.title, str(case.batch), *spaces, *whole])
    spaces = [f"{kind} workspace, {precision}" for kind in ("adapt", "infer") for precision in cases.PRECISIONS]
    return results.table(
        ["", "batch", *spaces, *(f"resident, peak: {by}" for by in ("float", "int8", "PyTorch"))], lines
    )


def _targets(timed: Sequence[Timed]) -> str:
    lines = []
    for row in timed:
        for precision in cases.PRECISIONS:
            most = _target(row, precision)
            if most is not None:
                what = f"{row.case.title}, {row.kind}, batch {row.case.batch}, {precision}, threads {row.threads}"
                ratio, least = row.ratio(precision), row.times[precision].least_ms / row.times["torch"].least_ms
                lines.append([what, f"{most:.2f}", f"{ratio:.2f}", f"{least:.2f}", results.verdict(ratio <= most)])
    return results.table(["against PyTorch, ResNet-20", "at most", "found", "of the least times", ""], lines)


def _target(row: Timed, precision: str) -> float | None:
    """The largest ratio that was set, where one was."""
    if row.case.model != "resnet20":
        return None
    if row.kind == "infer":
        return 0.4 if row.case.batch == 1 and precision == "float" else None
    if (row.case.learner, row.case.kernel) == ("ecotta-frozen", 1):
        at_one, above = (0.4, 0.8) if precision == "float" else (0.25, 0.5)
        return at_one if row.case.batch == 1 else above
    if precision == "float" and (
        row.case.learner == "tent" or (row.case.learner, row.case.kernel) == ("ecotta-frozen", 3)
    ):
        return 1.0
    return None


def _ms(found: Time | None) -> str:
    if found is None:
        return ""
    disturbed = "?" if found.median_ms > DISTURBED * found.least_ms else ""
    return f"{found.median_ms:.3g}{disturbed} ({found.least_ms:.3g})"


def _mb(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"
