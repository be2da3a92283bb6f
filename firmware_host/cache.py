"""Objects that were deployed from here, by their SHA-256, so that the next ones can be sent as deltas from them.

`$XDG_CACHE_HOME/edgecl/objects/<sha256>`, no more than KEPT_BYTES; what was used longest ago goes first. Nothing
depends on it: a cache that cannot be read or written is as good as an empty one.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from edgecl import disk

KEPT_BYTES: Final = 2 << 30


def folder() -> Path:
    """Where it is."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "edgecl" / "objects"


def find(sha256: str) -> Path | None:
    """An object of before; its bytes may have been damaged since."""
    path = folder() / sha256
    with contextlib.suppress(OSError):
        if path.is_file():
            os.utime(path)
            return path
    return None


def keep(sha256: str, content: Path) -> None:
    """Keep an object that a board has got."""
    place = folder()
    path, new = place / sha256, place / f".{sha256}.{os.getpid()}.new"
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.utime(path)
            return
        try:
            shutil.copyfile(content, new)
            new.rename(path)
        finally:
            disk.remove(new)


def trim(kept_bytes: int = KEPT_BYTES) -> None:
    """Make it as small as it may be."""
    with contextlib.suppress(OSError):
        found = [(path, path.stat()) for path in folder().iterdir()]
        size = sum(status.st_size for _, status in found)
        for path, status in sorted(found, key=lambda one: one[1].st_mtime_ns):
            if size <= kept_bytes:
                return
            path.unlink(missing_ok=True)
            size -= status.st_size
