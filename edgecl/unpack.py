"""The verified copy of a bundle: every byte hashed on its way from an archive or a directory into a private place."""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Final

from edgecl import archive, contents, disk
from edgecl.errors import BundleError
from edgecl.manifest import MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE, Manifest
from edgecl.manifest_reader import decode

MAX_BUNDLE_BYTES: Final = 1 << 30
"""All files together: as much as the whole memory of a small board."""

Member = tuple[str, int, Iterator[bytes]]
"""Name, size and content of a file. The content is used up before the next member is asked for."""


def members(path: Path, where: str) -> Generator[Member, None, None]:
    """Every file of a bundle, as it lies there. Raises BundleError."""
    try:
        if path.is_dir():
            yield from _of_directory(path, where)
        elif not path.is_file():
            raise BundleError(f"{where}: no bundle is here; give the path of a bundle")
        else:
            with path.open("rb") as file:
                yield from archive.unpack(file, where)
    except OSError as error:
        raise BundleError(f"{where}: {error.strerror or error}; give a readable bundle") from None


def read_manifest(found: Iterator[Member], where: str) -> tuple[bytes, Manifest]:
    """The manifest, which is the first member: its bytes, and what they say. Raises BundleError."""
    name, size, content = next(found, ("nothing", 0, iter(())))
    if name != MANIFEST or size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{where}: it starts with {name!r} of {size} bytes where {MANIFEST} belongs, of at most "
            f"{MAX_MANIFEST_BYTES}; get another bundle"
        )
    data = b"".join(content)
    return data, check_manifest(data, where)


def check_manifest(data: bytes, where: str) -> Manifest:
    """What a manifest says, if it lists the right names and sizes. Raises BundleError."""
    manifest = decode(data, f"{where}: {MANIFEST}")
    must, may = contents.allowed(manifest)
    names = {file.path for file in manifest.files}
    for name in sorted(must - names):
        raise BundleError(f"{where}: {MANIFEST} lists no {name}; rebuild the bundle")
    for name in sorted(names - may):
        raise BundleError(f"{where}: {MANIFEST} lists {name!r}, which no bundle has; rebuild the bundle")
    total = sum(file.bytes for file in manifest.files)
    if total > MAX_BUNDLE_BYTES:
        raise BundleError(f"{where}: {total} bytes, more than the limit of {MAX_BUNDLE_BYTES}; build a smaller bundle")
    return manifest


def copy(found: Iterable[Member], data: bytes, manifest: Manifest, into: Path, where: str, *, durable: bool) -> None:
    """Make the verified copy of a bundle in an empty directory. `found` is what follows the manifest.

    Raises BundleError, and OSError where the copy cannot be written.
    """
    disk.write_new(into / MANIFEST, [data], durable=durable)
    _take(found, manifest, where, into, durable=durable)
    if durable:
        for folder in (*(entry for entry in into.iterdir() if entry.is_dir()), into):
            disk.sync_directory(folder)
    contents.check(into, manifest, where)


def cached(found: Iterable[Member], data: bytes, manifest: Manifest, place: Path, where: str) -> None:
    """Verify the copy at `place`, and make it where there is none or a damaged one. A lock keeps other processes out.

    Raises BundleError, and OSError where the copy cannot be written.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _intact(place, data, manifest):
            return
        incoming = place.with_name(".incoming")
        disk.remove(incoming)
        incoming.mkdir(mode=0o700)
        copy(found, data, manifest, incoming, where, durable=True)
        disk.remove(place)
        incoming.rename(place)
        os.fsync(lock)
    finally:
        os.close(lock)


def verify(found: Iterable[Member], manifest: Manifest, place: Path, where: str) -> None:
    """Check the files of a bundle where they lie. `found` is what follows the manifest. Raises BundleError."""
    _take(found, manifest, where, None, durable=False)
    contents.check(place, manifest, where)


def _intact(place: Path, data: bytes, manifest: Manifest) -> bool:
    where = str(place)
    try:
        with contextlib.closing(members(place, where)) as found:
            if read_manifest(found, where)[0] != data:
                return False
            verify(found, manifest, place, where)
    except BundleError:
        return False
    return True


def _take(found: Iterable[Member], manifest: Manifest, where: str, into: Path | None, *, durable: bool) -> None:
    """Compare members with what the manifest lists, and copy them where a directory is given."""
    listed = {file.path: file for file in manifest.files}
    seen: set[str] = set()
    for name, size, content in found:
        file = listed.get(name)
        if name in seen:
            raise BundleError(f"{where}: {name!r} stands twice; rebuild the bundle")
        if file is None and name != SIGNATURE:
            raise BundleError(f"{where}: {name!r} is not in {MANIFEST}; remove it, or get the bundle again")
        if file is None and size > MAX_SIGNATURE_BYTES:
            raise BundleError(
                f"{where}: {name}: {size} bytes, more than the limit of {MAX_SIGNATURE_BYTES}; sign again"
            )
        if file is not None and size != file.bytes:
            raise BundleError(f"{where}: {name}: {size} bytes where {file.bytes} belong; get the bundle again")
        seen.add(name)
        digest = hashlib.sha256()
        pieces = _hashed(content, digest)
        if into is None:
            for _ in pieces:
                pass
        else:
            (into / name).parent.mkdir(exist_ok=True)
            disk.write_new(into / name, pieces, durable=durable)
        if file is not None and digest.hexdigest() != file.sha256:
            raise BundleError(f"{where}: {name}: damaged (its sha256 differs); get the bundle again")
    for name in sorted(listed.keys() - seen):
        raise BundleError(f"{where}: {name} is missing; get the bundle again")


def _hashed(pieces: Iterable[bytes], digest: "hashlib._Hash") -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def _of_directory(path: Path, where: str) -> Iterator[Member]:
    names = _names(path, where)
    if MANIFEST not in names:
        raise BundleError(f"{where}: it has no {MANIFEST}; give the path of a bundle")
    names.remove(MANIFEST)
    for name in (MANIFEST, *sorted(names)):
        # O_NONBLOCK, so that a fifo put here just now cannot make us wait
        file = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{where}: {name!r} is not a plain file; get the bundle again")
            yield name, status.st_size, _pieces(file, status.st_size, f"{where}: {name}")
        finally:
            os.close(file)


def _names(path: Path, where: str, folder: str = "") -> list[str]:
    """Names of the plain files here and in the one folder that a bundle may have."""
    names: list[str] = []
    with os.scandir(path) as found:
        for entry in found:
            name = folder + entry.name
            if entry.is_dir(follow_symlinks=False) and name == contents.ONNX:
                names += _names(path / name, where, f"{name}/")
            elif entry.is_file(follow_symlinks=False):
                names.append(name)
            else:
                raise BundleError(f"{where}: {name!r} is not a plain file; remove it, or get the bundle again")
            if len(names) > MAX_FILES + 2:  # the manifest and the signature are not counted in it
                raise BundleError(f"{where}: more than {MAX_FILES} files; give the path of a bundle")
    return names


def _pieces(file: int, size: int, where: str) -> Iterator[bytes]:
    while size:
        try:
            piece = os.read(file, min(size, archive.PIECE_BYTES))
        except OSError as error:
            raise BundleError(f"{where}: {error.strerror or error}; give a readable bundle") from None
        if not piece:
            raise BundleError(f"{where}: became shorter while it was read; open the bundle again")
        size -= len(piece)
        yield piece
