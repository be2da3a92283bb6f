"""What `edgecl run` says while it runs: JSON on stdout where asked for, and what happens on stderr."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from edgecl import events
from edgecl.commands.tally import Tally, text
from edgecl.journal import Class, Domain, Guard, Loss, Record, Shift

SHOW_S: Final = 0.2
"""Time between two pictures of the progress on a terminal."""


TURNS: Final = {
    Domain.BEGAN: "unlike all known domains: {0.name} begins",
    Domain.FOUNDED: "{0.name} is kept from here on",
    Domain.RETURNED: "back in known domains: {0.name} is not kept",
    Domain.REFUSED: "{0.name} is not kept: there is no room for another domain",
    Domain.MERGED: "{0.name} is merged with domain {0.other}, as there is no room for both",
    Domain.ENTERED: "back in {0.name}",
    Domain.FORMED: "{0.name} takes the form {0.scores[0].form}",
}
"""What is said of a domain."""


class Printer:
    """Gets every record, one at a time, from any thread."""

    def __init__(self, *, as_json: bool, also: Callable[[str], None] | None = None) -> None:
        """`also` gets every line that is said."""
        self._also = also
        self.tally = Tally()
        self.classes: Sequence[str] = ()
        self.broken = False
        """Whether nobody reads stdout any more."""
        self._as_json = as_json
        self._terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()
        self._told: set[str] = set()

    def note(self, record: Record) -> None:
        """Count a record, and tell of it where that is wanted."""
        self.tally.note(record)
        if self._as_json:
            self._write(events.line(record, self.classes))
        if isinstance(record, Class):
            self.classes = (*self.classes, record.name)
        if isinstance(record, Loss):
            self.say(
                f"an earlier run was cut off: {record.file} keeps {record.records_kept} records, "
                f"{record.bytes_lost} bytes behind them were lost"
            )
        elif isinstance(record, Shift):
            now = "unlike the source" if record.began else "like the source again"
            self.say(f"sample {record.seq}: inputs are {now}: {record.share:.0%} of the last ones are novel")
        elif isinstance(record, Domain) and record.what in TURNS:
            self.say(f"sample {record.seq}: {TURNS[record.what].format(record)}")
        elif isinstance(record, Guard) and record.action != Guard.SKIPPED:
            to = "the state as built" if record.action == Guard.RESET else "an earlier state"
            self.say(f"step {record.step}: back to {to}: {record.detail}")
        elif isinstance(record, Guard) and record.reason not in self._told:
            self._told.add(record.reason)
            self.say(f"an update was skipped: {record.detail} (told once; the journal has all)")

    def say(self, line: str) -> None:
        """One line on stderr."""
        if self._also:
            self._also(line)
        print(f"\r\x1b[K{line}" if self._terminal else line, file=sys.stderr, flush=True)

    def progress(self) -> None:
        """Show how far the run is, on a terminal, from time to time."""
        now_s = time.monotonic()
        if self._terminal and now_s - self._shown_s >= SHOW_S:
            self._shown_s, tally = now_s, self.tally
            right = "" if tally.accuracy is None else f"  {tally.accuracy:.1%} right"
            line = f"\r\x1b[K{tally.samples} samples{right}  {tally.updates} updates"
            print(line, end="", file=sys.stderr, flush=True)

    def end(self, resident_bytes: int, checkpoint: Path | None) -> None:
        """Print what the run amounts to, what it took of memory, and where its checkpoint lies."""
        summary = self.tally.summary(resident_bytes, checkpoint)
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        if self._as_json:
            self._write(msgspec.json.encode({"event": "summary", **asdict(summary)}) + b"\n")
        else:
            self._write(text(summary).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        if not self.broken:
            try:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                self.broken = True  # the run then ends in good order
