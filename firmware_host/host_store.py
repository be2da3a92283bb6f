"""A host store: what was pulled from devices, and the tables that are made of it. See docs/formats/host-store.md.

STORE/<device>/journal/<boot>-<n>.mcap            as they were pulled; edgecl never changes them
STORE/<device>/samples/<boot>-<n>.mcap
STORE/.tables/<table>/device=<device>/date=<day>/<part>.parquet
STORE/.tables/<device>.json                       which files are valid, and what they were made of
STORE/.tables/lock                                held while tables are made, shared while they are read
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from edgecl import disk
from edgecl.errors import StoreError

TABLES: Final = ".tables"
LOCK: Final = "lock"
FORMAT: Final = "edgecl-tables-1"
CLASSES: Final = ("journal", "samples")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9]{1,64}-([0-9]{1,12})\.mcap")


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, as it was when its records were taken."""

    name: str
    """From the device's folder on: `journal/<boot>-<n>.mcap`."""
    bytes: int
    mtime_ns: int
    records: int = 0
    bytes_lost: int = 0
    reason: str = ""
    """Why it is not whole; empty where it is."""

    @property
    def number(self) -> int:
        """Its place among those of its class."""
        match = _SEGMENT.fullmatch(self.name.rpartition("/")[2])
        return int(match[1]) if match else 0

    @property
    def boot(self) -> str:
        """That it is of."""
        return self.name.rpartition("/")[2].partition("-")[0]

    def same(self, other: "Segment") -> bool:
        """Whether the file has not changed since."""
        return (self.name, self.bytes, self.mtime_ns) == (other.name, other.bytes, other.mtime_ns)


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the wall clock of a boot."""

    level: int
    """2: the board said that it was synchronised; 1: it did not, and the time is plausible; 0: neither."""
    offset_ns: int
    """Wall clock minus monotonic clock, as the first record of that level had it."""


class Carry(msgspec.Struct, frozen=True, kw_only=True):
    """What the next segment of a device needs to know of those before it."""

    boot: str = ""
    sequence: int = -1
    run: int = 0
    """Monotonic time of the first record of the run."""
    bundle: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Files that were made together of some segments, and are replaced together."""

    number: int
    segments: tuple[Segment, ...]
    files: tuple[str, ...]
    """From the folder of tables on."""
    records: dict[str, int]
    """Rows by table."""
    guessed: dict[str, int]
    """Boots with times that a later segment may know better -> the level of clock that these times come from."""
    after: Carry
    schema: str
    """Of the tables: firmware_host/tables.py."""

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(self.records.values())


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """All that was made of one device."""

    format: str = FORMAT
    device: str
    parts: tuple[Part, ...] = ()
    clocks: dict[str, Clock] = {}
    following: int = 1
    """Number of the next part."""


class HostStore:
    """One folder of devices."""

    def __init__(self, root: Path) -> None:
        """Raises StoreError: there is no such folder, or it is the state directory of one device."""
        self.root, self.tables = root, root / TABLES
        if not root.is_dir():
            raise StoreError(f"{root}: no such folder; give the folder that edgecl pull filled (--into)")
        if any((root / name).is_dir() for name in CLASSES):
            raise StoreError(f"{root}: the folder of one device; give the one above it, where each device has a folder")

    def devices(self) -> list[str]:
        """Folders of devices, and devices with tables whose folders have gone."""
        try:
            there = {
                entry.name
                for entry in os.scandir(self.root)
                if not entry.name.startswith(".")
                and entry.is_dir()
                and any((Path(entry.path) / name).is_dir() for name in CLASSES)
            }
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}; give a folder that can be read") from None
        return sorted(there | set(self._known()))

    def segments(self, device: str) -> list[Segment]:
        """What is there of a device, each class in the order in which it was written. Raises StoreError."""
        found = []
        for name in CLASSES:
            folder = self.root / device / name
            try:
                for entry in os.scandir(folder) if folder.is_dir() else ():
                    if _SEGMENT.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        full = f"{name}/{entry.name}"
                        found.append(Segment(name=full, bytes=status.st_size, mtime_ns=status.st_mtime_ns))
            except OSError as error:
                raise StoreError(f"{folder}: {error.strerror}; give a folder that can be read") from None
        return sorted(found, key=lambda segment: (segment.name.partition("/")[0], segment.number))

    def index(self, device: str) -> Index:
        """What was made of a device before. Raises StoreError."""
        path = self._index(device)
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Index)
        except FileNotFoundError:
            return Index(device=device)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; give a folder that can be read") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise StoreError(f"{path}: not an index of tables; make them anew: edgecl ingest --again") from None
        if found.format != FORMAT:
            raise StoreError(f"{path}: of another version, {found.format}; make the tables anew: edgecl ingest --again")
        return found

    def indexes(self) -> list[Index]:
        """Of all devices that have tables. Raises StoreError."""
        return [self.index(device) for device in self._known()]

    def _known(self) -> list[str]:
        """Devices that have an index."""
        found = self.tables.glob("*.json") if self.tables.is_dir() else ()
        return sorted(unquote(path.name.removesuffix(".json")) for path in found)

    def write(self, index: Index) -> None:
        """What is valid from here on. Raises StoreError."""
        path = self._index(index.device)
        try:
            disk.replace(path, msgspec.json.encode(index))
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; make room") from None

    def forget(self, device: str) -> None:
        """No table of a device is valid any more."""
        self._index(device).unlink(missing_ok=True)

    def sweep(self, index: Index) -> None:
        """Delete files of a device that no part names: of an ingest that was interrupted, or of parts replaced."""
        valid = {self.tables / file for part in index.parts for file in part.files}
        for path in self.tables.glob(f"*/device={quoted(index.device)}/date=*/*.parquet*"):
            if path not in valid:
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    @contextlib.contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock. Who reads waits for who replaces files; a second ingest is told. Raises StoreError."""
        path = self.tables / LOCK
        try:
            self.tables.mkdir(exist_ok=True)
            file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)  # a reader may have no more
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; give a store that can be written") from None
        try:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    @contextlib.contextmanager
    def ingesting(self) -> Iterator[None]:
        """Be the only one that makes tables. Raises StoreError: another process does."""
        path = self.tables / "ingest.lock"
        try:
            self.tables.mkdir(exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; give a store that can be written") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise StoreError(f"{self.root}: another edgecl ingest is at work; wait for it") from None
        finally:
            os.close(file)

    def _index(self, device: str) -> Path:
        return self.tables / f"{quoted(device)}.json"


def quoted(device: str) -> str:
    """A device's name as a part of paths: letters, digits, `_.-~` as they are, others as %XX."""
    return quote(device, safe="")
