"""Samples of a source, read in a thread of their own: whoever answers them never waits longer than it wants to.

A folder is looked at again when its end is reached, so images that are put there later are answered too.
"""

import os
import queue
import select
import threading
from collections.abc import Sequence
from typing import Final

from edgecl import sources
from edgecl.manifest import Input
from edgecl.sources import Damaged, Sample

AGAIN_S: Final = 1.0
"""Between two looks at a folder."""

LOOK_S: Final = 0.1
"""Between two looks whether the feed is still wanted."""


class _Stream:
    """A file descriptor, read until somebody closes the feed: a thread that waits in `read` itself cannot end."""

    def __init__(self, file: int, closing: threading.Event) -> None:
        self._file, self._closing = file, closing

    def read(self, size: int, /) -> bytes:
        data = bytearray()
        while len(data) < size and not self._closing.is_set():
            if select.select([self._file], [], [], LOOK_S)[0]:
                piece = os.read(self._file, size - len(data))
                if not piece:
                    break
                data += piece
        return b"" if self._closing.is_set() else bytes(data)


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
        self._thread = threading.Thread(target=self._read, name="edgecl-source", daemon=True)
        self._thread.start()

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
        """Read no more."""
        self._closing.set()
        self._thread.join()
        while not self._items.empty():
            self._items.get_nowait()

    def _opened(self) -> sources.Source:
        if self._spec == "stdin":
            return sources.Frames(_Stream(0, self._closing), self.given)
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
                self._items.put(item, timeout=LOOK_S)
                return True
            except queue.Full:
                continue
        return False
