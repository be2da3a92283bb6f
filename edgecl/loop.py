"""The product in one screen: answer a sample at once, journal it, learn from batches behind it, checkpoint what was learned."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from edgecl import __version__, _runtime, checkpoints, guard, journal
from edgecl.bundle import Bundle, open_bundle, read_state
from edgecl.clock import SystemClock, boot_id
from edgecl.engine import open_program
from edgecl.errors import BundleError, ProgramError
from edgecl.learning import Batch, Learning
from edgecl.manifest import signature
from edgecl.preprocess import Preprocess
from edgecl.state import Place, State

SYNC_NS: Final = 5_000_000_000
"""Time between two journal syncs: what a power cut may lose."""


@dataclass(frozen=True)
class Answer:
    """What the bundle says of a sample."""

    seq: int
    """Number of the sample over the life of the state directory."""
    label: str
    """The most probable class."""
    index: int
    """Its index."""
    confidence: float
    """Its probability, 0 to 1."""
    entropy: float
    """Of all class probabilities, in nats."""
    logits: npt.NDArray[np.float32]
    """One number a class."""


@dataclass(frozen=True)
class Settings:
    """How a loop runs. The defaults are what a camera on a board wants."""

    hyper: Mapping[str, float] | None = None
    """Instead of the bundle's own values."""
    sync: bool = False
    """Learn in the calling thread, before the next sample: slower, and exactly repeatable."""
    wait: bool = False
    """When learning is behind, wait for it (a recorded source) instead of leaving batches out (a camera)."""
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    budget_bytes: int | None = None
    """Resident memory above which no update is taken; the bundle's own budget when None, none when 0."""
    seed: int = 0
    threads: int = 1
    engine: str = "executorch"
    trace: bool = False


class Loop:
    """An open bundle with a state directory: `predict` adapts as it goes, `learn` takes labels.

    Use it from one thread, and close it (or use `with`): closing writes what was learned.
    """

    def __init__(
        self,
        bundle: Bundle,
        state_directory: Path,
        settings: Settings,
        *,
        source: str = "",
        clock: journal.Clock | None = None,
        on_record: Callable[[journal.Record], None] | None = None,
    ) -> None:
        """Raises StoreError, BundleError, ProgramError, JournalError; nothing is left open then."""
        self._bundle, self._settings, self._clock = bundle, settings, clock or SystemClock()
        self._manifest = bundle.manifest
        self._on_record = on_record
        self._journal_lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            stack.callback(bundle.close)
            stack.enter_context(checkpoints.owned(state_directory))
            self._checkpoints = checkpoints.Checkpoints(state_directory, self._manifest.lineage)
            resumed = self._checkpoints.newest(self._manifest.layout)
            state = resumed.state if resumed else read_state(bundle)
            self.place = resumed.place if resumed and resumed.place.source == source else Place(source=source)
            lost = journal.recover(state_directory / "journal")
            self._seq = max(state.seen, _last_seq(state_directory / "journal") + 1)
            self._open_programs(stack)
            hyper = {h.name: h.value for h in self._manifest.learner.hyper} | dict(settings.hyper or {})
            self._learning = self._make_learning(state, hyper)
            self._journal = stack.enter_context(
                journal.Journal(state_directory / "journal", boot=boot_id(), clock=self._clock)
            )
            for loss in lost:
                self._note(loss)
            self._note(self._run_record(state, source, hyper))
            self._stack = stack.pop_all()
        self._preprocess = Preprocess(self._manifest.input)
        self._pending: list[tuple[int, int, npt.NDArray[Any]]] = []
        self._synced_ns = self._clock.monotonic_ns()
        self._updates = self._refused = self._answered = self._damaged = self._since_checkpoint = 0
        self._work: queue.Queue[Batch | None] | None = None
        self._failure: BaseException | None = None
        if not settings.sync and self._manifest.learner.adapts:
            self._work = queue.Queue(maxsize=1)
            self._worker = threading.Thread(target=self._work_on, name="edgecl-learning", daemon=True)
            self._worker.start()
