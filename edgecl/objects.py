"""Objects: files named by the SHA-256 of their bytes, `objects/<sha256>`, which never change.

What is being received is `objects/<sha256>.part`. It grows at its end only, under a lock for each part, so that two
connections that send the same object help each other; a part that is there may be gone on from by any later one.
When it is whole it is hashed, brought to the medium and then given its name: the name says that the bytes are right.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgecl import disk
from edgecl.errors import BundleError, RequestError, StoreError
from edgecl.messages import MAX_OBJECT_BYTES

FOLDER: Final = "objects"
PART: Final = ".part"
_READ_BYTES: Final = 1 << 20
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass
class _Incoming:
    """What one connection knows of an object that it sends."""

    path: str
    """Of the object."""
    part: str
    size: int | None = None
    hashed: int = 0
    """Bytes that `digest` has seen, from the start."""
    digest: Any = field(default_factory=hashlib.sha256)
    inode: int = 0
    """Of the part that these bytes are in."""
    file: int | None = None
    """The part, while it is this object that comes."""
    syncing: disk.EarlySync | None = None

    def close(self) -> None:
        """Let go of the part."""
        file, syncing, self.file, self.syncing = self.file, self.syncing, None, None
        try:
            if syncing:
                syncing.close()
        finally:
            if file is not None:
                os.close(file)


class Objects:
    """The objects of a store. Each connection has its own; what they do to the files is safe among them."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self._incoming: dict[str, _Incoming] = {}
        self._now: _Incoming | None = None  # the one whose part is open

    def path(self, sha256: str) -> Path:
        """Where an object is, or will be. Raises RequestError: no object has that name."""
        if not _DIGEST.fullmatch(sha256):
            raise RequestError(f"object {sha256[:80]!r}: not 64 hexadecimal digits; give the SHA-256 of the object")
        return self.folder / sha256

    def size(self, sha256: str) -> int | None:
        """Of an object; None where it is not there."""
        return _size(self.path(sha256))

    def held(self, sha256: str) -> int:
        """Bytes that are there of an object, whole or not."""
        path = self.path(sha256)
        return _size(path) or _size(_part(path)) or 0

    def receive(self, sha256: str, off: int, data: bytes, size: int | None = None) -> int:
        """Take a part of an object, and give the offset of the next; at the end of the object, it is there.

        A part that does not continue what is there is not taken. `size` is that of the object, to be told once.

        Raises RequestError: the size is not known, or too large. StoreError: no room, or no way to write. BundleError:
        all the bytes have come, and are others; they are thrown away.
        """
        incoming = self._incoming.get(sha256)
        if not incoming:
            path = self.path(sha256)
            incoming = self._incoming[sha256] = _Incoming(str(path), str(_part(path)))
        if (there := _size(incoming.path)) is not None:
            self._forget(sha256)
            return there
        if size is not None:
            if size > MAX_OBJECT_BYTES:
                raise RequestError(f"object {sha256}: {size} bytes, the limit is {MAX_OBJECT_BYTES}; send smaller ones")
            incoming.size = size
        if incoming.size is None:
            raise RequestError(f"object {sha256}: how long it is was not told; send its length with the first part")
        with _disk_trouble(self.folder):
            if self._now is not incoming:
                self.rest()
                self._now = incoming
            with self._locked(incoming) as part:
                if (there := _size(incoming.path)) is None:
                    return self._grow(sha256, part, incoming, off, data)
                _unlink(incoming.part)  # another connection was faster
            self._forget(sha256)
            return there

    def rest(self) -> None:
        """Keep no file open: nothing comes just now. Raises OSError."""
        if self._now:
            self._now.close()
        self._now = None

    def add(self, sha256: str, pieces: Iterable[bytes]) -> Path:
        """Store an object that was made here. Raises StoreError; BundleError: its bytes are others."""
        path = self.path(sha256)
        if _size(path) is not None:
            return path
        new = path.with_name(f".{sha256}.{os.getpid()}.new")
        digest = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in pieces:
                digest.update(piece)
                yield piece

        with _disk_trouble(self.folder):
            self._make_folder()
            try:
                disk.remove(new)
                disk.write_new(new, hashed())
                if digest.hexdigest() != sha256:
                    raise BundleError(f"object {sha256}: its bytes are others; make it again")
                new.chmod(0o444)
                new.rename(path)
            finally:
                disk.remove(new)
            disk.sync_directory(self.folder)
        return path

    def make(self, sha256: str, fill: Callable[[Callable[[bytes], object]], object]) -> Path:
        """Store an object that a function writes in pieces. Raises StoreError; BundleError: its bytes are others."""
        path = self.path(sha256)
        new = path.with_name(f".{sha256}.{os.getpid()}.new")
        digest = hashlib.sha256()
        with _disk_trouble(self.folder):
            try:
                disk.remove(new)
                with new.open("xb") as file:

                    def write(piece: bytes) -> None:
                        digest.update(piece)
                        file.write(piece)

                    fill(write)
                    file.flush()
                    os.fsync(file.fileno())
                if digest.hexdigest() != sha256:
                    raise BundleError(f"object {sha256}: its bytes are others; send it whole")
                new.chmod(0o444)
                new.rename(path)
            finally:
                disk.remove(new)
            disk.sync_directory(self.folder)
        return path

    def remove(self, sha256: str) -> None:
        """Forget an object that no bundle has. Raises StoreError."""
        with _disk_trouble(self.folder):
            self.path(sha256).unlink(missing_ok=True)

    def parts(self) -> tuple[Path, ...]:
        """What is not whole, for whoever collects garbage."""
        return tuple(sorted(self.folder.glob(f"*{PART}")))

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            disk.make_directory(self.folder)

    def _forget(self, sha256: str) -> None:
        incoming = self._incoming.pop(sha256, None)
        if incoming:
            if self._now is incoming:
                self._now = None
            with suppress(OSError):
                incoming.close()

    @contextmanager
    def _locked(self, incoming: _Incoming) -> Iterator[int]:
        """The part, locked; what the connection knows of another file is forgotten."""
        while True:
            if incoming.file is None:
                self._make_folder()
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                incoming.file = os.open(incoming.part, flags, 0o600)
            file = incoming.file
            fcntl.flock(file, fcntl.LOCK_EX)
            inode = os.fstat(file).st_ino
            with suppress(FileNotFoundError):
                if os.stat(incoming.part).st_ino == inode:
                    break
            if _size(incoming.path) is not None:  # it has its name meanwhile
                break
            incoming.close()
        try:
            if inode != incoming.inode:
                incoming.inode, incoming.hashed, incoming.digest = inode, 0, hashlib.sha256()
            yield file
        finally:
            if incoming.file is not None:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _grow(self, sha256: str, part: int, incoming: _Incoming, off: int, data: bytes) -> int:
        held, size = os.fstat(part).st_size, incoming.size
        assert size is not None
        if held > size:  # of a disk that was not in order
            os.ftruncate(part, 0)
            held, incoming.hashed, incoming.digest = 0, 0, hashlib.sha256()
        if off == held:
            data = data[: size - held]
            self._check_room(part, size - held, sha256)
            held += _write(part, data, held)
            incoming.syncing = incoming.syncing or disk.EarlySync(part)
            incoming.syncing.wrote(len(data))
            if incoming.hashed == off:
                incoming.digest.update(data)
                incoming.hashed = held
        if held < size:
            return held
        for piece in _pieces(part, incoming.hashed, size):
            incoming.digest.update(piece)
        del self._incoming[sha256]
        self._now = None
        try:
            if incoming.digest.hexdigest() != sha256:
                _unlink(incoming.part)
                raise BundleError(f"object {sha256}: the bytes that came are others; send it again")
            os.fchmod(part, 0o444)
            if incoming.syncing:
                incoming.syncing.close()
            os.fsync(part)
            os.rename(incoming.part, incoming.path)
        finally:
            incoming.close()
        disk.sync_directory(self.folder)
        return size

    def _check_room(self, part: int, size: int, name: str) -> None:
        free = disk.free_bytes(part)
        if free < size:
            raise StoreError(f"{self.folder}: {size} bytes of object {name} are to come, {free} are free; make room")


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _size(path: Path | str) -> int | None:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; repair the state directory") from None


def _write(file: int, data: bytes, off: int) -> int:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, off)
        left, off = left[written:], off + written
    return len(data)


def _pieces(file: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := os.pread(file, min(_READ_BYTES, end - start), start)):
        yield piece
        start += len(piece)


@contextmanager
def _disk_trouble(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; make room, or repair the state directory") from None
