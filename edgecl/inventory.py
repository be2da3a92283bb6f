"""What there is in a journal: whether its segments are whole, what was lost, and how much of everything it has."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgecl import journal
from edgecl.errors import JournalError
from edgecl.events import EVENTS
from edgecl.journal import Boot, Dropped, Gap, Loss, Prediction, Record, Run, Sample, Torn

CLASSES: Final = ("journal", "samples")
"""Folders of a state directory that hold segments."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A segment, as it was read."""

    file: Path
    bytes: int
    records: int
    """Read from it: all of them, or those before the damage."""
    state: str
    """whole, open (its end has not been written: a run goes on, or was cut off behind a chunk), or torn."""
    bytes_lost: int = 0
    reason: str = ""
    missing: int = 0
    """Records of the same run between the segment before, of this directory, and this one."""

    @property
    def lost(self) -> bool:
        """Whether records are gone that have been written."""
        return self.bytes_lost > 0 or self.missing > 0


@dataclass(kw_only=True)
class Stat:
    """How much there is of everything in one directory."""

    directory: Path
    segments: int = 0
    bytes: int = 0
    records: Counter[str] = field(default_factory=Counter)
    """By what they are of."""
    boots: int = 0
    runs: int = 0
    first_seq: int | None = None
    """Of the samples that were answered, or are kept."""
    last_seq: int | None = None
    first_ns: int | None = None
    """Wall clock of the first and last record, as the board knew it."""
    last_ns: int | None = None
    not_journalled: int = 0
    """Records that the journal had no room for."""
    dropped: int = 0
    """Samples that the ring had no room for."""
    bytes_lost: int = 0
    """Of segments that were repaired, and of those that are torn now."""


def folders(path: Path) -> list[Path]:
    """The directories of segments that a user means: those of a state directory, or the one given.

    Raises JournalError: there is no such directory.
    """
    found = [path / name for name in CLASSES if (path / name).is_dir()]
    if found:
        return found
    if not path.is_dir():
        raise JournalError(f"{path}: not a directory; give a state directory, or a directory of segments")
    return [path]


def check(path: Path) -> Iterator[Checked]:
    """Read every segment that a user means to its end. Raises JournalError: nothing is there, or it cannot be read."""
    if path.is_file():
        yield _checked(path, None)[0]
        return
    for folder in folders(path):
        before: journal.Stamp | None = None
        for file in _segments(folder):
            found, before = _checked(file, before)
            yield found


def stat(directory: Path) -> Stat:
    """Count what the segments of a directory hold. Raises JournalError."""
    told, boots = Stat(directory=directory), set[str]()
    for file in _segments(directory):
        told.segments += 1
        told.bytes += file.stat().st_size
        for record in journal.read(file):
            if isinstance(record, Torn):
                told.bytes_lost += record.bytes_lost
            else:
                boots.add(record.stamp.boot)
                _count(told, record)
    told.boots = len(boots)
    return told


def _checked(file: Path, before: journal.Stamp | None) -> tuple[Checked, journal.Stamp | None]:
    """A segment, and the stamp of its last record; `before` is that of the segment before it."""
    records, missing, torn, first = 0, 0, None, True
    for record in journal.read(file):
        if isinstance(record, Torn):
            torn = record
            continue
        stamp = record.stamp
        if first and before and stamp.boot == before.boot and stamp.sequence > before.sequence:
            missing = stamp.sequence - before.sequence - 1
        first, before, records = False, stamp, records + 1
    state = "whole" if not torn else "torn" if torn.bytes_lost or "summary" in torn.reason else "open"
    lost, reason = (torn.bytes_lost, torn.reason) if torn else (0, "")
    if lost:
        before = None  # what follows is not where it would have been
    size = file.stat().st_size
    return Checked(
        file=file, bytes=size, records=records, state=state, bytes_lost=lost, reason=reason, missing=missing
    ), before


def _count(told: Stat, record: Record) -> None:
    told.records[EVENTS[type(record)]] += 1
    if not isinstance(record, Boot | Loss):  # these tell of before
        now_ns = record.stamp.wall_ns
        told.first_ns = now_ns if told.first_ns is None else told.first_ns
        told.last_ns = now_ns
    match record:
        case Run():
            told.runs += 1
        case Prediction() | Sample():
            told.first_seq = record.seq if told.first_seq is None else min(told.first_seq, record.seq)
            told.last_seq = record.seq if told.last_seq is None else max(told.last_seq, record.seq)
        case Gap():
            told.not_journalled += record.records
            told.dropped += record.dropped
        case Dropped():
            told.dropped += record.records
        case Loss():
            told.bytes_lost += record.bytes_lost


def _segments(directory: Path) -> Iterable[Path]:
    try:
        return journal.segments(directory)
    except OSError as error:
        raise JournalError(f"{directory}: {error.strerror}; give a directory that can be read") from None
