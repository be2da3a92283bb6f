"""What a service knows of how its loop is: counts, and the last latencies and right answers."""

import math
import time
from collections import deque
from typing import Final

import numpy as np

from edgecl.journal import Checkpoint, Guard, Prediction, Record, Update
from edgecl.loop import Loop
from edgecl.requests import Status

RECENT: Final = 512
"""Answers that latency and accuracy are taken over."""

ACTIONS: Final = {Guard.SKIPPED: "skipped", Guard.ROLLED_BACK: "rolled back", Guard.RESET: "reset"}


class Pulse:
    """Counts the records of one open bundle. They come from several threads, one at a time."""

    def __init__(self) -> None:
        self._latencies_ns: deque[int] = deque(maxlen=RECENT)
        self._right: deque[bool] = deque(maxlen=RECENT)
        self._entropies: deque[float] = deque(maxlen=RECENT)
        self._novel: deque[bool] = deque(maxlen=RECENT)
        self._guard = ""
        self._samples = self._updates = self._refused = self._rolled_back = 0
        self._last_s = time.monotonic()
        self._checkpoint_s: float | None = None

    def note(self, record: Record) -> None:
        """Count a record."""
        match record:
            case Prediction():
                self._samples += 1
                self._last_s = time.monotonic()
                self._latencies_ns.append(record.latency_ns)
                self._entropies.append(record.entropy)
                if record.HasField("similarity"):
                    self._novel.append(record.novel)
                if record.HasField("y"):
                    self._right.append(record.label == record.y)
            case Update():
                self._updates += record.committed
            case Guard():
                self._refused += 1
                self._rolled_back += record.action != Guard.SKIPPED
                self._guard = f"{ACTIONS.get(record.action, 'acted')}: {record.reason}"
            case Checkpoint():
                self._checkpoint_s = time.monotonic()

    def status(self, loop: Loop) -> Status:
        """Of the loop that the records came from."""
        now_s, manifest = time.monotonic(), loop.manifest
        latencies, right = list(self._latencies_ns), list(self._right)
        entropies, novel = [one for one in list(self._entropies) if math.isfinite(one)], list(self._novel)
        return Status(
            bundle=loop.bundle.id,
            name=manifest.name,
            version=manifest.version,
            learner=manifest.learner.name,
            samples=self._samples,
            updates=self._updates,
            refused=self._refused,
            rolled_back=self._rolled_back,
            step=loop.state.step,
            domain=loop.domain,
            domains=loop.domains,
            classes=len(loop.classes),
            checkpoint=loop.checkpoint.name if loop.checkpoint else "",
            checkpoint_age_s=-1.0 if self._checkpoint_s is None else now_s - self._checkpoint_s,
            accuracy=sum(right) / len(right) if right else None,
            labelled=len(right),
            latency_ms=float(np.percentile(latencies, 95)) / 1e6 if latencies else 0.0,
            idle_s=now_s - self._last_s,
            entropy=sum(entropies) / len(entropies) if entropies else None,
            novel=sum(novel) / len(novel) if novel else None,
            canaries=loop.canaries,
            guard=self._guard,
        )
