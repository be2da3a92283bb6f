"""A bundle is what is deployed: open, read and write one. The format is in docs/formats/bundle.md.

A bundle is a directory, or the same files in one `.ecl` archive (`edgecl/archive.py`). `manifest.json` lists every
other file with its size and sha256, and the sha256 of `manifest.json` itself is the bundle's id.

`open_bundle` copies the files into a directory that only this user can enter, and hashes the bytes on their way: what
was verified is what is used, whatever becomes of the original. Not protected is the copy, against root and processes
of this same user. A cached copy is verified again, where it lies, each time it is opened.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from edgecl import archive, contents, disk, unpack
from edgecl.contents import Canaries, Routing, Vectors
from edgecl.detector import Detector
from edgecl.errors import BundleError, StoreError
from edgecl.head import Sums
from edgecl.manifest import MANIFEST, File, Manifest, Method, encode
from edgecl.state import State

SUFFIX: Final = ".ecl"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Closing it, or leaving its `with` block, deletes a private copy; a cached one stays."""

    manifest: Manifest
    id: str
    """sha256 of `manifest.json`."""
    directory: Path
    """Where the verified files lie."""
    origin: str
    """What it was opened from, for messages."""
    private: tempfile.TemporaryDirectory[str] | None = None

    def has(self, name: str) -> bool:
        """Whether the bundle has a file of this name."""
        return any(file.path == name for file in self.manifest.files)

    def path(self, name: str) -> Path:
        """A file of the bundle. Raises BundleError when there is none of this name."""
        if not self.has(name):
            raise BundleError(f"{self.origin}: it has no {name}; build the bundle with it")
        return self.directory / name

    def close(self) -> None:
        """Delete the private copy."""
        if self.private:
            self.private.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bundle(path: Path, *, cache: Path | None = None) -> Bundle:
    """Verify everything in a bundle, and give its verified copy.

    The copy is private and temporary (under TMPDIR); or it is `cache/<id>`, where the next call finds it: `cache` is a
    directory that only this user may write, and is made where it is missing.

    Raises BundleError: anything at all is wrong with the bundle. StoreError: the copy cannot be written.
    """
    return _open(path, str(path), cache)


def open_alone(path: Path, cache: Path) -> Bundle:
    """The bundle, and no other, in a cache. Raises BundleError, StoreError."""
    bundle = open_bundle(path, cache=cache)
    try:
        for other in cache.iterdir():
            if other.name != bundle.id:
                disk.remove(other)
    except OSError as error:
        raise StoreError(f"{cache}: {error.strerror or error}; give another --state") from None
    return bundle


def open_in_place(directory: Path) -> Bundle:
    """The bundle in a directory that only this user may write, verified where it lies.

    Raises BundleError: anything at all is wrong with it.
    """
    where = str(directory)
    with contextlib.closing(unpack.members(directory, where)) as found:
        data, manifest = unpack.read_manifest(found, where)
        unpack.verify(found, manifest, directory, where)
    return Bundle(manifest, hashlib.sha256(data).hexdigest(), directory, where)


def read_state(bundle: Bundle, form: str = "") -> State:
    """Theta and slots as built, of the first form or another."""
    return contents.load_state(bundle.directory, bundle.manifest, bundle.origin, form)


def read_vectors(bundle: Bundle, method: Method) -> Vectors:
    """The self-test of one method."""
    return contents.load_vectors(bundle.directory, method)


def read_canaries(bundle: Bundle) -> Canaries:
    """The canaries; none gives arrays of length 0."""
    return contents.load_canaries(bundle.directory, bundle.manifest, bundle.origin)


def read_detector(bundle: Bundle) -> Detector | None:
    """The detector, where the bundle has one."""
    return (
        contents.load_detector(bundle.directory, bundle.manifest, bundle.origin) if bundle.manifest.detector else None
    )


def read_router(bundle: Bundle) -> Routing | None:
    """What routes between domains, where the bundle has it."""
    return contents.load_router(bundle.directory, bundle.manifest, bundle.origin) if bundle.manifest.router else None


def read_head(bundle: Bundle) -> Sums | None:
    """The sums of source samples that heads start from, where the bundle has them."""
    return contents.load_head(bundle.directory, bundle.manifest, bundle.origin) if bundle.manifest.head else None


def write(manifest: Manifest, files: Mapping[str, bytes], destination: Path) -> Bundle:
    """Write a bundle, as an archive where `destination` ends in `.ecl`, and open it; `manifest.files` is computed here.

    The same manifest and files give the same bytes. The bundle is verified before it takes its name; a bundle that has
    the name already is replaced.

    Raises BundleError: the files do not fit the manifest, or what has the name is no bundle. StoreError: disk trouble.
    """
    listed = tuple(
        File(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in sorted(files.items())
    )
    data = encode(msgspec.structs.replace(manifest, files=listed))
    unpack.check_manifest(data, str(destination))
    members = [(MANIFEST, data), *sorted(files.items())]
    destination = destination.absolute()  # `.` has no name to put another beside
    new, old = (destination.with_name(f".{destination.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    if destination.is_dir() and not (destination / MANIFEST).is_file():
        raise BundleError(f"{destination}: a directory that is not a bundle; give another destination")
    try:
        try:
            if destination.suffix == SUFFIX:
                disk.write_new(new, archive.pack(members))
            else:
                _write_directory(new, members)
            bundle = _open(new, str(destination), None)
            if destination.is_dir():  # rename does not replace a directory that holds files
                destination.rename(old)
            new.rename(destination)
        finally:
            disk.remove(new)
        disk.sync_directory(destination.parent)
        disk.remove(old)
    except OSError as error:
        raise StoreError(f"{destination}: {error.strerror or error}; give another destination") from None
    return bundle


def check_requirements(
    manifest: Manifest,
    *,
    edgecl_version: str,
    arch: str,
    executorch_version: str,
    available_memory_bytes: int,
) -> None:
    """Check what the bundle requires against what this board has.

    `requires.edgecl` and `requires.engine` end in a version, `0.1.0` or `executorch 1.5.1`: this one or a later one of
    the same major version will do. An empty `requires.arch` means any.

    Raises BundleError.
    """
    needs, name = manifest.requires, manifest.name
    for what, needed, have in (
        ("edgecl", needs.edgecl, edgecl_version),
        ("ExecuTorch", needs.engine, executorch_version),
    ):
        wanted, found = _version(needed), _version(have)
        if not wanted or not found or found[0] != wanted[0] or found < wanted:
            raise BundleError(
                f"{name}: made for {what} {needed}, this is {have}; install that one or rebuild the bundle"
            )
    if needs.arch and arch not in needs.arch:
        raise BundleError(f"{name}: made for {', '.join(needs.arch)}, this is {arch}; build it for this device")
    if needs.memory_bytes > available_memory_bytes:
        raise BundleError(
            f"{name}: needs {needs.memory_bytes} bytes of memory, {available_memory_bytes} are available; "
            "stop other programs, or build with a smaller batch or another learner"
        )


def _version(text: str) -> tuple[int, ...]:
    """The numbers of the version at the end of a text: (1, 5, 1) for `executorch 1.5.1+cpu`."""
    found = re.search(r"(?:^|[ =])(\d+(?:\.\d+)*)\S*$", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _write_directory(directory: Path, members: list[tuple[str, bytes]]) -> None:
    directory.mkdir()
    for name, content in members:
        folder = (directory / name).parent
        folder.mkdir(exist_ok=True)
        disk.write_new(directory / name, [content])
        disk.sync_directory(folder)


def _open(path: Path, where: str, cache: Path | None) -> Bundle:
    with contextlib.closing(unpack.members(path, where)) as found, contextlib.ExitStack() as stack:
        data, manifest = unpack.read_manifest(found, where)
        identity = hashlib.sha256(data).hexdigest()
        try:
            if cache is not None:
                unpack.cached(found, data, manifest, cache / identity, where)
                return Bundle(manifest, identity, cache / identity, where)
            private = tempfile.TemporaryDirectory(prefix="edgecl-")
            stack.callback(private.cleanup)
            unpack.copy(found, data, manifest, Path(private.name), where, durable=False)
            stack.pop_all()
            return Bundle(manifest, identity, Path(private.name), where, private)
        except OSError as error:
            raise StoreError(f"{where}: unpacking it: {error.strerror or error}; make room, or set TMPDIR") from None
