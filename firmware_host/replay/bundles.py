"""Finds bundles by their id: where the user says, beside a journal, and in what was deployed from here."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from edgecl import unpack
from edgecl.bundle import SUFFIX, Bundle, open_bundle
from edgecl.errors import EdgeclError
from edgecl.journal import Run
from edgecl.manifest import MANIFEST
from firmware_host import cache

PLACES: Final = ("cache", "bundles")
"""Of a state directory, where bundles are."""


class Bundles:
    """All that can be found, opened at most once each. Leaving its `with` block closes them."""

    def __init__(self, given: Sequence[Path], homes: Sequence[Path], *, unpacked: Path | None = None) -> None:
        """`given` are bundles or directories of them; `homes` are state directories.

        With `unpacked`, verified copies lie there, and several processes share them; whose they are deletes them.
        """
        self._stack = contextlib.ExitStack()
        self._opened: dict[str, Bundle] = {}
        self._unpacked = unpacked
        self._where: dict[str, list[Path]] = {}
        self._looked: set[Path] = set()
        self._given, self._homes = given, homes

    def __enter__(self) -> "Bundles":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def beside(self, homes: Sequence[Path]) -> "Bundles":
        """The same, for journals of these state directories."""
        self._homes = homes
        return self

    def find(self, identity: str) -> Bundle | None:
        """The bundle of an id; None where it is nowhere."""
        for path in self._paths(identity) if identity not in self._opened else ():
            with contextlib.suppress(EdgeclError):
                self._open(path)
                break
        if identity not in self._opened:
            self._from_cache(identity)
        return self._opened.get(identity)

    def open(self, path: Path) -> Bundle:
        """A bundle by its path. Raises BundleError."""
        return self._open(path)

    def _open(self, path: Path) -> Bundle:
        bundle = self._stack.enter_context(open_bundle(path, cache=self._unpacked))
        return self._opened.setdefault(bundle.id, bundle)

    def _paths(self, identity: str) -> Iterator[Path]:
        """Where bundles of an id are, as far as one asks. Only manifests are read."""
        yield from list(self._where.get(identity, ()))
        for place in (*self._given, *(home / name for home in self._homes for name in PLACES)):
            if place in self._looked:
                continue
            self._looked.add(place)
            here: list[Path] = []
            for path in _candidates(place):
                with contextlib.suppress(EdgeclError), contextlib.closing(unpack.members(path, str(path))) as found:
                    data, _ = unpack.read_manifest(found, str(path))
                    name = hashlib.sha256(data).hexdigest()
                    self._where.setdefault(name, []).append(path)
                    here += [path] if name == identity else []
            yield from here

    def _from_cache(self, identity: str) -> None:
        """Put a bundle together from what was deployed from this host."""
        data = cache.find(identity)
        if not data:
            return
        with contextlib.suppress(EdgeclError, OSError), tempfile.TemporaryDirectory(prefix="edgecl-bundle-") as name:
            place = Path(name)
            manifest = unpack.check_manifest(data.read_bytes(), identity[:12])
            shutil.copyfile(data, place / MANIFEST)
            for file in manifest.files:
                held = cache.find(file.sha256)
                if not held:
                    return
                (place / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(held, place / file.path)
            self._open(place)


def _candidates(place: Path) -> Iterator[Path]:
    """Bundles in a place."""
    if place.is_file() or (place / MANIFEST).is_file():
        yield place
    elif place.is_dir():
        yield from sorted(place.rglob(f"*{SUFFIX}"))
        yield from (manifest.parent for manifest in sorted(place.rglob(MANIFEST)))


def missing(run: Run, device: str) -> str:
    """What to say of a bundle that is nowhere."""
    told = {setting.name: setting.value for setting in run.settings}
    by = f", by {told['deployed_by']}" if told.get("deployed_by") else ""
    return f"bundle {run.bundle} ({run.name}) is not here; it was deployed to {device}{by}; give --bundles DIR with it"
