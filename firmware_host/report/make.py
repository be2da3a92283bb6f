"""Makes a report of a host store: chooses the devices that are told in full, gathers what there is, and writes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import duckdb

from edgecl import disk
from edgecl.errors import EdgeclError, StoreError
from firmware_host import query
from firmware_host.evaluate.answers import Lineage, class_names
from firmware_host.evaluate.device import Options, evaluate
from firmware_host.evaluate.evaluation import Evaluation, Fleet
from firmware_host.evaluate.fleet import evaluate_fleet
from firmware_host.host_store import HostStore
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.what_if import Try
from firmware_host.report import device, fleet, pictures, tried
from firmware_host.report.device import Device
from firmware_host.report.domain_map import domain_map
from firmware_host.report.markup import Html, count, readable, when
from firmware_host.report.page import page
from firmware_host.report.parts import Plots
from firmware_host.report.pictures import Budget
from firmware_host.report.story import story
from firmware_host.report.tried import Results

DETAILS: Final = 12
"""Devices told in full, unless they are named: the ones most unlike the others."""
PICTURE_BYTES: Final = 3 << 20
"""Of all pictures together."""


@dataclass(frozen=True)
class Wanted:
    """What to report."""

    devices: tuple[str, ...] = ()
    """Told in full; none for the ones most unlike the others."""
    options: Options = field(default_factory=Options)
    tried: Results | tuple[Try, ...] = ()
    """Results of what-ifs, or tries to replay."""
    folder: Path = Path()
    """Where paths in the tries begin."""
    bundles: tuple[Path, ...] = ()
    """Where to look for them."""
    title: str = ""
    pictures: bool = True


@dataclass(frozen=True)
class Made:
    """A report that was written."""

    path: Path
    bytes: int
    devices: int
    """Of the store."""
    told: tuple[str, ...]
    """Told in full."""
    failed: Mapping[str, str]
    """Device -> why it could not be told."""


Progress = Callable[[str, int, int], None]
"""Device, how many are told, of how many."""


def make(store: HostStore, out: Path, wanted: Wanted, progress: Progress = lambda name, done, of: None) -> Made:
    """Write a report into a file, which is replaced if it is there.

    Raises StoreError: there is nothing to report, a device is not there, or the file cannot be written.
    """
    shown = evaluate_fleet(store)
    if wanted.options.lineage:
        shown = replace(shown, devices=tuple(one for one in shown.devices if one.lineage == wanted.options.lineage))
    names = list(dict.fromkeys(one.device for one in shown.devices))
    if not names:
        of = f" of a lineage {wanted.options.lineage}" if wanted.options.lineage else ""
        raise StoreError(f"{store.root}: no answers{of} in its tables; edgecl pull and edgecl ingest first")
    for name in wanted.devices:
        if name not in names:
            raise StoreError(f"{store.root}: no answers of a device {name}; there are {', '.join(names[:8])}")
    chosen = list(wanted.devices) or names[:DETAILS]
    results, failed = _results(store, chosen, wanted)
    budget = Budget(PICTURE_BYTES // len(chosen) if wanted.pictures else 0)
    told: list[Device] = []
    for place, name in enumerate(chosen):
        progress(name, place, len(chosen))
        try:
            told += _device(store, name, wanted, results.get(name, ()), failed.get(name), budget)
        except EdgeclError as error:
            failed[name] = str(error)
        budget.left = PICTURE_BYTES // len(chosen) if wanted.pictures else 0
    failed = {name: why for name, why in failed.items() if name not in {one.found.device for one in told}}
    if not told:
        raise StoreError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    with query.opened(store) as connection:
        steps = fleet.course(connection, shown)
    text = _rendered(store, shown, steps, told, results, wanted, failed)
    try:
        disk.replace(out.absolute(), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror}; give another file") from None
    return Made(out, out.stat().st_size, len(names), tuple(one.found.device for one in told), failed)


def _results(store: HostStore, chosen: Sequence[str], wanted: Wanted) -> tuple[Results, dict[str, str]]:
    if isinstance(wanted.tried, Mapping):
        return wanted.tried, {}
    if not wanted.tried:
        return {}, {}
    return tried.replayed(store.root, chosen, wanted.tried, wanted.bundles, wanted.folder)


def _device(
    store: HostStore, name: str, wanted: Wanted, results: tuple[tried.Tried, ...], failed: str | None, budget: Budget
) -> list[Device]:
    """All lineages of a device, the last one first. Raises EdgeclError."""
    home = store.root / name
    out = []
    with Bundles(wanted.bundles, [home]) as bundles:
        found = evaluate(store, name, bundles, wanted.options)
        with query.opened(store, [name]) as connection:
            for place, one in enumerate(reversed(found)):
                told = story(connection, one)
                scenes, notes = (
                    pictures.scenes(connection, home, one, told.events, budget) if wanted.pictures else ((), ())
                )
                out.append(
                    Device(
                        found=one,
                        told=told,
                        map=domain_map(home, one.lineage),
                        scenes=scenes,
                        tried=() if place else results,
                        classes=_classes(connection, one, bundles),
                        notes=notes if failed is None or place else (*notes, f"no what-ifs: {failed}"),
                    )
                )
    return out


def _classes(connection: duckdb.DuckDBPyConnection, found: Evaluation, bundles: Bundles) -> Mapping[int, str]:
    """Names of classes by their index, as far as they are known."""
    bundle = bundles.find(found.bundles[-1]) if found.bundles else None
    lineage = Lineage(found.device, found.lineage, found.bundles, found.learner, found.runs)
    return class_names(connection, lineage, bundle.manifest.classes if bundle else ())


def _rendered(
    store: HostStore,
    shown: Fleet,
    steps: Sequence[fleet.Step],
    told: Sequence[Device],
    results: Results,
    wanted: Wanted,
    failed: Mapping[str, str],
) -> str:
    plots = Plots()
    anchors = {(one.found.device, one.found.lineage): f"device-{place}" for place, one in enumerate(told, 1)}
    lineages = {name: sum(one.found.device == name for one in told) for name in (one.found.device for one in told)}
    titles = [
        one.found.device if lineages[one.found.device] == 1 else f"{one.found.device}, {one.found.lineage}"
        for one in told
    ]
    sections: list[Html] = []
    links = []
    if len(shown.devices) > 1:
        sections.append(fleet.rendered(shown, steps, plots, anchors))
        links.append(("fleet", "Fleet"))
    for one, title in zip(told, titles, strict=True):
        anchor = anchors[one.found.device, one.found.lineage]
        sections.append(device.rendered(one, anchor, plots, heading_of=readable(title)))
        links.append((anchor, readable(title, most=40)))
    first, last = min(one.first for one in shown.devices), max(one.last for one in shown.devices)
    devices = len({one.device for one in shown.devices})
    meta = f"{count(devices)} {'device' if devices == 1 else 'devices'} · {when(first)} to {when(last)} UTC"
    title = wanted.title or (f"Report on {readable(told[0].found.device)}" if devices == 1 else "Report on the fleet")
    return page(title, meta, links, sections, plots)
