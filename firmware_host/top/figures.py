"""What is known of a device that is watched: how it is now, rates, how its figures went, and what happened."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from edgecl.requests import Status
from firmware_host.offer import title
from firmware_host.status import Standing
from firmware_host.top.watch import Look

HISTORY: Final = 120
"""Looks that figures are kept of."""
EVENTS: Final = 50

TRACKED: Final = ("steps", "answers", "right", "entropy", "novel", "latency", "memory")
"""Figures that are shown as they went."""


@dataclass(frozen=True)
class Event:
    """Something that happened, by the wall clock of this computer."""

    at: float
    text: str
    bad: bool = False

    def __str__(self) -> str:
        return f"{time.strftime('%H:%M:%S', time.localtime(self.at))}  {self.text}"


@dataclass
class Figures:
    """Of one device."""

    device: str
    address: str = ""
    standing: Standing | None = None
    """As last seen."""
    error: str = ""
    """Why it cannot be reached; empty while it can."""
    tries: int = 0
    pause_s: float = 0.0
    steps_hz: float | None = None
    """Updates that were committed, a second."""
    answers_hz: float | None = None
    log: tuple[str, ...] = ()
    history: dict[str, deque[float]] = field(default_factory=lambda: {name: deque(maxlen=HISTORY) for name in TRACKED})
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS))

    @property
    def service(self) -> Status | None:
        """Of its service, where one answers."""
        found = self.standing.service if self.standing and not self.error else None
        return found if found and found.bundle else None

    def take(self, look: Look, now: float | None = None) -> None:
        """Note a look; `now` is the wall clock's time, for events."""
        at = time.time() if now is None else now
        if look.standing is None:
            if not self.error:
                self.events.append(Event(at, look.error, bad=True))
            self.error, self.tries, self.pause_s = look.error, look.tries, look.pause_s
            self.steps_hz = self.answers_hz = None
            return
        if self.error:
            self.events.append(Event(at, f"reached again, after {self.tries} in vain"))
        before, after = self.standing, look.standing
        for text, bad in _events(before, after):
            self.events.append(Event(at, text, bad))
        self.steps_hz, self.answers_hz = _rates(before.service if before else None, after.service)
        self.standing, self.error, self.tries, self.pause_s = after, "", 0, 0.0
        self.log = look.log or self.log
        self._remember()

    def say(self, text: str, *, bad: bool = False) -> None:
        """Note that something happened just now."""
        self.events.append(Event(time.time(), text, bad))

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.error:
            return f"away, {self.tries}. try" if self.tries > 1 else "away"
        if not self.standing:
            return "..."
        deployment = self.standing.deployment
        if deployment and not deployment.over:
            return f"deploying: {deployment.state.lower()}"
        if not self.standing.service:
            return "no service"
        if not self.standing.service.bundle:
            return "no bundle"
        if self.standing.service.paused:
            return "paused"
        if self.standing.service.ended:
            return "source ended"
        return "learning" if self.steps_hz else "answering"

    def _remember(self) -> None:
        found = self.service
        if not found:
            return
        values = {
            "steps": self.steps_hz,
            "answers": self.answers_hz,
            "right": found.accuracy,
            "entropy": found.entropy,
            "novel": found.novel,
            "latency": found.latency_ms,
            "memory": float(found.resident_bytes),
        }
        for name, value in values.items():
            if value is not None:
                self.history[name].append(value)


def _rates(before: Status | None, after: Status | None) -> tuple[float | None, float | None]:
    """Updates and answers a second: since the look before, or since the service began where there is none."""
    if not after or not after.bundle:
        return None, None
    same = before is not None and before.bundle == after.bundle and before.uptime_s < after.uptime_s
    if same and before and before.samples <= after.samples and before.updates <= after.updates:
        seconds = after.uptime_s - before.uptime_s
        return (after.updates - before.updates) / seconds, (after.samples - before.samples) / seconds
    return (after.updates / after.uptime_s, after.samples / after.uptime_s) if after.uptime_s > 0 else (None, None)


def _events(before: Standing | None, after: Standing) -> Iterator[tuple[str, bool]]:
    """What happened between two looks, and whether it is bad."""
    if not before:
        return
    if before.current != after.current:
        yield (f"{after.current_title} is current" if after.current else "no bundle is current"), False
    old, new = before.deployment, after.deployment
    if new and (not old or (old.number, old.state, old.outcome) != (new.number, new.state, new.outcome)):
        what = new.outcome if new.over else new.state.lower()
        reason = f": {new.reason}" if new.over and new.reason else ""
        yield f"{title(new.name, new.version)}: {what}{reason}", new.over and new.outcome != "committed"
    was, now = before.service, after.service
    if bool(was) != bool(now):
        yield ("the service answers" if now else "no service answers"), not now
    if not was or not now or was.bundle != now.bundle or now.samples < was.samples:
        return
    if now.rolled_back > was.rolled_back:
        yield f"guard, {now.rolled_back - was.rolled_back} taken back; {now.guard}", True
    elif now.refused > was.refused:
        yield f"guard, {now.refused - was.refused} refused; {now.guard}", False
    if now.paused != was.paused:
        yield ("learning is paused" if now.paused else "learning goes on"), False
    if now.domain != was.domain:
        yield f"in domain {now.domain}", False
    if now.domains != was.domains:
        yield f"{now.domains} domains", False
    if now.classes != was.classes:
        yield f"{now.classes} classes", False
    if now.ended and not was.ended:
        yield "the source has ended", False
