"""Domains that come one after another and come back: adaptors that are routed to, beside one that all of them share.

ResNet-20 on CIFAR-10. A stream of eleven stretches of 350 images: clean ones, and five corruptions at severity 5, most
of which return, in three orders. No image comes twice, and none that is held out. Nothing tells the loop what comes, or
when.
"""

import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cases
import data
import msgspec
import numpy as np
import numpy.typing as npt
import results
import retained
import routing
import streams
import torch
from finetune import MOMENTUM, FineTuned
from retained import Row, percent
from routing import Routing
from streams import Network, Stretch

from export.build import build

Floats = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]

LEARNERS: Final = ("norm", "ecotta")
RATES: Final = (1e-3, 1e-4)
"""Of fine-tuning."""
BATCH: Final = 16
BANK: Final = 8
"""Domains that it may hold: more than there are."""

CLEAN: Final = "clean"
CORRUPTIONS: Final = ("gaussian_noise", "contrast", "brightness", "pixelate", "defocus_blur")
DOMAINS: Final = (CLEAN, *CORRUPTIONS)
PLAN: Final = (-1, 0, -1, 1, 0, 2, 3, 1, 4, -1, 2)
"""Of each stretch, the place of its corruption in the order; -1 is clean."""
ORDERS: Final = (0, 2, 4)
"""By how many places the corruptions are turned around."""
STRETCH: Final = 350
HELD_OUT: Final = slice(700, 1000)
"""Of each corruption."""
CLEAN_HELD_OUT: Final = slice(1000, 2000)
CLEAN_STREAM: Final = 3000
"""Where the clean images of the stream begin."""
TIMED: Final = "gaussian_noise"
LEAST_FORGOTTEN: Final = 0.5
"""Points: what routed adaptors may forget of the first domain."""


class Cost(msgspec.Struct, frozen=True):
    """Medians of one answer, in processor time."""

    learner: str
    shared_ms: float
    source_ms: float
    grown_ms: float
    routing_us: float


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    rows: list[Row]
    routing: list[Routing]
    costs: list[Cost]


NAMES: Final = (
    "source",
    *(f"fine-tuning everything, {rate:g}" for rate in RATES),
    *(f"{learner}, {how}" for learner in LEARNERS for how in ("shared", "routed")),
)
"""Ways of learning."""

Images = Mapping[str, tuple[Floats, Numbers]]


def run(say: Callable[[str], None]) -> Found:
    """Every way of learning, in every order; two processes of one thread each, but for the times."""
    found = Found([], [], [])
    with tempfile.TemporaryDirectory() as folder:
        paths = {learner: Path(folder) / f"{learner}.ecl" for learner in LEARNERS}
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            jobs = [pool.submit(_of_learner, learner, path) for learner, path in reversed(paths.items())]
            jobs.append(pool.submit(_others))
            for done in as_completed(jobs):
                rows, routes = done.result()
                found.rows.extend(rows)
                found.routing.extend(routes)
                for row in rows:
                    say(f"{row.name}, order {row.order}: {np.mean(row.errors):.2f} %")
        found.costs.extend(_cost(learner, path) for learner, path in paths.items())
    found.rows.sort(key=lambda row: (NAMES.index(row.name), row.order))
    return found


def _of_learner(learner: str, path: Path) -> tuple[list[Row], list[Routing]]:
    """Built, and run with one state and with many."""
    torch.set_num_threads(1)
    build(cases.project("resnet20", learner, "float", batch=BATCH, tapped=True), path).bundle.close()
    network, images = Network(path, BATCH), _held_out()
    labels = {name: y for name, (_, y) in images.items()}
    source = routing.see(network, data.train()[0])
    seen = {name: routing.see(network, x) for name, (x, _) in images.items()}
    rows, routes = [], []
    for order in ORDERS:
        for how, domains in (("shared", 1), ("routed", BANK)):
            ran = streams.run(path, stream(order), replace(streams.MINE, domains=domains))
            rows.append(retained.row(f"{learner}, {how}", order, ran, network, seen, labels))
        routes.append(routing.measure(learner, order, ran, network, source, seen))
    network.close()
    return rows, routes


def _others() -> tuple[list[Row], list[Routing]]:
    """The network as trained, and the whole of it fine-tuned."""
    torch.set_num_threads(1)
    images = _held_out()
    rows = []
    for name, rate in zip(NAMES, (0.0, *RATES), strict=False):
        for order in ORDERS:
            rows.append(_eager(name, order, rate, images))
    return rows, []


def _cost(learner: str, path: Path) -> Cost:
    """Times of a short stream that goes to a corruption and back."""
    x, y = data.corrupted(TIMED)
    clean = data.clean()[0][CLEAN_STREAM:]
    stretches = [Stretch(TIMED, x[:STRETCH], y[:STRETCH]), Stretch(CLEAN, clean[:STRETCH], y[:STRETCH])]
    times: dict[str, list[int]] = {"shared": [], "source": [], "grown": []}
    for domains in (1, BANK):
        ran = streams.run(path, stretches, replace(streams.MINE, domains=domains), clock=streams.Busy())
        for domain, latency in zip(ran.domains, ran.latencies_ns, strict=True):
            times["shared" if domains == 1 else "grown" if domain else "source"].append(latency)
    network = Network(path, BATCH)
    shared, source, grown = (statistics.median(times[kind]) / 1e6 for kind in ("shared", "source", "grown"))
    seen = routing.see(network, clean[:STRETCH])
    found = Cost(learner, shared, source, grown, routing.microseconds(network, ran.after[-1], seen))
    network.close()
    return found


def stream(order: int) -> list[Stretch]:
    """The stretches of one order."""
    x, y = data.clean()
    given = {name: data.corrupted(name) for name in CORRUPTIONS}
    given[CLEAN] = (x[CLEAN_STREAM:], y[CLEAN_STREAM:])
    taken = dict.fromkeys(DOMAINS, 0)
    made = []
    for place in PLAN:
        name = CLEAN if place < 0 else CORRUPTIONS[(place + order) % len(CORRUPTIONS)]
        part = slice(taken[name], taken[name] + STRETCH)
        assert name == CLEAN or part.stop <= HELD_OUT.start
        made.append(Stretch(name, given[name][0][part], given[name][1][part]))
        taken[name] = part.stop
    return made


def _held_out() -> dict[str, tuple[Floats, Numbers]]:
    x, y = data.clean()
    found = {CLEAN: (x[CLEAN_HELD_OUT], y[CLEAN_HELD_OUT])}
    for name in CORRUPTIONS:
        x, y = data.corrupted(name)
        found[name] = (x[HELD_OUT], y[HELD_OUT])
    return found


def _eager(name: str, order: int, rate: float, images: Images) -> Row:
    """In PyTorch: fine-tuned, or as trained at rate 0."""
    network, stretches = FineTuned(rate, BATCH), stream(order)
    errors, matrix = [], []
    for stretch in stretches:
        errors.append(percent(network.stream(stretch.x) != stretch.y))
        matrix.append({name: percent(network.answer(x) == y) for name, (x, y) in images.items()})
    return Row(name, order, [one.domain for one in stretches], errors, matrix)


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    return [
        _shows(found),
        " ".join(str(__doc__).split()),
        "The loop runs as built by `edgecl build` with `router` over all taps, batch 16, its learning in step with its "
        f"answers; the bank holds {BANK} domains at most. `shared`: the same bundle with one state for all (`domains = "
        "1`). Fine-tuning: PyTorch, entropy of the answers as the loss of all parameters, SGD with momentum "
        f"{MOMENTUM} at the given rate, the same batches; it answers with the statistics of each batch, here and on "
        "what is held out, so it is told which images belong together. Means over the three orders.",
        "## What is kept",
        retained.table(found.rows, CLEAN, DOMAINS),
        _after(found.rows),
        "Held out: 1,000 clean images and 300 of each corruption, of other photographs than the stream's. "
        + retained.says(),
        "## Errors along the stream",
        _along(found.rows),
        "## Where samples go",
        " ".join(str(routing.__doc__).split("\n\n", 1)[1].split()),
        _routes(found.routing),
        "## What routers find",
        _compared(found.routing),
        "## What it costs",
        "Medians, processor time of one thread, while others used the machine: their ratios count (idle times of one "
        "answer: steps.md). A domain that was grown takes two passes: the network as built tells "
        "where a sample goes, and the domain's state answers.",
        _costs(found),
        "## Targets",
        _targets(found),
    ]


def _shows(found: Found) -> str:
    means = retained.means(found.rows, CLEAN, DOMAINS)
    told = []
    for learner in LEARNERS:
        shared, routed = means[f"{learner}, shared"], means[f"{learner}, routed"]
        told.append(
            f"`{learner}` with routed states has lost {routed[2]:.1f} points on clean images after five corruptions, "
            f"and knows {routed[1]:.1f} % of what is held out of all domains; with one state, {shared[2]:.1f} points "
            f"and {shared[1]:.1f} %. Its errors along the stream are {routed[0]:.1f} and {shared[0]:.1f} %"
        )
    return ". ".join(told) + "."


def _after(rows: Sequence[Row]) -> str:
    """What a domain's own state loses while the stream is at the next one."""
    lost = [
        row.own[place][name] - row.own[place + 1][name]
        for row in rows
        if row.own
        for place, name in enumerate(row.stretches[:-1])
        if name != CLEAN
    ]
    others = [
        abs(row.own[place][name] - row.own[place + 1][name])
        for row in rows
        if row.own
        for place in range(len(row.stretches) - 1)
        for name in CORRUPTIONS
        if name not in row.stretches[place : place + 2]
    ]
    return (
        f"A grown domain loses {np.mean(lost):.1f} points on average in the stretch after its own, {max(lost):.1f} at "
        "most: until the router tells, the next stretch's first samples are learned there. In other stretches that are "
        f"not its own it changes by {np.mean(others):.2f} on average, {max(others):.1f} at most, where the stream "
        "passes through it on the way to another."
    )


def _along(rows: Sequence[Row]) -> str:
    """By the place in the stream, as the corruptions change places in the orders."""
    kinds = ["clean" if place < 0 else "new" if place not in PLAN[:k] else "again" for k, place in enumerate(PLAN)]
    lines = []
    for name in NAMES:
        errors = np.mean([row.errors for row in rows if row.name == name], axis=0)
        lines.append([name, *(f"{error:.1f}" for error in errors)])
    return results.table(["", *(f"{k + 1}: {kind}" for k, kind in enumerate(kinds))], lines)


def _routes(found: Sequence[Routing]) -> str:
    lines = []
    for name in DOMAINS:
        first: list[int | None] = []
        again: list[int | None] = []
        shares: list[float] = []
        for one in found:
            for place, domain in enumerate(one.stretches):
                if domain == name and place:
                    shares.append(one.routed[place])
                    (again if name in one.stretches[:place] else first).append(one.delays[place])
        single = [one.single_of[name] for one in found]
        count = sum(len(one.founded[name]) for one in found) / len(found)
        cells = [f"{count:.1f}", f"{np.mean(shares):.1f}", _delays(first), _delays(again), f"{np.mean(single):.1f}"]
        lines.append([name, *cells])
    head = ["both learners, all orders", "domains", "routed right, %", "new: samples until its domain answers"]
    return results.table([*head, "again: samples", "single samples, %"], lines)


def _delays(given: Sequence[int | None]) -> str:
    return ", ".join("never" if one is None else str(one) for one in sorted(given, key=lambda d: d is None or d))


def _compared(found: Sequence[Routing]) -> str:
    names = list(found[0].settled)
    rows = {name: f"{np.mean([one.settled[name] for one in found]):.1f}" for name in names}
    single = {name: f"{np.mean([one.single[name] for one in found]):.1f}" for name in found[0].single}
    lines = [[name, rows[name], single.get(name.removesuffix(", each by itself"), "")] for name in names]
    return results.table(["routed right, %", "along the stream", "single held-out samples, mixed"], lines)


def _costs(found: Found) -> str:
    size = {name: [n for one in found.routing if one.learner == name for n in one.bytes] for name in LEARNERS}
    lines = [
        [
            cost.learner,
            *(f"{ms:.2f}" for ms in (cost.shared_ms, cost.source_ms, cost.grown_ms)),
            f"{cost.routing_us:.0f}",
            f"{np.mean(size[cost.learner]) / 1e3:.1f}",
        ]
        for cost in found.costs
    ]
    head = ["", "answer, one shared state, ms", "answer, routed, in the source, ms", "in a grown domain, ms"]
    return results.table([*head, "of it signature and route, µs", "kB a domain"], lines)


def _targets(found: Found) -> str:
    means = retained.means(found.rows, CLEAN, DOMAINS)
    lines = []
    for learner in LEARNERS:
        shared, routed = means[f"{learner}, shared"], means[f"{learner}, routed"]
        lines += [
            _target(f"{learner}, routed: first domain lost, points", routed[2], routed[2] < LEAST_FORGOTTEN),
            _target(f"{learner}, routed: at worst", routed[3], routed[3] < LEAST_FORGOTTEN),
            _target(f"{learner}: error, shared less routed", shared[0] - routed[0], shared[0] > routed[0]),
            _target(f"{learner}: final accuracy, routed less shared", routed[1] - shared[1], routed[1] > shared[1]),
        ]
    return results.table([f"target: less than {LEAST_FORGOTTEN} points lost, better than one state", "", ""], lines)


def _target(says: str, value: float, met: bool) -> list[str]:
    return [says, f"{value:+.2f}", results.verdict(met)]
