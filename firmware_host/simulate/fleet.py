"""A fleet of simulated boards in the layout of a host store, each of them a task for an executor.

A board has its folder once it is whole. So a simulation that was interrupted goes on where it was, if it is asked for
the same; `STORE/.simulated.json` says what that was.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgecl import disk, selftest
from edgecl.bundle import Bundle, open_bundle
from edgecl.errors import EdgeclError, StoreError
from edgecl.manifest import MANIFEST
from firmware_host import cache
from firmware_host.executor import Executor
from firmware_host.simulate import data_set
from firmware_host.simulate.data_set import DataError
from firmware_host.simulate.drifts import DRIFTS
from firmware_host.simulate.life import PHASES, Lived, Order, Settled, live

PLAN: Final = ".simulated.json"
SCRATCH: Final = ".simulating"
NONE: Final = "none"
"""As a drift: none ever comes."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for."""

    devices: int
    samples: int
    seed: int = 0
    days: int = 4
    labels: float = 0.0
    power_cuts: float = 0.0
    keep_bytes: int = 0
    drifts: tuple[str, ...] = ()
    """All that there are for this kind of samples, if none is given."""
    blind: bool = False
    learned: bool = False
    checkpoint_every: int = 10


def simulate(
    bundle: Path, source: str, store: Path, wanted: Wanted, executor: Executor, progress: Callable[[int], object]
) -> Iterator[tuple[str, Lived | EdgeclError]]:
    """Simulate what is not there yet: each board as it is done. `progress` gets how many were done now.

    Raises StoreError: the store has something else under a board's name, or was simulated otherwise. BundleError,
    SourceError, DataError.
    """
    scratch = store.absolute() / SCRATCH
    try:
        disk.remove(scratch)
        (scratch / "data").mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"{store}: {error.strerror}; give another --out") from None
    try:
        with open_bundle(bundle, cache=scratch / "bundles") as opened:
            selftest.require(selftest.run(opened), opened.origin)
            settled = _settled(wanted, opened, data_set.unpack(source, opened.manifest, scratch / "data"))
            _check(store, settled, wanted.devices)
            _keep(opened)
            left = _left(store.absolute(), scratch, opened.directory, settled, wanted.devices)
            for done in executor.map(live, left, progress=progress):
                yield done.task.name, done.result
            _gather_phases(store)
    finally:
        disk.remove(scratch)


def names(devices: int) -> list[str]:
    """Of the boards."""
    width = max(4, len(str(devices)))
    return [f"sim-{number:0{width}}" for number in range(1, devices + 1)]


def _settled(wanted: Wanted, bundle: Bundle, digest: str) -> Settled:
    """Raises DataError: it names a drift that there is not."""
    there = DRIFTS[bundle.manifest.input.kind]
    for drift in wanted.drifts:
        if drift not in there and drift != NONE:
            kind = bundle.manifest.input.kind
            raise DataError(f"drift {drift}: unknown for samples of kind {kind}; give {', '.join((*there, NONE))}")
    drifts = tuple(drift for drift in wanted.drifts if drift != NONE) if wanted.drifts else tuple(there)
    return Settled(
        seed=wanted.seed,
        samples=wanted.samples,
        days=min(wanted.days, wanted.samples),
        labels=wanted.labels,
        power_cuts=wanted.power_cuts,
        keep_bytes=wanted.keep_bytes,
        drifts=drifts,
        blind=wanted.blind,
        learned=wanted.learned,
        checkpoint_every=wanted.checkpoint_every,
        bundle=bundle.id,
        data=digest,
    )


def _check(store: Path, settled: Settled, devices: int) -> None:
    """Raises StoreError."""
    plan = store / PLAN
    told = msgspec.json.format(msgspec.json.encode(settled), indent=1) + b"\n"
    try:
        if not plan.exists():
            there = next((name for name in names(devices) if (store / name).exists()), None)
            if there:
                raise StoreError(f"{store / there}: is there, and was not simulated; give another --out")
            disk.replace(plan, told)
        elif plan.read_bytes() != told:
            raise StoreError(f"{store}: was simulated with other options, which {PLAN} has; give another --out")
    except OSError as error:
        raise StoreError(f"{plan}: {error.strerror}; give another --out") from None


def _left(store: Path, scratch: Path, bundle: Path, settled: Settled, devices: int) -> Iterator[Order]:
    """Boards that are not there yet."""
    for place, name in enumerate(names(devices)):
        if not (store / name).exists():
            yield Order(place, name, settled, bundle, scratch / "data", store / name, scratch / name)


def _gather_phases(store: Path) -> None:
    """One file of all boards. Raises StoreError."""
    found = [path.read_text("utf-8").splitlines(keepends=True) for path in sorted(store.glob(f"sim-*/{PHASES}"))]
    text = "".join([*(found[0][:1] if found else []), *(row for rows in found for row in rows[1:])])
    try:
        disk.replace(store / PHASES, text.encode())
    except OSError as error:
        raise StoreError(f"{store}: {error.strerror}; make room") from None


def _keep(bundle: Bundle) -> None:
    """Keep the bundle as if it had been deployed from here: a replay finds it by its id then."""
    cache.keep(bundle.id, bundle.directory / MANIFEST)
    for file in bundle.manifest.files:
        cache.keep(file.sha256, bundle.directory / file.path)
    cache.trim()
