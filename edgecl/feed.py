"""Samples of a source, read in a thread of their own: whoever answers them never waits longer than it wants to.

A folder is looked at again when its end is reached, so images that are put there later are answered too.
"""

import queue
import threading
from collections.abc import Sequence
from typing import Final

from edgecl import sources
from edgecl.manifest import Input
from edgecl.sources import Damaged, Sample, SourceError

AGAIN_S: Final = 1.0
"""Between two looks at a folder."""


class Ended:
    """The source has no more samples."""


class Feed:
    """One source from one place on. At most one sample waits to be answered."""

    def __init__(self, spec: str, given: Input, classes: Sequence[str], position: int) -> None:
        """Raises SourceError: the source cannot be read."""
        self.given, self.classes = given, tuple(classes)
        self._spec, self._next = spec, position
        self._items: queue.Queue[Sample | Damaged | Ended | BaseException] = queue.Queue(1)
        self._closing = threading.Event()
        self._source = self._opened()
        threading.Thread(target=self._read, name="edgecl-source", daemon=True).start()

    def next(self, timeout_s: float) -> Sample | Damaged | Ended | None:
        """The next sample; None where there is none yet. Raises SourceError: it can be read no more."""
        try:
            item = self._items.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Read no more. A thread that waits for a sample ends with the process."""
        self._closing.set()
        while not self._items.empty():
            self._items.get_nowait()

    def _opened(self) -> sources.Source:
        source = sources.open_source(self._spec, self.given, self.classes)
        source.skip_to(self._next)
        return source

    def _read(self) -> None:
        try:
            while not self._closing.is_set():
                for item in self._source:
                    if not self._put(item):
                        return
                    self._next = item.position + 1
                if self._spec.partition(":")[0] != "folder":
                    break
                self._put(Ended())
                self._closing.wait(AGAIN_S)
                self._source = self._opened()
            self._put(Ended())
        except BaseException as error:
            self._put(error)

    def _put(self, item: Sample | Damaged | Ended | BaseException) -> bool:
        while not self._closing.is_set():
            try:
                self._items.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False


__all__ = ["Ended", "Feed", "SourceError"]
