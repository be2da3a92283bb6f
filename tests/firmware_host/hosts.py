"""Hosts of boards on this machine: the command in this process, links that count bytes and links that break."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgecl.channel import Pace
from edgecl.cli import main
from edgecl.errors import LinkError
from firmware_host import offer as offers
from firmware_host.client import Client
from firmware_host.deploy import deploy
from firmware_host.events import Ended, Event
from firmware_host.links.link import Connection, Link, Options
from firmware_host.links.table import link_to
from firmware_host.plan import Wishes


@dataclass
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


@dataclass
class Host:
    """A user's computer."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> Done:
        """Give a command."""
        self.capture.readouterr()
        code = main([str(word) for word in words])
        out, err = self.capture.readouterr()
        return Done(code, out, err)


@dataclass
class Meter:
    """A link to a store on this machine, which counts, and breaks when it is told to."""

    store: Path
    sent: int = 0
    received: int = 0
    opened: int = 0
    breaks: Callable[["Meter"], bool] = lambda meter: False
    """Asked before every write."""
    may_open: bool = True
    link: Link = field(init=False)

    def __post_init__(self) -> None:
        self.link = link_to(f"local:{self.store}")

    @property
    def address(self) -> str:
        return self.link.address

    @property
    def options(self) -> Options:
        return self.link.options

    def open(self) -> Connection:
        if not self.may_open:
            raise LinkError("unplugged")
        self.opened += 1
        return _Metered(self.link.open(), self)


class _Metered:
    def __init__(self, inner: Connection, meter: Meter) -> None:
        self._inner, self._meter = inner, meter
        self.line, self.base_baud, self.baud = inner.line, inner.base_baud, inner.baud

    @property
    def pace(self) -> Pace:
        return self._inner.pace

    def read(self, timeout_s: float | None) -> bytes:
        data = self._inner.read(timeout_s)
        self._meter.received += len(data)
        return data

    def write(self, data: bytes) -> None:
        if self._meter.breaks(self._meter):
            self._inner.close()
            raise EOFError
        self._meter.sent += len(data)
        self._inner.write(data)

    def close(self) -> None:
        self._inner.close()

    def set_baud(self, baud: int) -> None:
        self._inner.set_baud(baud)

    def failure(self, found: str) -> LinkError:
        return LinkError(f"{self._meter.address}: the connection {found}")


def deployed(link: Link, bundle: Path, events: list[Event] | None = None, **wishes: Any) -> Ended:
    """Deploy as the command does."""
    told = [] if events is None else events
    with offers.opened(bundle) as offer, Client(link) as client:
        usual: dict[str, Any] = {"by": "test@here", "probation_s": 0.0}
        return deploy(client, "board", offer, Wishes(**usual | wishes), told.append)
