"""Continual learning on the board: run a bundle, adapt it within a memory budget, write down all it does.

`with edgecl.open("cifar.ecl", state="learned") as loop: answer = loop.predict(picture)`
"""

import importlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecl.answer import Answer
    from edgecl.loop import Loop
    from edgecl.settings import Settings

__version__ = "0.1.0"
__all__ = ["Answer", "Loop", "Settings", "__version__", "open"]


def open(
    bundle: str | PathLike[str],
    *,
    state: str | PathLike[str],
    source: str = "",
    again: bool = False,
    **settings: Any,
) -> "Loop":
    """Open a bundle with a state directory, where it keeps what it learns. `settings` are the fields of `Settings`.

    `source` names where the samples come from: `Loop.place` is where an earlier run got to in it; with `again`, its
    start. Raises SettingError, StoreError, BundleError, ProgramError, JournalError.
    """
    from edgecl.loop import Loop
    from edgecl.settings import Settings

    return Loop(Path(bundle), Path(state), Settings(**settings), source=source, again=again)


def __getattr__(name: str) -> Any:
    """Load what is large only when it is asked for: `import edgecl` alone costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgecl' has no attribute {name!r}")


_HOMES = {"Answer": "edgecl.answer", "Loop": "edgecl.loop", "Settings": "edgecl.settings"}
