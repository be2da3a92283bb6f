"""Ctrl-C, SIGTERM and a terminal that goes away end a run in good order: after the sample under way, or at once while
it waits for the next one.
"""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Interrupt:
    """Catches the first signal, in its `with` block. The second one has its usual effect."""

    def __init__(self) -> None:
        self.caught = ""
        """Name of the signal that came; empty before."""
        self._waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a signal comes. Only the wait for the next item is cut short."""
        iterator = iter(items)
        while not self.caught:
            try:
                try:
                    self._waiting = True
                    if self.caught:
                        return
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._waiting = False
            except _Caught:  # also where the signal came just before the line above
                return
            yield item

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number).name
        self._restore()
        if self._waiting:
            self._waiting = False
            raise _Caught

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class _Caught(BaseException):
    """A signal came while waiting. No Exception, because a source catches those of its decoders."""
