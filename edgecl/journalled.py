"""What a loop writes down: counted, with changes of the clock, and a `/gap` for what a full journal left out."""

import threading
from collections.abc import Callable
from typing import Final

from edgecl import journal
from edgecl.clock import Watch
from edgecl.errors import RequestError

FREQUENT: Final = (journal.Prediction, journal.Damaged, journal.Shift, journal.Dropped)
"""Records of answers, which a full journal may do without."""


class Journalled:
    """The journal of a loop, for all its threads. While it is full, what answers bring is left out, and counted."""

    def __init__(
        self, written: journal.Journal, clock: journal.Clock, on_record: Callable[[journal.Record], None] | None
    ) -> None:
        """`on_record` gets every record, in the order of the journal."""
        self._journal, self._clock, self._on_record = written, clock, on_record
        self._watch = Watch(clock)
        self._order = threading.Lock()
        self._gap: journal.Gap | None = None
        self.count = journal.End()
        """Of what was noted in this run."""

    def note(self, record: journal.Record) -> None:
        """Journal a record; or count it, of a journal that is full, where answers go on without it.

        Raises JournalError.
        """
        with self._order:
            self._append(record)
            count = self.count
            count.samples += isinstance(record, journal.Prediction)
            count.damaged += isinstance(record, journal.Damaged)
            count.updates += isinstance(record, journal.Update) and record.committed
            count.refused += isinstance(record, journal.Guard)
            if self._on_record:
                self._on_record(record)

    def see_to_clock(self) -> None:
        """Note that somebody has set the clock, where that is so."""
        if changed := self._watch.look():
            self.note(changed)

    def check_room(self) -> None:
        """Before something is changed that must be journalled. Raises RequestError."""
        if self._journal.full:
            raise RequestError("the journal is full, so nothing is learned or changed; pull it first: edgecl pull")

    def _append(self, record: journal.Record) -> None:
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

    def _leave_out(self, record: journal.Record) -> None:
        gap = self._gap = self._gap or journal.Gap(since_ns=self._clock.monotonic_ns())
        gap.records += 1
        if isinstance(record, journal.Prediction):
            gap.first_seq = gap.first_seq if gap.samples else record.seq
            gap.last_seq = record.seq
            gap.samples += 1
        elif isinstance(record, journal.Dropped):
            gap.dropped += record.records
