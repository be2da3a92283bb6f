"""What a full journal leaves out: answers go on without it, and a `/gap` tells how many were not written down."""

from typing import Final

from edgecl import journal
from edgecl.errors import RequestError

FREQUENT: Final = (journal.Prediction, journal.Damaged, journal.Shift, journal.Dropped)
"""Records of answers, which a full journal may do without."""


class Journalled:
    """A journal that leaves out what answers bring while it is full, and counts that."""

    def __init__(self, written: journal.Journal, clock: journal.Clock) -> None:
        self._journal, self._clock = written, clock
        self._gap: journal.Gap | None = None

    @property
    def full(self) -> bool:
        """Whether it has reached its quota."""
        return self._journal.full

    def append(self, record: journal.Record) -> None:
        """Journal a record; or count it, of a journal that is full, where answers go on without it.

        Raises JournalError.
        """
        frequent = isinstance(record, FREQUENT) or (
            isinstance(record, journal.Guard) and record.action == journal.Guard.SKIPPED
        )
        if frequent and self._journal.full:
            self._leave_out(record)
            return
        if self._gap and (frequent or isinstance(record, journal.End)):  # there is room again, or nothing more comes
            gap, self._gap = self._gap, None
            self._journal.append(gap)
        self._journal.append(record)

    def check_room(self) -> None:
        """Before something is changed that must be journalled. Raises RequestError."""
        if self._journal.full:
            raise RequestError("the journal is full, so nothing is learned or changed; pull it first: edgecl pull")

    def _leave_out(self, record: journal.Record) -> None:
        gap = self._gap = self._gap or journal.Gap(since_ns=self._clock.monotonic_ns())
        gap.records += 1
        if isinstance(record, journal.Prediction):
            gap.first_seq = gap.first_seq if gap.samples else record.seq
            gap.last_seq = record.seq
            gap.samples += 1
        elif isinstance(record, journal.Dropped):
            gap.dropped += record.records
