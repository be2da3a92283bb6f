"""What a run amounts to: counts records as they are journalled, and tells the sum of them."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edgecl import resident
from edgecl.journal import Damaged, Guard, Prediction, Record, Update

RECENT: Final = 500
"""Labelled samples that the recent share is taken over."""

TIMES: Final = 4096
"""Latest durations that a median is taken over, so that a run of weeks does not grow."""


@dataclass(frozen=True)
class Summary:
    """A run in numbers. What nothing was measured of is None."""

    samples: int
    damaged: int
    accuracy: float | None
    """Share of right answers among the samples with a label."""
    recent_accuracy: float | None
    """The same of the last `recent` of them."""
    recent: int
    novel: int | None
    """Samples unlike the source; None where there is no detector."""
    updates: int
    """Committed."""
    skipped: int
    rolled_back: int
    answer_ms: float | None
    """Median, as `update_ms`."""
    update_ms: float | None
    resident_bytes: int
    """Memory at the end of the source, before anything was let go of."""
    peak_bytes: int
    checkpoint: str | None
    """Where what was learned lies."""


class Tally:
    """Counts. Records come from several threads, one at a time."""

    def __init__(self) -> None:
        self.samples = self._damaged = self._labelled = self._right = self._compared = self._novel = 0
        self.updates = self._skipped = self._rolled_back = 0
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._answers_ns: deque[int] = deque(maxlen=TIMES)
        self._updates_ns: deque[int] = deque(maxlen=TIMES)

    def note(self, record: Record) -> None:
        """Count a record."""
        if isinstance(record, Prediction):
            self.samples += 1
            self._answers_ns.append(record.latency_ns)
            self._compared += record.HasField("similarity")
            self._novel += record.novel
            if record.HasField("y"):
                self._labelled += 1
                self._right += record.label == record.y
                self._recent.append(record.label == record.y)
        elif isinstance(record, Update):
            self.updates += record.committed
            self._updates_ns.append(record.duration_ns)
        elif isinstance(record, Guard):
            self._skipped += record.action == Guard.SKIPPED
            self._rolled_back += record.action != Guard.SKIPPED
        elif isinstance(record, Damaged):
            self._damaged += 1

    @property
    def seen(self) -> int:
        """Samples so far, damaged ones among them."""
        return self.samples + self._damaged

    @property
    def accuracy(self) -> float | None:
        """Share of right answers so far; None without labels."""
        return self._right / self._labelled if self._labelled else None

    def summary(self, resident_bytes: int, checkpoint: Path | None) -> Summary:
        """The sum of what was noted."""
        return Summary(
            samples=self.samples,
            damaged=self._damaged,
            accuracy=self.accuracy,
            recent_accuracy=sum(self._recent) / len(self._recent) if self._recent else None,
            recent=len(self._recent),
            novel=self._novel if self._compared else None,
            updates=self.updates,
            skipped=self._skipped,
            rolled_back=self._rolled_back,
            answer_ms=_median_ms(self._answers_ns),
            update_ms=_median_ms(self._updates_ns),
            resident_bytes=resident_bytes,
            peak_bytes=max(resident_bytes, resident.peak_resident_bytes()),  # the kernel counts the peak less exactly
            checkpoint=None if checkpoint is None else str(checkpoint),
        )


def text(summary: Summary) -> str:
    """A summary for people, a line a subject."""
    lines = [f"samples     {summary.samples}" + (f", {summary.damaged} damaged" if summary.damaged else "")]
    if summary.accuracy is not None and summary.recent_accuracy is not None:
        recent = f", of the last {summary.recent} {summary.recent_accuracy:.1%}"
        lines.append(f"right       {summary.accuracy:.1%}" + recent)
    if summary.novel is not None:
        lines.append(f"novel       {summary.novel / summary.samples:.1%}")
    lines.append(
        f"updates     {summary.updates} committed, {summary.skipped} skipped, {summary.rolled_back} rolled back"
    )
    if summary.answer_ms is not None:
        update = "" if summary.update_ms is None else f", {summary.update_ms:.2f} ms an update"
        lines.append(f"time        {summary.answer_ms:.2f} ms an answer{update}")
    lines.append(f"memory      {summary.resident_bytes / 1e6:.1f} MB, {summary.peak_bytes / 1e6:.1f} MB at most")
    if summary.checkpoint:
        lines.append(f"checkpoint  {summary.checkpoint}")
    return "\n".join(lines)


def _median_ms(durations_ns: deque[int]) -> float | None:
    return float(np.median(durations_ns)) / 1e6 if durations_ns else None
