"""Asking a board that may be gone for a while: requests that may be asked twice are asked again until it is back."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from edgecl.errors import LinkError
from edgecl.messages import Code
from firmware_host.client import Client, LostError

PATIENCE_S: Final = 180.0
"""A board that starts again is back by then."""

PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Before each new try; the last one again and again."""

A = TypeVar("A", bound=msgspec.Struct)
R = TypeVar("R")

Lost = Callable[[LinkError], None]
"""Told of every connection that broke, before the next try."""


def unheard(error: LinkError) -> None:
    """Nobody wants to know."""


class Patient:
    """A client whose requests may be asked twice."""

    def __init__(self, client: Client, *, lost: Lost = unheard, patience_s: float = PATIENCE_S) -> None:
        self.client = client
        self._lost, self._patience_s = lost, patience_s

    def ask(self, code: Code, body: msgspec.Struct, kind: type[A]) -> A:
        """One request, whose second time changes nothing more. Raises LinkError: the board did not come back."""
        return self.work(lambda: self.client.request(code, body, kind))

    def work(self, do: Callable[[], R]) -> R:
        """Do something that may be done twice. Raises LinkError: no connection before, or none any more."""
        self.client.connect()
        end_s, tries, told = 0.0, 0, False
        while True:
            try:
                return do()
            except LinkError as error:
                if not isinstance(error, LostError) and not tries:
                    raise  # it was never there, or does not know the request
                now_s = time.monotonic()
                end_s = end_s or now_s + self._patience_s
                if now_s >= end_s:
                    raise
                if not told:
                    self._lost(error)
                    told = True
                time.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
                tries += 1
