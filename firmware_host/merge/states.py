"""What is merged: state files, or what a board has learned in a state directory or a pulled copy of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecl import state
from edgecl.bundle import Bundle
from edgecl.checkpoints import Checkpoints, Resumed
from edgecl.errors import BundleError, StoreError
from edgecl.state import State

LEARNED = "learned"


@dataclass(frozen=True)
class Entry:
    """One state."""

    name: str
    state: State
    home: Path | None = None
    """The directory of its board, where it came from one."""


def read(paths: Sequence[Path], bundle: Bundle, domain: str) -> list[Entry]:
    """All of them, of a domain where they come from boards.

    Raises BundleError: of another lineage or layout than the bundle. StoreError: there is nothing, or it is damaged.
    """
    found = [_directory(path, bundle, domain) if path.is_dir() else _file(path, bundle) for path in paths]
    first = found[0]
    for other in found[1:]:
        if other.state.layout != first.state.layout:
            raise BundleError(
                f"{other.name}: its layout is another than that of {first.name}; give states of one form of the learner"
            )
    return _named(found, paths)


def _file(path: Path, bundle: Bundle) -> Entry:
    try:
        return Entry(path.stem, state.load(path, *bundle.manifest.layouts.values()))
    except BundleError:
        raise BundleError(
            f"{path}: its layout is another than that of {bundle.manifest.name}; give states of this bundle's lineage"
        ) from None


def _directory(path: Path, bundle: Bundle, domain: str) -> Entry:
    manifest = bundle.manifest
    lineage = path / LEARNED / manifest.lineage
    if not lineage.is_dir():
        others = sorted(one.name for one in (path / LEARNED).iterdir()) if (path / LEARNED).is_dir() else []
        if others:
            raise BundleError(
                f"{path}: what it has learned is of lineage {', '.join(others)}, the bundle of {manifest.lineage}; "
                "merge states of one lineage"
            )
        raise StoreError(f"{path}: nothing learned is there; give a state file, or pull it: edgecl pull --learned")
    resumed = _newest(lineage, bundle, path)
    learned = resumed.learned
    try:
        number = learned.bank.named(domain).number
    except KeyError:
        have = ", ".join(one.name for one in learned.bank.domains)
        raise StoreError(f"{path}: it has no domain {domain}; there are {have}") from None
    return Entry(path.resolve().name, learned.states[number], path.resolve())


def _newest(lineage: Path, bundle: Bundle, path: Path) -> Resumed:
    """What was learned with this bundle; without it, with another of the lineage that has the same layout."""
    others = sorted((one for one in lineage.iterdir() if one.is_dir() and one.name != bundle.id), key=_age)
    for folder in (lineage / bundle.id, lineage, *others):
        try:
            found = Checkpoints(folder).newest(*bundle.manifest.layouts.values()) if folder.is_dir() else None
        except BundleError:
            raise BundleError(
                f"{path}: the layout of what it has learned is another than that of {bundle.manifest.name}@"
                f"{bundle.manifest.version}; give the bundle that it was learned with"
            ) from None
        if found:
            return found
    raise StoreError(f"{path}: nothing learned is there; give a state file, or pull it: edgecl pull --learned")


def _age(folder: Path) -> float:
    """Newest first."""
    return -max((file.stat().st_mtime for file in folder.glob("*.json")), default=0.0)


def _named(found: Sequence[Entry], paths: Sequence[Path]) -> list[Entry]:
    """Each with a name of its own."""
    names = [one.name for one in found]
    return [
        one if names.count(one.name) == 1 else Entry(str(path), one.state, one.home)
        for one, path in zip(found, paths, strict=True)
    ]
