"""A bundle with its signature: put one in, and tell whose it is."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from edgecl import archive, disk, oms
from edgecl.bundle import Bundle, open_bundle
from edgecl.errors import BundleError, StoreError
from edgecl.keys import PrivateKey, PublicKey
from edgecl.manifest import MANIFEST, SIGNATURE


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the signature of a bundle."""

    signed: bool
    fingerprint: str | None = None
    """Of the key that the signature names."""
    signer: str | None = None
    """The name of that key, where it is known here and the signature was verified; else nothing is proven."""

    def __str__(self) -> str:
        if not self.signed:
            return "not signed"
        if self.signer is None:
            return f"not verified, of a key that is not known here ({self.fingerprint})"
        return f"signed by {self.signer} ({self.fingerprint})"


def signature(bundle: Bundle) -> bytes | None:
    """The bytes of the signature that came with a bundle; None for an unsigned one."""
    path = bundle.directory / SIGNATURE
    return path.read_bytes() if path.exists() else None


def digests(bundle: Bundle) -> dict[str, str]:
    """SHA-256 by name of what a signature of this bundle must name."""
    return oms.digests(bundle.id, bundle.manifest.files)


def tell(bundle: Bundle, known: Sequence[PublicKey]) -> Told:
    """Whose the signature is. It is verified where its key is among the known ones, in a process of its own.

    Raises BundleError: malformed, or not a signature of this bundle by the key that it names.
    """
    data = signature(bundle)
    if data is None:
        return Told(signed=False)
    found = oms.read(data, bundle.origin)
    if found.hint not in {key.hint for key in known}:
        return Told(signed=True, fingerprint=found.fingerprint)
    signer = oms.verify_apart(data, digests(bundle), known, bundle.origin)
    return Told(signed=True, fingerprint=signer.fingerprint, signer=signer.name)


def sign(path: Path, key: PrivateKey) -> Bundle:
    """Verify a bundle, and put a signature into it, in place of the one that it may have. Its id stays as it is.

    A directory gets one new file; an archive is written again beside itself, and replaced at once.

    Raises BundleError: the bundle is damaged. StoreError: it cannot be written.
    """
    opened = open_bundle(path)
    with contextlib.ExitStack() as stack:
        stack.callback(opened.close)
        data = oms.sign(digests(opened), key, opened.manifest.name)
        whole = path.resolve()  # what a link leads to is signed, and the link stays
        new = whole.with_name(f".{whole.name}.{os.getpid()}.new")  # not inside: a bundle has no other files
        try:
            try:
                if whole.is_dir():
                    disk.write_new(new, [data])
                    new.rename(whole / SIGNATURE)
                    disk.sync_directory(whole)
                else:
                    disk.write_new(new, archive.pack(_members(opened, data)))
                    new.chmod(whole.stat().st_mode & 0o777)
                    new.rename(whole)
                    disk.sync_directory(whole.parent)
            finally:
                disk.remove(new)
            disk.replace(opened.directory / SIGNATURE, data)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}; sign it where it can be written") from None
        stack.pop_all()
    return opened


def _members(bundle: Bundle, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Those of the archive, one at a time, in its order."""
    yield MANIFEST, (bundle.directory / MANIFEST).read_bytes()
    yield SIGNATURE, data
    for name in sorted(file.path for file in bundle.manifest.files):
        yield name, (bundle.directory / name).read_bytes()


def require(told: Told, where: str) -> None:
    """Raises BundleError: no known key signed the bundle."""
    if told.signer is None:
        raise BundleError(f"{where}: {told}; sign it, or give the public key of its signer")
