"""Finds bundles by their id: where the user says, beside a journal, and in what was deployed from here."""

import contextlib
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

    def __init__(self, given: Sequence[Path], homes: Sequence[Path]) -> None:
        """`given` are bundles or directories of them; `homes` are state directories. Raises BundleError."""
        self._stack = contextlib.ExitStack()
        self._opened: dict[str, Bundle] = {}
        self._places = [*given, *(home / place for home in homes for place in PLACES)]
        self._left = self._candidates()

    def __enter__(self) -> "Bundles":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def find(self, identity: str) -> Bundle | None:
        """The bundle of an id; None where it is nowhere."""
        while identity not in self._opened:
            path = next(self._left, None)
            if path is None:
                break
            with contextlib.suppress(EdgeclError):
                self._open(path)
        if identity not in self._opened:
            self._from_cache(identity)
        return self._opened.get(identity)

    def open(self, path: Path) -> Bundle:
        """A bundle by its path. Raises BundleError."""
        return self._open(path)

    def _open(self, path: Path) -> Bundle:
        bundle = self._stack.enter_context(open_bundle(path))
        return self._opened.setdefault(bundle.id, bundle)

    def _candidates(self) -> Iterator[Path]:
        for place in self._places:
            if place.is_file() or (place / MANIFEST).is_file():
                yield place
            elif place.is_dir():
                yield from sorted(place.rglob(f"*{SUFFIX}"))
                yield from (manifest.parent for manifest in sorted(place.rglob(MANIFEST)))

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


def missing(run: Run, device: str) -> str:
    """What to say of a bundle that is nowhere."""
    told = {setting.name: setting.value for setting in run.settings}
    by = f", by {told['deployed_by']}" if told.get("deployed_by") else ""
    return f"bundle {run.bundle} ({run.name}) is not here; it was deployed to {device}{by}; give --bundles DIR with it"
