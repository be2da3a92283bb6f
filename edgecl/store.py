"""Bundles on the board: objects by their sha256, a directory of hard links a bundle, and `current`, which names one.

    objects/<sha256>      every file of every bundle, once (`edgecl/objects.py` receives them)
    bundles/<id>/         the files of one bundle under their names; there only when all of them are
    current               a link to the bundle that answers, switched by rename
    learned/<lineage>/<id>/   what each bundle has learned

All of it is on one file system. A name stands only for what is whole and on the medium.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecl import disk
from edgecl.errors import StoreError
from edgecl.manifest import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, Manifest

if TYPE_CHECKING:
    from edgecl.bundle import Bundle

CURRENT: Final = "current"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_LEFT: Final = re.compile(r"\.[0-9a-f]{64}\.([0-9]+)\.new")
"""An object that a process was making, which is gone if that process is."""


class Store:
    """One store. Its methods may raise StoreError, where the disk fails."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects = directory / "objects"
        self.bundles = directory / "bundles"

    def manifest(self, identity: str) -> Manifest:
        """Of a bundle whose manifest has been received. Raises BundleError: it is no manifest."""
        from edgecl.unpack import check_manifest  # late, as it brings numpy, which the agent does without

        return check_manifest(self.read_object(identity), identity[:12])

    def read_object(self, digest: str) -> bytes:
        """A small object, such as a signature."""
        path = self._object(digest)
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise StoreError(f"{path}: too large to be read whole; deploy again")
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; send it first") from None

    def missing(self, manifest: Manifest) -> list[str]:
        """sha256 of the objects that are not here yet."""
        return sorted({file.sha256 for file in manifest.files if not self._object(file.sha256).is_file()})

    def damaged(self, manifest: Manifest) -> list[str]:
        """sha256 of the objects whose bytes are others: they are removed, so that they are sent again."""
        found = []
        for digest in {file.sha256 for file in manifest.files}:
            path = self._object(digest)
            try:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() == digest:
                        continue
                path.unlink()
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}; send it again, or repair the store") from None
            found.append(digest)
        return sorted(found)

    def stage(self, identity: str, signature: str) -> None:
        """Give a bundle its directory, of objects that are all here; `signature` is that of its signature, or empty.

        Done again, it does nothing more. What was staged half before is begun anew.
        """
        place, new = self.place(identity), self.bundles / f".{identity}.new"
        manifest = self.manifest(identity)
        files = {MANIFEST: identity, **{file.path: file.sha256 for file in manifest.files}}
        if signature:
            files[SIGNATURE] = signature
        try:
            disk.sync_directory(self.objects)  # whoever received the last of them may have been killed
            if place.is_dir() and self._same(place, files):
                disk.sync_directory(self.bundles)  # and so may whoever staged it
                return
            self.bundles.mkdir(mode=0o700, exist_ok=True)
            disk.sync_directory(self.directory)
            disk.remove(new)
            new.mkdir(mode=0o700)
            for name, digest in files.items():
                (new / name).parent.mkdir(mode=0o700, exist_ok=True)
                os.link(self._object(digest), new / name)
            for folder in {(new / name).parent for name in files}:
                disk.sync_directory(folder)
            disk.remove(place)
            new.rename(place)
            disk.sync_directory(self.bundles)
        except OSError as error:
            raise StoreError(f"{place}: {error.strerror or error}; make room, or repair the store") from None

    def open(self, identity: str) -> "Bundle":
        """A bundle that is staged, every byte of it verified. Raises BundleError."""
        from edgecl.bundle import open_in_place  # late, as above

        return open_in_place(self.place(identity))

    def place(self, identity: str) -> Path:
        """Where the files of a bundle are."""
        return self.bundles / identity

    @property
    def current(self) -> str:
        """Id of the bundle that answers; empty before the first."""
        try:
            name = os.readlink(self.directory / CURRENT)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StoreError(f"{self.directory / CURRENT}: {error.strerror}; remove it, and deploy again") from None
        return Path(name).name

    def switch(self, identity: str) -> None:
        """From here on this bundle answers, or none where it is empty. Done again, it does nothing more."""
        link, new = self.directory / CURRENT, self.directory / f".{CURRENT}.new"
        try:
            if self.current == identity:
                disk.sync_directory(self.directory)  # of a switch that a power cut followed
                return
            if identity:
                disk.remove(new)
                new.symlink_to(Path(self.bundles.name) / identity)
                new.rename(link)
            else:
                link.unlink()
            disk.sync_directory(self.directory)
        except OSError as error:
            raise StoreError(f"{link}: {error.strerror}; repair the store") from None

    def learned(self, lineage: str, identity: str) -> Path:
        """Where a bundle keeps what it learns."""
        return self.directory / "learned" / lineage / identity

    def staged(self) -> list[str]:
        """Ids of all bundles that are here."""
        try:
            return sorted(path.name for path in self.bundles.iterdir() if _ID.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def free_bytes(self) -> int:
        """Room on the store's file system."""
        return shutil.disk_usage(self.directory).free

    def sweep(self, keep: Iterable[str], wanted: Iterable[str] = ()) -> None:
        """Delete all bundles but these, with what they learned, and every object that no bundle has.

        `wanted` are objects of a bundle that is still being received. What was left half done is deleted too.
        """
        kept, held = set(keep), set(wanted)
        try:
            dropped = [identity for identity in self.staged() if identity not in kept]
            for identity in dropped:
                disk.remove(gone := self.bundles / f".{identity}.old")
                self.place(identity).rename(gone)
            if dropped:
                disk.sync_directory(self.bundles)  # a bundle loses its name before it loses files
            for path in self.bundles.glob(".*"):
                disk.remove(path)
            for folder in self.directory.glob("learned/*/*"):
                if _ID.fullmatch(folder.name) and folder.name not in kept:
                    disk.remove(folder)
            for path in self.objects.iterdir() if self.objects.is_dir() else ():
                digest, left = path.name.removesuffix(".part"), _LEFT.fullmatch(path.name)
                unused = _ID.fullmatch(digest) and digest not in held and path.stat().st_nlink == 1
                if unused or (left and not Path("/proc", left[1]).exists()):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.directory}: {error.strerror or error}; repair the store") from None

    def _same(self, place: Path, files: dict[str, str]) -> bool:
        """Whether a directory has just these objects."""
        have = {str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir()}
        return have == files.keys() and all(
            (place / name).samefile(self._object(digest)) for name, digest in files.items()
        )

    def _object(self, digest: str) -> Path:
        return self.objects / digest
