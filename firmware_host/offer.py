"""What is deployed: a bundle that was verified here, the objects it is made of, and deltas from what boards have."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgecl import delta, keys, signed
from edgecl.bundle import Bundle, open_bundle
from edgecl.errors import BundleError, EdgeclError
from edgecl.keys import PublicKey
from edgecl.manifest import MANIFEST, SIGNATURE, Manifest
from edgecl.manifest_reader import decode
from edgecl.signed import Told
from firmware_host import cache

MAX_DELTA_BYTES: Final = 256 << 20
"""Of an object, to make a delta of it: one takes some ten seconds for 100 MB."""

WORTH: Final = 0.9
"""A delta that is not smaller than this part of the object is not worth its while."""


@dataclass(frozen=True)
class Piece:
    """A file of the bundle."""

    path: str
    sha256: str
    bytes: int
    content: Path


@dataclass(frozen=True)
class Delta:
    """An object that makes another one, on a board that has `base`, where it needs one."""

    sha256: str
    content: bytes
    base: str | None


@dataclass
class Offer:
    """A bundle for one board or many."""

    bundle: Bundle
    told: Told
    signature: str
    """SHA-256 of the signature; empty where it is not signed."""
    pieces: tuple[Piece, ...]
    """The manifest first, and the signature."""
    _deltas: dict[tuple[str, str], Delta | None] = field(default_factory=dict)
    _making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def id(self) -> str:
        return self.bundle.id

    @property
    def title(self) -> str:
        """Name and version, as people say it."""
        return title(self.manifest.name, self.manifest.version)

    def delta(self, piece: Piece, base: str) -> Delta | None:
        """The delta from another object that boards have; None where there is no use in one."""
        with self._making:  # several boards that need the same one wait for it
            pair = (base, piece.sha256)
            if pair not in self._deltas:
                self._deltas[pair] = _made(piece, base)
            return self._deltas[pair]

    def keep(self) -> None:
        """Remember these objects: a board has them now."""
        for piece in self.pieces:
            cache.keep(piece.sha256, piece.content)
        cache.trim()


def title(name: str, version: int) -> str:
    """Name and version of a bundle."""
    return f"{name}@{version}"


@contextmanager
def opened(path: Path, signers: tuple[PublicKey, ...] = ()) -> Iterator[Offer]:
    """The bundle of a path, while the block runs.

    Raises BundleError: anything is wrong with it, or `signers` are given and none of them signed it. StoreError.
    """
    with open_bundle(path) as bundle:
        told = signed.tell(bundle, signers or keys.known(keys.folder()))
        if signers:
            signed.require(told, str(path))
        signature = signed.signature(bundle)
        digest = hashlib.sha256(signature).hexdigest() if signature is not None else ""
        yield Offer(bundle, told, digest, tuple(_pieces(bundle, digest)))


def base_files(identity: str) -> dict[str, str]:
    """SHA-256 by name of the files of a bundle that was deployed from here before; none of any other."""
    path = cache.find(identity)
    try:
        files = decode(path.read_bytes()).files if path else ()
    except (OSError, BundleError):
        return {}
    return {MANIFEST: identity, **{file.path: file.sha256 for file in files}} if files else {}


def _pieces(bundle: Bundle, signature: str) -> Iterator[Piece]:
    names = [(MANIFEST, bundle.id)]
    if signature:
        names.append((SIGNATURE, signature))
    names += [(file.path, file.sha256) for file in bundle.manifest.files]
    for name, digest in names:
        path = bundle.directory / name
        yield Piece(name, digest, path.stat().st_size, path)


def _made(piece: Piece, base: str) -> Delta | None:
    old = cache.find(base)
    if old is None or piece.bytes > MAX_DELTA_BYTES or old.stat().st_size > MAX_DELTA_BYTES:
        return None
    try:
        made = delta.make(old, piece.content)
        if made is None or len(made) > WORTH * piece.bytes:
            return None
        header = delta.read_header(made)
    except EdgeclError:
        return None
    if header.base not in (base, None) or header.target != piece.sha256:
        return None  # the cached object was damaged
    return Delta(hashlib.sha256(made).hexdigest(), made, header.base)
