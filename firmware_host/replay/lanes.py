"""The records of one run in two lanes: those of the thread that answers, and those of the thread that learns.

Each lane is in the exact order of its thread. Where one saw what the other had done is told by the records themselves:
an answer by its `changes`, an update by its batch. So the lanes are followed one by one, and not as they are mixed.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from edgecl import guard
from edgecl.journal import (
    Checkpoint,
    Class,
    Damaged,
    Domain,
    End,
    Gap,
    Guard,
    Label,
    Prediction,
    Record,
    Shift,
    Update,
)
from firmware_host.replay.recording import Hole

PASSED: Final = frozenset((guard.BUSY, guard.HELD, guard.FULL))
"""Why a batch was never given to the thread that learns."""


def answering(record: Record) -> bool:
    """Whether the thread that answers wrote it; an operation on the bank counts there, as it holds its turn."""
    if isinstance(record, Domain):
        return record.what != Domain.FORMED
    return isinstance(record, Prediction | Damaged | Shift) or (isinstance(record, Guard) and record.reason in PASSED)


def learning(record: Record) -> bool:
    """Whether the thread that learns wrote it."""
    return isinstance(record, Update | Guard | Label | Class | Checkpoint | Domain) and not answering(record)


class Lanes:
    """Of one run."""

    def __init__(self, found: Iterator[Record | Hole]) -> None:
        self._found = found
        self._lanes: dict[bool, deque[Record]] = {True: deque(), False: deque()}
        self.hole: Hole | None = None
        """Behind which nothing is read."""
        self.ended: End | None = None
        """How the run ended; None where it was killed, or still goes on."""
        self.learned = 0
        """Records of the thread that learns that were taken."""

    def answer(self) -> Record | None:
        """The next record of the thread that answers, which stays there."""
        return self._peek(True)

    def learn(self) -> Record | None:
        """The same of the thread that learns."""
        return self._peek(False)

    def learn_before(self, sequence: int) -> bool:
        """Whether the thread that learns has a record of before this number, which was read already."""
        lane = self._lanes[False]
        return bool(lane) and lane[0].stamp.sequence < sequence

    def take(self, record: Record) -> Record | None:
        """The next record of the lane that this one belongs to."""
        return self._take(answering(record))

    def take_answer(self) -> None:
        """Pass over a record of the thread that answers."""
        self._take(True)

    def take_learn(self) -> None:
        """Pass over a record of the thread that learns."""
        self._take(False)

    def labels(self) -> list[Label]:
        """The labels that the thread that learns has next, up to something else."""
        return self._upto(False, Label)

    def prediction(self) -> Prediction | None:
        """The next answer, behind whatever of the bank it changed."""
        place = 0
        while self._fill(True, place):
            record = self._lanes[True][place]
            if isinstance(record, Prediction):
                return record
            place += 1
        return None

    def _upto(self, lane: bool, kind: type[Label]) -> list[Label]:
        found: list[Label] = []
        while self._fill(lane, len(found)):
            record = self._lanes[lane][len(found)]
            if not isinstance(record, kind):
                break
            found.append(record)
        return found

    def _peek(self, lane: bool) -> Record | None:
        return self._lanes[lane][0] if self._fill(lane, 0) else None

    def _take(self, lane: bool) -> Record | None:
        if not self._fill(lane, 0):
            return None
        self.learned += not lane
        return self._lanes[lane].popleft()

    def _fill(self, lane: bool, place: int) -> bool:
        """Whether there is a record at this place of a lane; reads on until there is."""
        while len(self._lanes[lane]) <= place and not self.hole:
            item = next(self._found, None)
            if item is None:
                break
            if isinstance(item, Hole):
                self.hole = item
            elif isinstance(item, Gap):
                self.hole = Hole(_left_out(item))
            elif isinstance(item, End):
                self.ended = item
            elif answering(item):
                self._lanes[True].append(item)
            elif learning(item):
                self._lanes[False].append(item)
        return len(self._lanes[lane]) > place


def _left_out(gap: Gap) -> str:
    answers = f"the answers to samples {gap.first_seq} to {gap.last_seq}" if gap.samples else f"{gap.records} records"
    return f"{answers} were not journalled: the journal was full"
