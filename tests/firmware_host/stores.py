"""Host stores of boards that really ran: what `edgecl pull` would have brought, with its tables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.loop import Loop
from edgecl.settings import Settings
from firmware_host.host_store import HostStore
from firmware_host.ingest import ingest

KEPT = Settings(sync=True, wait=True, keep_bytes=1 << 24, checkpoint_every=5)

Then = Callable[[Loop], object]


def lived(
    store: Path,
    device: str,
    bundle: Path,
    images: Sequence[npt.NDArray[Any]],
    labels: Sequence[int | None],
    *,
    settings: Settings = KEPT,
    then: Then = lambda loop: None,
) -> Path:
    """A board answers these images, whose labels its source knows, and then does more; its folder."""
    folder = store / device
    folder.mkdir(parents=True, exist_ok=True)
    with Loop(bundle, folder, settings, source="images") as loop:
        start = loop.place.position
        for place, (x, y) in enumerate(zip(images, labels, strict=True), start):
            loop.predict(np.asarray(x), position=place, y=y)
        then(loop)
    return folder


def ingested(store: Path) -> HostStore:
    """The store with tables of all that is in it."""
    opened = HostStore(store)
    for _ in ingest(opened):
        pass
    return opened
