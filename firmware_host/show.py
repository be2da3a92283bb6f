"""Shows what happens to devices: a bar and a line a stage on a terminal, plain lines elsewhere, or JSON."""

import sys
import threading
import time
from typing import Final, TextIO

import msgspec

from edgecl.deployments import State
from firmware_host.events import Begun, Ended, Entered, Event, Lost, Passed, Planned, Sending, Sent, Waiting
from firmware_host.plan import Plan
from firmware_host.said import size

BAR: Final = 20
"""Characters of a whole bar."""

SHOW_S: Final = 0.1
"""Between two pictures of a bar."""

FEW_BYTES: Final = 100_000
"""Of which no rate is told: it would be that of the answers."""

JSON_S: Final = 1.0
"""Between two lines of JSON about bytes on their way."""

TOLD: Final[dict[State, str]] = {
    "VERIFY": "verify",
    "TRIAL": "trial",
    "QUIESCE": "take over",
    "SWITCH": "switch",
    "PROBATION": "probation",
    "ROLLBACK": "roll back",
}
"""States that people are told of; the others take no time."""


class Show:
    """Gets events of one device or several, from any thread."""

    def __init__(self, *, as_json: bool, several: bool) -> None:
        self._as_json, self._several = as_json, several
        self._bar = sys.stderr.isatty() and not several and not as_json
        self._busy = threading.Lock()
        self._shown_s: dict[str, float] = {}
        self._begun_s: dict[str, float] = {}
        self._open = False

    def __call__(self, event: Event) -> None:
        """Show it."""
        with self._busy:
            if isinstance(event, Sending) and self._early(event):
                return
            if self._as_json:
                self._line(msgspec.json.encode(event).decode(), sys.stdout)
                return
            match event:
                case Planned(device=device, plan=plan):
                    for number, line in enumerate(plan_lines(plan)):
                        self._say(device, f"{device}  {line}" if not number and not self._several else line)
                case Sending(device=device, bytes=have, of=of):
                    self._transient(f"  receive    {_bar(have, of)} {size(have)}{self._rate(device, have)}")
                case Sent(device=device, bytes=count, seconds=seconds) if count:
                    rate = f"  {size(int(count / max(seconds, 1e-3)))}/s" if count > FEW_BYTES else ""
                    self._say(device, f"  receive    {size(count)}{rate}")
                case Entered(state=state) if state in TOLD:
                    self._transient(f"  {TOLD[state]:9}  ...")
                case Waiting(state=state, seconds=seconds) if state in TOLD:
                    self._transient(f"  {TOLD[state]:9}  ... {seconds:.0f} s")
                case Passed(device=device, state=state, seconds=seconds, said=brought) if state in TOLD:
                    self._say(device, f"  {TOLD[state]:9}  {brought or f'{seconds:.1f} s'}")
                case Lost(device=device, reason=reason):
                    self._say(device, f"  connection lost: {reason}; the board goes on, trying to reach it")
                case Ended() | Begun() | Sent() | Entered() | Waiting() | Passed():
                    self._transient("")

    def say(self, device: str, line: str) -> None:
        """A line on stderr, beside all that."""
        with self._busy:
            self._say(device, line)

    def _early(self, event: Sending) -> bool:
        """Whether the last picture is too young; the last byte is always shown."""
        now_s = time.monotonic()
        self._begun_s.setdefault(event.device, now_s)
        pause_s = JSON_S if self._as_json else SHOW_S
        if event.bytes < event.of and now_s - self._shown_s.get(event.device, 0.0) < pause_s:
            return True
        self._shown_s[event.device] = now_s
        return False

    def _rate(self, device: str, have: int) -> str:
        seconds = time.monotonic() - self._begun_s[device]
        return f"  {size(int(have / seconds))}/s" if seconds > 0.5 else ""

    def _transient(self, line: str) -> None:
        if self._bar:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._open = bool(line)

    def _say(self, device: str, line: str) -> None:
        if self._as_json:
            return
        self._transient("")
        self._line(f"{device}: {line.strip()}" if self._several else line, sys.stderr)

    @staticmethod
    def _line(line: str, to: TextIO) -> None:
        print(line, file=to, flush=True)


def plan_lines(plan: Plan) -> list[str]:
    """A plan for people."""
    title = f"{plan.name}@{plan.version}"
    answers = f"{plan.current_title} answers" if plan.current else "no bundle yet"
    lines = [f"edgecl {plan.edgecl}, {size(plan.free_bytes)} free, {answers}"]
    if plan.under_way:
        lines.append(f"there    {plan.under_way}")
    if plan.there:
        return [*lines, f"plan     nothing to do: {title} answers already"]
    deltas = sum(change.delta for change in plan.send)
    of = f"{len(plan.send)} of {plan.files} files, {size(plan.send_bytes)} of {size(plan.bytes)}"
    send = f"send {of}{f', {deltas} as deltas' if deltas else ''}" if plan.send else "nothing to send"
    what = f"{plan.current_title} -> {title}" if plan.current else title
    learned = f"   learned: {plan.learned}" if plan.current else ""
    lines += [f"plan     {what}   {send}{learned}", f"         {plan.signature}"]
    if plan.against:
        lines.append(f"         the board would refuse it: {plan.against}")
    return lines


def _bar(have: int, of: int) -> str:
    full = BAR if have >= of else BAR * have // of
    return "█" * full + "░" * (BAR - full)
