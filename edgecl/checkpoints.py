"""What was learned, in the state directory: checkpoints `learned/<lineage>/<n>.json`, newest few kept, over objects.

A checkpoint is an index of everything that has been learned: the bank of domains with their states, classes that
were added, heads, rehearsal. It names each part by the sha256 of its bytes, which lie in `objects/`, and is written, by
rename, when all of them are there. So what was learned is the old or the new at any moment, never in between; a part
that did not change is not written again; and which domains an operation has left alone can be read from the names.

One process at a time owns a state directory (flock on `lock`).
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import safetensors
import safetensors.numpy

from edgecl import disk, state
from edgecl.bank import Bank, Domain
from edgecl.errors import BundleError, StoreError
from edgecl.manifest import Calibration, Digest, Layout
from edgecl.state import State

KEEP: Final = 5
"""Checkpoints kept: enough to go behind one that turned out bad, few enough for an SD card."""

FORMAT: Final = "edgecl-checkpoint-1"
MAX_INDEX_BYTES: Final = 1 << 24

OBJECTS: Final = "objects"


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where in a source a run was when a checkpoint was written."""

    source: str = ""
    """As the user named it; empty where there was none."""
    position: int = 0
    """Of the next sample."""


@dataclass(frozen=True)
class Learned:
    """Everything that has been learned."""

    bundle: str
    """Id of the bundle that learned it."""
    place: Place
    bank: Bank
    """With the source alone where there is no routing."""
    states: Mapping[int, State]
    """Of each domain of the bank."""
    active: int
    """The domain the stream was in."""
    router: str = ""
    """What its domains were told by: edgecl/routing.py."""
    added: tuple[str, ...] = ()
    """Names of the classes that were added."""
    tries: Mapping[int, str] = field(default_factory=dict)
    """Of each domain with labels, who was right before it learned the latest: edgecl/teaching.py."""


@dataclass(frozen=True)
class Parts:
    """Files of what else was learned, as bytes to write."""

    heads: Mapping[int, bytes] = field(default_factory=dict)
    """edgecl/head.py, of the domains that have labels."""
    rehearsal: bytes | None = None
    """edgecl/rehearsal.py"""
    labels: bytes | None = None
    """edgecl/labels.py"""


@dataclass(frozen=True)
class Resumed:
    """Where an earlier run left off."""

    path: Path
    learned: Learned
    heads: Mapping[int, Path]
    """The files of `Parts`, verified."""
    rehearsal: Path | None
    labels: Path | None
    passed_over: tuple[str, ...] = ()
    """Newer checkpoints that could not be read, and why."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int
    name: str
    step: int
    state: Digest
    signature: Digest
    calibration: Calibration
    head: Digest | None
    tries: str = ""


class _Index(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    bundle: Digest
    place: Place
    active: int
    router: str
    following: int
    domains: tuple[_Entry, ...]
    added: tuple[str, ...]
    rehearsal: Digest | None
    labels: Digest | None
    digest: str = ""
    """sha256 of the encoded index with this empty."""

    def sealed(self) -> "_Index":
        plain = msgspec.json.encode(msgspec.structs.replace(self, digest=""))
        return msgspec.structs.replace(self, digest=hashlib.sha256(plain).hexdigest())

    @property
    def objects(self) -> set[str]:
        parts = {part for entry in self.domains for part in (entry.state, entry.signature, entry.head)}
        return {part for part in (*parts, self.rehearsal, self.labels) if part}


def go_on(learned: Learned | None, source: str | None, *, again: bool) -> Place:
    """Where a run begins in a source: where an earlier one got to, or at its start; None keeps the place as it is."""
    if learned and (source is None or (learned.place.source == source and not again)):
        return learned.place
    return Place(source=source or "")


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Own a state directory, which is made where it is missing. Raises StoreError: another process owns it."""
    try:
        disk.make_directory(directory / "learned")
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; give another --state") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                f"{directory}: another process is using it; stop that one, or give another --state"
            ) from None
        yield
    finally:
        os.close(lock)


class Checkpoints:
    """The checkpoints of one lineage."""

    def __init__(self, directory: Path) -> None:
        """`directory`: `learned/<lineage>` of a state directory."""
        self._directory = directory
        self._sound: set[str] = set()  # objects that this process has written or read
        self._lasts = False  # whether the directory's own name is known to be durable

    def newest(self, *layouts: Layout) -> Resumed | None:
        """The newest that can be read, whose states have any of these layouts; None where there is none.

        Raises BundleError: the newest was written for another bundle. StoreError: there are some, and none can be read.
        """
        passed_over: list[str] = []
        for number in reversed(self._numbers()):
            path = self._path(number)
            try:
                return replace(self.load(path, *layouts), passed_over=tuple(passed_over))
            except BundleError:
                raise
            except StoreError as error:
                passed_over.append(str(error))
        if passed_over:
            raise StoreError(f"{passed_over[0]} (and no older checkpoint can be read)")
        return None

    def write(self, learned: Learned, parts: Parts) -> tuple[int, Path]:
        """Write the next checkpoint and delete the oldest. Raises StoreError."""
        numbers = self._numbers()
        path = self._path(numbers[-1] + 1 if numbers else 1)
        try:
            self._make()
            index = self._index(learned, parts).sealed()
            self._write(path, msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
            disk.sync_directory(self._directory)
            for number in numbers[: -KEEP + 1] if len(numbers) >= KEEP else []:
                self._path(number).unlink(missing_ok=True)
            self._sweep()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make room, or give another --state") from None
        return int(path.stem), path

    def mark(self) -> str:
        """Changes whenever something more has been learned, and only then; empty where nothing has been.

        Raises StoreError: the newest checkpoint cannot be read.
        """
        numbers = self._numbers()
        if not numbers:
            return ""
        index = self._read(self._path(numbers[-1]))
        return msgspec.structs.replace(index, place=Place(), active=0).sealed().digest

    def _make(self) -> None:
        """The directories, whose names last before anything in them is said to be there."""
        if not self._lasts:
            disk.make_directory(self._directory / OBJECTS, above=2)
            for old in self._directory.glob(".*.new"):  # of a process that was killed; this one is the only one now
                old.unlink(missing_ok=True)
            self._lasts = True

    def _index(self, learned: Learned, parts: Parts) -> _Index:
        """The index, with every object that it names on the disk."""
        entries = []
        for domain in learned.bank.domains:
            made = learned.states[domain.number]
            signature: dict[str, Any] = {
                "founders": domain.founders,
                "mean": domain.mean,
                "prototype": domain.prototype,
            }
            entries.append(
                _Entry(
                    number=domain.number,
                    name=domain.name,
                    step=made.step,
                    state=self._put(state.dump(made)),
                    signature=self._put(safetensors.numpy.save(signature)),
                    calibration=domain.calibration,
                    head=self._put_some(parts.heads.get(domain.number)),
                    tries=learned.tries.get(domain.number, ""),
                )
            )
        index = _Index(
            format=FORMAT,
            bundle=learned.bundle,
            place=learned.place,
            active=learned.active,
            router=learned.router,
            following=learned.bank.following,
            domains=tuple(entries),
            added=learned.added,
            rehearsal=self._put_some(parts.rehearsal),
            labels=self._put_some(parts.labels),
        )
        disk.sync_directory(self._directory / OBJECTS)
        return index

    def _put_some(self, content: bytes | None) -> str | None:
        return None if content is None else self._put(content)

    def _put(self, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        path = self._object(name)
        if name not in self._sound or not path.exists():
            self._write(path, content)
            self._sound.add(name)
        return name

    def _get(self, name: str, where: Path) -> bytes:
        """Raises StoreError."""
        path = self._object(name)
        try:
            if path.stat().st_size > state.MAX_STATE_BYTES:
                raise StoreError(f"{path}: too large for what was learned; delete {where.name}")
            content = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; {where.name} cannot be gone on from") from None
        if hashlib.sha256(content).hexdigest() != name:
            raise StoreError(f"{path}: damaged; {where.name} cannot be gone on from")
        self._sound.add(name)
        return content

    def load(self, path: Path, *layouts: Layout) -> Resumed:
        """One of them. Raises BundleError: written for another bundle. StoreError: it cannot be read."""
        index = self._read(path)
        domains, states, heads, tries = [], {}, {}, {}
        for entry in index.domains:
            domains.append(self._domain(entry, path))
            states[entry.number] = state.load(self._verified(entry.state, path), *layouts)
            if entry.head:
                heads[entry.number], tries[entry.number] = self._verified(entry.head, path), entry.tries
        learned = Learned(
            bundle=index.bundle,
            place=index.place,
            bank=Bank(tuple(domains), index.following),
            states=states,
            active=index.active,
            router=index.router,
            added=index.added,
            tries=tries,
        )
        rehearsal, labels = (self._verified(part, path) if part else None for part in (index.rehearsal, index.labels))
        return Resumed(path, learned, heads, rehearsal, labels)

    def bank(self) -> tuple[str, tuple[Domain, ...]] | None:
        """What its domains were told by, and they themselves, without their states: no bundle is needed to read them.
        Of the newest checkpoint that can be read; None where there is none. Raises StoreError.
        """
        error: StoreError | None = None
        for number in reversed(self._numbers()):
            path = self._path(number)
            try:
                index = self._read(path)
                return index.router, tuple(self._domain(entry, path) for entry in index.domains)
            except StoreError as damaged:
                error = error or damaged
        if error:
            raise error
        return None

    def _verified(self, name: str, where: Path) -> Path:
        self._get(name, where)
        return self._object(name)

    def _domain(self, entry: _Entry, path: Path) -> Domain:
        """Raises StoreError."""
        try:
            parts = safetensors.numpy.load(self._get(entry.signature, path))
            prototype, founders, mean = parts["prototype"], parts["founders"], parts["mean"]
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise StoreError(f"{path}: domain {entry.name}: {error}; delete it") from None
        forms = [(part.dtype.name, part.ndim) for part in (prototype, founders, mean)]
        if forms != [("uint8", 1), ("uint8", 2), ("float32", 1)]:
            raise StoreError(f"{path}: domain {entry.name}: not a signature; delete it")
        return Domain(entry.number, entry.name, prototype, entry.calibration, founders, mean)

    def _read(self, path: Path) -> _Index:
        """Raises StoreError."""
        try:
            if path.stat().st_size > MAX_INDEX_BYTES:
                raise StoreError(f"{path}: too large for a checkpoint; delete it")
            index = msgspec.json.decode(path.read_bytes(), type=_Index)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; give another --state") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"{path}: not a checkpoint: {error}; delete it") from None
        if index.format != FORMAT:
            raise StoreError(f"{path}: of another edgecl ({index.format}); delete it, or use that one")
        if index != index.sealed():
            raise StoreError(f"{path}: damaged: its digest does not match; delete it")
        return index

    def _sweep(self) -> None:
        """Delete the objects that no checkpoint names."""
        kept: set[str] = set()
        for number in self._numbers():
            try:
                kept |= self._read(self._path(number)).objects
            except StoreError:
                return  # what it may name stays
        for path in (self._directory / OBJECTS).iterdir():
            if path.stem not in kept:
                path.unlink(missing_ok=True)
                self._sound.discard(path.stem)

    def _write(self, path: Path, content: bytes) -> None:
        new = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            disk.remove(new)
            disk.write_new(new, [content])
            new.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                disk.remove(new)
            raise

    def _object(self, name: str) -> Path:
        return self._directory / OBJECTS / f"{name}.safetensors"

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}.json"

    def _numbers(self) -> list[int]:
        try:
            return sorted(int(file.stem) for file in self._directory.glob("[0-9]*.json") if file.stem.isdecimal())
        except OSError as error:
            raise StoreError(f"{self._directory}: {error.strerror}; give another --state") from None
