"""A harvest: chooses samples of a host store, finds their labels, takes each once, and writes a data set."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import msgspec

from edgecl import disk
from edgecl.errors import StoreError
from firmware_host import query
from firmware_host.harvest import choice, classes, dataset, gather, labels, share, sql
from firmware_host.harvest.about import ABOUT, FORMAT, About, Left
from firmware_host.harvest.choice import CHOSEN, Choice
from firmware_host.harvest.classes import Classes
from firmware_host.harvest.dataset import Arrays, Images, Sink
from firmware_host.harvest.labels import Row
from firmware_host.harvest.share import TAKEN, Shares
from firmware_host.host_store import HostStore
from firmware_host.replay.bundles import Bundles

PROVENANCE: Final = "provenance.csv"
MEMORY: Final = "512MB"
"""That DuckDB may take before it goes to the disk."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Harvest:
    """What came of it."""

    about: About
    refused: tuple[Row, ...]
    """Rows of the file of labels."""
    newer: int
    """Segments that are not in the tables yet."""


@dataclass(frozen=True)
class Wishes:
    """All that may be asked of a harvest."""

    choice: Choice = Choice()  # noqa: RUF009  frozen
    labels: Path | None = None
    """A file of them."""
    new_classes: bool = False
    """Whether names of that file that no device knows become classes."""
    shares: Shares = Shares()  # noqa: RUF009  frozen
    images: bool = False
    bundles: Sequence[Path] = ()


def harvest(store: HostStore, out: Path, wishes: Wishes, say: Progress = lambda line: None) -> Harvest:
    """Write a data set into a new folder, or over an older one.

    Raises StoreError: the store has no tables, or the folder cannot be written. QueryError, RequestError, EdgeclError:
    what was asked for cannot be.
    """
    _check_place(out)
    newer = _newer(store)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(query.opened(store))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecl-harvest-")))
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET temp_directory = '{scratch}'")
        choice.choose(connection, wishes.choice)
        homes = [store.root / device for device in store.devices()]
        bundles = stack.enter_context(Bundles(wishes.bundles, homes))
        known = classes.find(connection, bundles, wishes.choice.lineage)
        chosen = gather.devices(connection, CHOSEN)
        rows = labels.read(wishes.labels, wishes.choice.devices or chosen) if wishes.labels else iter(())
        refused = labels.given(connection, rows)
        labels.make(connection, known.by_bundle)
        names, strange = _names(connection, known, new=wishes.new_classes)
        refused += strange
        say("reading samples")
        unfit = gather.note(connection, store, known.given)
        left = share.make(connection, store, known.given, names, wishes.choice, wishes.shares)
        left = msgspec.structs.replace(
            left,
            unfit=unfit,
            missing=left.missing - unfit,
            refused_labels=len(refused),
            dropped_labels=_dropped(connection, wishes.choice),
        )
        say("writing samples")
        about = _write(connection, store, out, known, names, left, images=wishes.images)
    return Harvest(about, tuple(refused), newer)


def _names(connection: duckdb.DuckDBPyConnection, known: Classes, *, new: bool) -> tuple[tuple[str, ...], list[Row]]:
    """All classes; and labels of names that nobody knows, which are taken away unless they are `new` classes."""
    told = sql.column(connection, f"SELECT DISTINCT name FROM {labels.LABELS} ORDER BY name")
    strange = [name for name in told if name not in known.all]
    from_boards = set(sql.column(connection, "SELECT DISTINCT name FROM labels"))
    others = [name for name in strange if new or name in from_boards]
    refused = []
    for name in strange:
        if name not in others:
            count = sql.value(connection, f"DELETE FROM {labels.LABELS} WHERE name = ?", [name])
            problem = f"no class {name!r} ({count} labels); there are {', '.join(known.all)}; or give --new-classes"
            refused.append(Row("labels", problem=problem))
    return (*known.all, *others), refused


def _dropped(connection: duckdb.DuckDBPyConnection, wanted: Choice) -> int:
    """Labels that somebody gave to samples which are not there."""
    devices = f"AND device IN ({', '.join('?' * len(wanted.devices))})" if wanted.devices else ""
    return int(
        sql.value(
            connection,
            f"SELECT count(*) FROM {labels.LABELS} WHERE giver <> '{labels.SOURCE}' {devices} "
            "AND (device, seq) NOT IN (SELECT device, seq FROM samples)",
            wanted.devices,
        )
    )


def _newer(store: HostStore) -> int:
    """Segments of which no tables were made yet. Raises StoreError: there are no tables at all."""
    indexes = store.indexes()
    if not indexes:
        raise StoreError(f"{store.root}: it has no tables yet; make them: edgecl ingest {store.root}")
    taken = {(index.device, one.name) for index in indexes for part in index.parts for one in part.segments}
    return sum((device, one.name) not in taken for device in store.devices() for one in store.segments(device))


def _check_place(out: Path) -> None:
    if out.exists() and not (out / ABOUT).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError(f"{out}: it is there, and no data set; give another -o")


def _write(
    connection: duckdb.DuckDBPyConnection,
    store: HostStore,
    out: Path,
    known: Classes,
    names: tuple[str, ...],
    left: Left,
    *,
    images: bool,
) -> About:
    """Everything in a folder beside, which takes the name when it is whole. Raises StoreError."""
    out = out.absolute()
    new = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        disk.remove(new)
        new.mkdir(parents=True)
        sink: Sink = Images(new, names) if images else Arrays(new, known.given)
        counts, of_class = _samples(connection, store, known, names, sink)
        share.provenance(connection, new / PROVENANCE)
        files = {path.name: _sha256(path) for path in sorted(new.iterdir()) if path.is_file()}
        about = About(
            format=FORMAT,
            lineage=known.lineage,
            bundle=known.bundle,
            kind=known.given.kind,
            shape=known.given.shape,
            classes=names,
            added=names[len(known.names) :],
            devices=tuple(gather.devices(connection, TAKEN)),
            samples=counts,
            of_class=of_class,
            left=left,
            files=files,
        )
        (new / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n")
        disk.remove(out)
        new.rename(out)
        disk.sync_directory(out.parent)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror or error}; give another -o") from None
    finally:
        disk.remove(new)
    return about


def _samples(
    connection: duckdb.DuckDBPyConnection, store: HostStore, known: Classes, names: tuple[str, ...], sink: Sink
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Write all that were taken, in the order of devices and numbers. Raises StoreError, OSError."""
    counts = dict.fromkeys(dataset.FILES, 0)
    of_class = {name: dict.fromkeys(names, 0) for name in dataset.FILES if name != dataset.UNLABELLED}
    for device in gather.devices(connection, TAKEN):
        rows = connection.execute(
            f"SELECT seq, part, label FROM {TAKEN} WHERE device = ? ORDER BY seq", [device]
        ).fetchnumpy()
        seqs, parts, given = rows["seq"], rows["part"], rows["label"]
        place = 0
        for record in gather.read(store, device, seqs):
            x = gather.fitting(record, known.given)
            if x is None or record.seq != seqs[place]:
                break
            label = int(given[place])
            sink.add(str(parts[place]), x, None if label < 0 else label, f"{device}-{record.seq}")
            counts[str(parts[place])] += 1
            if label >= 0:
                of_class[str(parts[place])][names[label]] += 1
            place += 1
        if place != len(seqs):
            raise StoreError(f"{store.root / device}: its segments changed meanwhile; harvest again")
    sink.close()
    return counts, of_class


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
