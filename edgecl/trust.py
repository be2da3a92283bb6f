"""Whose bundles a board takes: keys with the lineages that they sign for, development mode, and no way back.

`trust.d/NAME.pem` is a public key, and `trust.d/NAME.toml` beside it says for which lineages it is trusted; a key
without such a file is trusted for none. Any number of keys may be valid at once, so keys are changed by adding the new
one before the old one is removed. A file `trust.d/development` puts the board in development mode: unsigned bundles
are taken as well. docs/formats/trust.md tells the format.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgecl import disk, keys, oms
from edgecl.errors import BundleError, EdgeclError, KeyFileError, StoreError
from edgecl.keys import PublicKey
from edgecl.manifest import Manifest

EVERY: Final = "*"
"""In place of a lineage: all of them."""

DEVELOPMENT: Final = "development"
MAX_KEYS: Final = 64
MAX_FILE_BYTES: Final = 64 << 10

_LINEAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}|\*")


class Validity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of `NAME.toml`."""

    lineages: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1000)]


@dataclass(frozen=True)
class Trusted:
    """A key, and what it may sign."""

    key: PublicKey
    lineages: tuple[str, ...]

    def covers(self, lineage: str) -> bool:
        """Whether it may sign bundles of this lineage."""
        return lineage in self.lineages or EVERY in self.lineages


@dataclass(frozen=True)
class Trust:
    """What a trust directory says."""

    keys: tuple[Trusted, ...]
    development: bool
    problems: tuple[str, ...]
    """A line on each key that is there and cannot be used. The others are."""


def read(directory: Path) -> Trust:
    """A trust directory; one that is not there trusts nobody. Raises StoreError: it cannot be read."""
    found, problems = [], []
    try:
        paths = sorted(directory.glob(f"*{keys.PUBLIC}")) if directory.is_dir() else []
        if paths and directory.stat().st_mode & 0o002:
            raise StoreError(f"{directory}: everybody may write here, so it says nothing; chmod o-w {directory}")
        development = (directory / DEVELOPMENT).is_file()
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror or error}; make it readable") from None
    for path in paths[:MAX_KEYS]:
        try:
            if not keys.NAME.fullmatch(path.stem):
                raise KeyFileError(f"{path}: {path.stem!r} is no name for a key; use letters, digits, dots and dashes")
            found.append(Trusted(keys.read_public(path), _lineages(path.with_suffix(".toml"))))
        except EdgeclError as error:
            problems.append(str(error))
    problems += [f"{path}: one key more than {MAX_KEYS}; remove old ones" for path in paths[MAX_KEYS:]]
    return Trust(tuple(found), development, tuple(problems))


def add(directory: Path, key: PublicKey, lineages: tuple[str, ...]) -> None:
    """Trust a key for these lineages, or `*`, and for no others that it was trusted for before.

    Raises KeyFileError: another key has the name, or a name or lineage does not do. StoreError: it cannot be written.
    """
    path = directory / f"{key.name}{keys.PUBLIC}"
    if not keys.NAME.fullmatch(key.name):
        raise KeyFileError(f"{key.name!r}: no name for a key; use letters, digits, dots, dashes and underscores")
    if wrong := [lineage for lineage in lineages if not _LINEAGE.fullmatch(lineage)] or not lineages:
        raise KeyFileError(f"{key.name}: for no lineage: {wrong}; name lineages, or {EVERY} for all")
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.exists() and keys.read_public(path).der != key.der:
            raise KeyFileError(f"{path}: another key has this name; remove that one, or choose another name")
        # The key comes last: until it is there, a power cut leaves what is trusted as it was.
        names = ", ".join(f'"{lineage}"' for lineage in lineages)
        disk.replace(path.with_suffix(".toml"), f"lineages = [{names}]\n".encode())
        disk.replace(path, key.pem.encode())
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give a directory that can be written") from None


def remove(directory: Path, name: str) -> None:
    """Trust a key no longer. Raises KeyFileError: there is none of this name. StoreError: it cannot be removed."""
    path = directory / f"{name}{keys.PUBLIC}"
    try:
        if not keys.NAME.fullmatch(name) or not path.exists():
            raise KeyFileError(f"{name}: no such key in {directory}; see edgecl keys list --trust {directory}")
        path.unlink()
        disk.sync_directory(directory)
        disk.remove(path.with_suffix(".toml"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give a directory that can be written") from None


def set_development(directory: Path, on: bool) -> None:
    """Put a board in development mode, or take it out. Raises StoreError."""
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if on:
            disk.replace(directory / DEVELOPMENT, b"")
        else:
            disk.remove(directory / DEVELOPMENT)
            disk.sync_directory(directory)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror or error}; give a directory that can be written") from None


def admit(
    trust: Trust, lineage: str, files: Mapping[str, str], signature: bytes | None, where: str
) -> PublicKey | None:
    """Who signed a bundle that may run here; None for an unsigned one, in development mode.

    `files` are its `oms.digests`. A signature that is there has to be good, in development mode too. It is verified in
    a process of its own.

    Raises BundleError: unsigned, or signed by a key that is not trusted for this lineage, or signed wrongly.
    """
    if signature is None:
        if trust.development:
            return None
        raise BundleError(f"{where}: not signed; sign it with a key that this board trusts: {_names(trust, lineage)}")
    hint = oms.read(signature, where).hint
    same = [one for one in trust.keys if one.key.hint == hint]
    if not same:
        raise BundleError(
            f"{where}: signed by a key that is not trusted here, SHA256:{hint}; "
            f"trust that key, or sign with {_names(trust, lineage)}"
        )
    able = [one.key for one in same if one.covers(lineage)]
    if not able:
        lineages = ", ".join(dict.fromkeys(name for one in same for name in one.lineages))
        raise BundleError(
            f"{where}: signed by {same[0].key}, which is trusted for lineage {lineages} and not for {lineage}; "
            f"sign with {_names(trust, lineage)}"
        )
    return oms.verify_apart(signature, files, able, where)


def check_version(manifest: Manifest, floor: int, where: str) -> int:
    """The oldest version of this lineage that the board may take once it has committed this one.

    `floor` is what this gave for the bundle committed last, and 0 before any: it never falls.

    Raises BundleError: this version is below it.
    """
    if manifest.version < floor:
        raise BundleError(
            f"{where}: version {manifest.version} of {manifest.lineage} is a downgrade: this board takes none below "
            f"{floor}; deploy a later version"
        )
    return max(floor, manifest.min_version)


def _lineages(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise StoreError(f"{path}: more than {MAX_FILE_BYTES} bytes; see docs/formats/trust.md")
        lineages = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Validity).lineages
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; it names the lineages of the key beside it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise StoreError(f"{path}: {error}; see docs/formats/trust.md") from None
    for lineage in lineages:
        if not _LINEAGE.fullmatch(lineage):
            raise StoreError(f"{path}: {lineage!r} is no lineage; see docs/formats/trust.md")
    return lineages


def _names(trust: Trust, lineage: str) -> str:
    return ", ".join(str(one.key) for one in trust.keys if one.covers(lineage)) or "none yet"
