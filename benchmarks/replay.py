"""Replay beside the loop: steps a second, what-ifs beside replays, two workers beside one, and Ray beside processes.

ResNet-20 on CIFAR-10, batch 16, a stream of clean and corrupted images with all samples kept; the loop learns in step
with its answers. Rates of one core are by CPU time, so that what else the machine does counts less.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import data
import msgspec
import numpy as np
import results

from edgecl.bundle import open_bundle
from edgecl.errors import EdgeclError
from edgecl.loop import Loop
from edgecl.settings import Settings
from firmware_host.executor import Executor, Here
from firmware_host.pool import Pool
from firmware_host.ray_executor import RayExecutor
from firmware_host.replay import many, what_if
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.device import Replay
from firmware_host.replay.many import Job, Replayed
from firmware_host.replay.recording import recordings
from firmware_host.replay.what_if import Try

LEARNERS: Final = ("norm", "tent", "ecotta")
BATCH: Final = 16
BANK: Final = 4
"""Domains, where the stream is routed."""
STREAM: Final = ((None, 350), ("contrast", 350), (None, 200), ("gaussian_noise", 350))
DEVICES: Final = 8
"""For several workers."""
ROUNDS: Final = 5
TRIES: Final = 10

LEAST_RATE: Final = 0.9
LEAST_SPEEDUP: Final = 1.7


class Rates(msgspec.Struct, frozen=True):
    """Of one learner."""

    learner: str
    routed: bool
    outcome: str
    answers: int
    loop_s: float
    """CPU time."""
    replay_s: float
    same_s: float
    """Ten what-ifs that differ in the guard alone."""
    other_s: float
    """Ten what-ifs, each with another rate."""

    @property
    def rate(self) -> float:
        """Of the replay, where that of the loop is 1."""
        return self.loop_s / self.replay_s


class Workers(msgspec.Struct, frozen=True):
    """All devices, by wall time."""

    one_s: float
    two_s: float
    ray_s: float
    same: bool
    """Whether pool, Ray and one process gave the same."""


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    rates: list[Rates]
    workers: Workers


def run(say: Callable[[str], None]) -> Found:
    """About ten minutes."""
    import cases  # not in the workers, which need no PyTorch

    from export.build import build

    rates = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks = []
        for learner in LEARNERS:
            path = folder / f"{learner}.ecl"
            project = cases.project("resnet20", learner, "float", batch=BATCH, epochs=1, tapped=True)
            build(project, path).bundle.close()
            tasks += [(path, learner, folder / f"{learner}-{domains}", domains) for domains in (1, BANK)]
        with Pool(1) as alone:  # a process of one thread
            for done in alone.map(_rates, tasks):
                if isinstance(done.result, EdgeclError):
                    raise done.result
                rates.append(done.result)
                say(f"{done.result.learner}, routed {done.result.routed}: {done.result.rate:.2f} of the loop")
        workers = _workers(folder / "norm.ecl", folder / "fleet")
        say(f"two workers: {workers.one_s / workers.two_s:.2f} times one")
    return Found(rates, workers)


def stream() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images, one after the other."""
    clean, taken = data.clean()[0], 0
    parts = []
    for kind, count in STREAM:
        if kind:
            parts.append(data.corrupted(kind)[0][:count])
        else:
            parts.append(clean[taken : taken + count])
            taken += count
    return np.concatenate(parts)


def _lived(bundle: Path, state: Path, domains: int, images: np.ndarray[Any, Any]) -> float:
    """A run of the loop: CPU seconds."""
    settings = Settings(sync=True, wait=True, budget_bytes=0, keep_bytes=1 << 30, domains=domains)
    with Loop(bundle, state, settings) as loop:
        start = time.process_time()
        for x in images:
            loop.predict(x)
        took_s = time.process_time() - start
    return took_s


def _rates(task: tuple[Path, str, Path, int]) -> Rates:
    bundle, learner, folder, domains = task
    images = stream()
    loops = [_lived(bundle, folder / "0", domains, images)]
    (recording,) = recordings([folder / "0"])
    with Bundles([bundle], []) as bundles, open_bundle(bundle) as opened:
        verdict = Replay(recording, bundles).verify()
        replays = [_cpu(lambda: Replay(recording, bundles).verify())]
        for number in range(1, ROUNDS):  # in turn, so that both have what the machine does besides
            loops.append(_lived(bundle, folder / str(number), domains, images))
            replays.append(_cpu(lambda: Replay(recording, bundles).verify()))
        same = [Try(name=str(number), guard={"window": 32.0 + number}) for number in range(TRIES - 1)]
        hyper = next(iter(opened.manifest.learner.hyper), None)
        other = same
        if hyper:
            other = [Try(name=str(n), hyper={hyper.name: hyper.value * (0.5 + n / 10)}) for n in range(TRIES - 1)]
        same_s, other_s = (
            _cpu(partial(what_if.what_if, recording, tries, bundles, folder=folder)) for tries in (same, other)
        )
    return Rates(
        learner=learner,
        routed=domains > 1,
        outcome=verdict.outcome,
        answers=verdict.answers,
        loop_s=statistics.median(loops),
        replay_s=statistics.median(replays),
        same_s=same_s,
        other_s=other_s,
    )


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _workers(bundle: Path, folder: Path) -> Workers:
    images = stream()[:700]
    for number in range(DEVICES):
        _lived(bundle, folder / f"board-{number}", 1, np.roll(images, 70 * number, 0))
    with tempfile.TemporaryDirectory() as unpacked:
        jobs = [Job(recording, (bundle,), Path(unpacked)) for recording in recordings([folder])]
        here = _verdicts(Here(), jobs)[1]
        with Pool(1) as one:
            _verdicts(one, jobs[:1])  # it has loaded everything then
            one_s, by_one = _verdicts(one, jobs)
        with Pool(2) as two:
            _verdicts(two, jobs[:2])
            two_s, by_two = _verdicts(two, jobs)
        with RayExecutor(2) as ray:
            _verdicts(ray, jobs[:2])
            ray_s, by_ray = _verdicts(ray, jobs)
    return Workers(one_s, two_s, ray_s, here == by_one == by_two == by_ray)


def _verdicts(executor: Executor, jobs: list[Job]) -> tuple[float, list[Replayed]]:
    start = time.perf_counter()
    found = [done.result for done in executor.map(many.verify, jobs, ordered=True)]
    took_s = time.perf_counter() - start
    assert all(isinstance(one, Replayed) and one.outcome == "bit-equal" for one in found)
    return took_s, [msgspec.structs.replace(one, seconds=0.0) for one in found if isinstance(one, Replayed)]


def render(found: Found) -> list[str]:
    """As Markdown."""
    rows = [
        [
            f"{one.learner}{', routed' if one.routed else ''}",
            f"{one.answers / one.loop_s:.0f}",
            f"{one.answers / one.replay_s:.0f}",
            f"{one.rate:.2f}",
            results.verdict(one.rate >= LEAST_RATE),
            f"{one.same_s / one.replay_s:.1f}",
            f"{one.other_s / one.replay_s:.1f}",
            results.verdict(max(one.same_s, one.other_s) < TRIES * one.replay_s),
        ]
        for one in found.rates
    ]
    workers = found.workers
    times = workers.one_s / workers.two_s
    return [
        " ".join(str(__doc__).split()),
        results.table(
            ["learner", "loop, answers/s", "replay, answers/s", "ratio", f"at least {LEAST_RATE}",
             "ten guards, in replays", "ten rates, in replays", f"less than {TRIES}"],
            rows,
        ),
        f"Medians of {ROUNDS}, in turn. Ten what-ifs are the board's own settings and nine others: guards that differ "
        "in a window, or rates of learning. Tries share what they compute alike.",
        f"{DEVICES} devices: one worker {workers.one_s:.1f} s, two {workers.two_s:.1f} s, which is {times:.2f} times "
        f"as fast (at least {LEAST_SPEEDUP}: {results.verdict(times >= LEAST_SPEEDUP)}); two of Ray "
        f"{workers.ray_s:.1f} s. "
        f"One process, two, and Ray give {'the same verdicts' if workers.same else '**different verdicts**'}.",
    ]  # fmt: skip


if __name__ == "__main__":
    print("\n\n".join(render(run(print))))
