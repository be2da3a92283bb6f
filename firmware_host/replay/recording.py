"""What there is of one device: segments of its journal and of its samples, and the state directory if that is at hand.

A recording is read once from its start. Runs follow each other; within one, `stamp.sequence` has no gaps, so where
there is one, records are missing, and that is told by a Hole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from edgecl import journal, recovery
from edgecl.errors import JournalError
from edgecl.journal import TOPICS, Boot, ClockSet, Loss, Record, Run, Sample
from edgecl.segment import Message

JOURNAL: Final = "journal"
SAMPLES: Final = "samples"
SUFFIX: Final = ".mcap"
PREFACE: Final = (Loss, Boot, ClockSet)
"""Records that stand before the run that they are of."""


@dataclass(frozen=True)
class Recording:
    """Of one device."""

    name: str
    segments: tuple[Path, ...]
    samples: tuple[Path, ...]
    home: Path | None = None
    """The state directory, or the copy of it, where the segments lie."""


@dataclass(frozen=True)
class Hole:
    """From here on records of a run are missing."""

    reason: str


def recordings(paths: Sequence[Path]) -> list[Recording]:
    """State directories, directories of several of them, or segments. Raises JournalError: there is no journal."""
    found: list[Recording] = []
    loose: list[Path] = []
    for path in paths:
        if path.is_dir():
            here = _directory(path)
            if not here:
                raise JournalError(f"{path}: no journal; give a state directory, or segments of one")
            found += here
        elif path.is_file():
            loose.append(path)
        else:
            raise JournalError(f"{path}: not there; give a state directory, or segments of one")
    if loose:
        found.append(_loose(loose))
    return found


def records(segments: Sequence[Path]) -> Iterator[Record | Hole]:
    """The records of a journal, as far as its segments are whole. Raises JournalError: a file cannot be read."""
    expected: int | None = None
    for path in segments:
        for message in _messages(path):
            if expected is not None and message.sequence not in (0, expected):
                yield Hole(f"records {expected} to {message.sequence - 1} of the run are missing before {path.name}")
            expected = message.sequence + 1
            kind = TOPICS.get(message.channel.topic)
            if kind:
                try:
                    yield kind.FromString(message.data)
                except DecodeError:
                    yield Hole(f"{path.name} has a record that does not follow its schema")


class Runs:
    """The runs of a journal, one behind the other."""

    def __init__(self, found: Iterator[Record | Hole]) -> None:
        self._found = found
        self._next: Run | None = None
        self.headless = 0
        """Records before the first run: the segment that it starts in is not here."""

    def __iter__(self) -> Iterator[tuple[Run, Iterator[Record | Hole]]]:
        for item in self._found:
            if isinstance(item, Run):
                self._next = item
                break
            self.headless += not isinstance(item, PREFACE)
        while run := self._next:
            self._next = None
            rest = self._rest()
            yield run, rest
            for _ in rest:
                pass  # what nobody wanted

    def _rest(self) -> Iterator[Record | Hole]:
        for item in self._found:
            if isinstance(item, Run):
                self._next = item
                return
            yield item


class Tape:
    """The samples of a recording, asked for in the order of their numbers, but for those that are `wanted` later."""

    def __init__(self, segments: Sequence[Path], wanted: frozenset[int]) -> None:
        self._found = self._read(segments)
        self._wanted = wanted
        self._held: dict[int, Sample] = {}
        self._learned: set[int] = set()
        self.first: int | None = None
        """Number of the oldest sample that is here."""
        self._ahead = next(self._found, None)
        if self._ahead:
            self.first = self._ahead.seq

    def find(self, seq: int) -> Sample | None:
        """A sample. It is not kept then, unless it is wanted later."""
        while self._ahead and self._ahead.seq <= seq:
            passed, self._ahead = self._ahead, next(self._found, None)
            if passed.seq == seq or passed.seq in self._wanted or passed.learned:
                self._held[passed.seq] = passed
            if passed.learned:
                self._learned.add(passed.seq)
        return self._held.get(seq) if seq in self._wanted else self._held.pop(seq, None)

    def unanswered(self, start: int, end: int) -> bool:
        """Whether these samples, which were passed, were learned from with their labels instead of answered."""
        return all(seq in self._learned for seq in range(start, end))

    def _read(self, segments: Sequence[Path]) -> Iterator[Sample]:
        for path in segments:
            for message in _messages(path):
                if message.channel.topic == "/sample":
                    yield Sample.FromString(message.data)


def _messages(path: Path) -> Iterator[Message]:
    try:
        with path.open("rb") as file:
            for found in recovery.scan(file):
                if isinstance(found, recovery.Chunk):
                    yield from found.messages
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror or error}; give a journal that can be read") from None


def _directory(path: Path) -> list[Recording]:
    """The recordings in a directory: itself, or those in its own directories."""
    if (path / JOURNAL).is_dir():
        samples = _segments(path / SAMPLES)
        return [Recording(path.resolve().name, _segments(path / JOURNAL), samples, path)]
    if here := _segments(path):
        return [_loose(here)]
    return [one for below in sorted(path.iterdir()) if _named(below) for one in _directory(below)]


def _named(path: Path) -> bool:
    """Whether it may be the folder of a device; a host store has others, whose names begin with a dot."""
    return path.is_dir() and not path.name.startswith(".")


def _segments(directory: Path) -> tuple[Path, ...]:
    return tuple(journal.segments(directory)) if directory.is_dir() else ()


def _loose(paths: Sequence[Path]) -> Recording:
    """Segments given one by one: what is in them tells journal from samples."""
    ordered = sorted(paths, key=lambda path: (str(path.parent), _number(path)))
    kept = tuple(path for path in ordered if _holds_samples(path))
    rest = tuple(path for path in ordered if path not in kept)
    return Recording(ordered[0].stem.partition("-")[0], rest, kept)


def _number(path: Path) -> int:
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _holds_samples(path: Path) -> bool:
    return any(message.channel.topic == "/sample" for message in _first(path))


def _first(path: Path) -> Iterator[Message]:
    for message in _messages(path):
        yield message
        return
