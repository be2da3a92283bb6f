"""The resident service of a board: answers with the current bundle of a store, and goes over to the next when told.

Samples are read in one thread and answered in another, so a bundle is opened, and the one before closed, between two
answers. What the service is asked for comes by `STORE/socket`, in threads of its own.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from edgecl import control, deployer_start, deployments, disk, heat, resident, service_file
from edgecl.engine_choice import choose
from edgecl.errors import EdgeclError, JournalError, RequestError, StoreError
from edgecl.feed import Ended, Feed
from edgecl.journal import Record
from edgecl.loop import Loop
from edgecl.pulse import Pulse
from edgecl.requests import Cut, HandOver, Pause, Reopen, Request, Resume, Snapshot, Status, TellStatus
from edgecl.service_file import CANARIES
from edgecl.sources import Damaged, Sample, SourceError
from edgecl.store import Store

TICK_S: Final = 0.1
"""Longest wait for a sample before other things are seen to."""

HANDING_S: Final = 60.0
"""A deployment that has not switched by then, and that no process carries on, has died: learning goes on."""

RETRY_S: Final = 5.0
"""Between two tries to open a source or a bundle that cannot be."""

PAUSED: Final = "paused"
"""Name of the file that stands for a pause: it outlives a restart."""

Say = Callable[[str], None]


class Service:
    """One service on one store."""

    def __init__(self, directory: Path, *, say: Say, on_record: Callable[[Record], None] | None = None) -> None:
        """Raises ProjectError, SettingError: `service.toml` cannot be used. StoreError."""
        self._directory, self._say, self._on_record = directory, say, on_record
        self._file = service_file.read(directory)
        self._settings = self._file.settings(directory / service_file.FILE)
        self._store = Store(directory)
        self._pulse = Pulse()
        self._loop: Loop | None = None
        self._feed: Feed | None = None
        self._position = 0
        self._ended = False
        self._using = threading.RLock()
        """Held by whoever uses or changes the loop."""
        self._handing_s: float | None = None
        self._retry_s = 0.0
        self._told = ""
        self._started_s = time.monotonic()

    def items(self) -> Iterator[Sample | Damaged | None]:
        """Samples as they come; None while there is none. The bundle is opened, and gone over, in between."""
        while True:
            self._see_to_bundle()
            if not self._loop or not self._see_to_feed() or self._feed is None:
                time.sleep(TICK_S)
                yield None
                continue
            try:
                item = self._feed.next(TICK_S)
            except SourceError as error:
                self._close_feed(str(error))
                item = None
            self._ended = isinstance(item, Ended) or (self._ended and item is None)
            yield None if isinstance(item, Ended) else item

    def take(self, item: Sample | Damaged) -> None:
        """Answer a sample. Where the disk fails, the loop is closed, and opened again when that has passed."""
        with self._using:
            if not self._loop or not self._feed:  # the bundle that it was read for is gone
                return
            try:
                if isinstance(item, Damaged):
                    self._loop.damaged(item.position, item.reason)
                else:
                    self._loop.predict(item.x, position=item.position, y=item.y)
            except (StoreError, JournalError) as error:
                self._tell(str(error))
                self._retry_s = time.monotonic() + RETRY_S
                loop, self._loop = self._loop, None
                with contextlib.suppress(EdgeclError):
                    loop.close(str(error))
            self._position = item.position + 1

    def close(self, reason: str) -> None:
        """Write what was learned."""
        self._close_feed("")
        with self._using:
            if self._loop:
                self._loop.close(reason)
                self._loop = None

    def perform(self, request: Request) -> control.Facts:
        """Do what is asked for. Raises EdgeclError."""
        match request:
            case TellStatus():
                return self.status()
            case Reopen():
                return self._reopened()
        with self._using:
            if isinstance(request, HandOver) and not self._loop:
                return self.status()
            loop = self._open_loop()
            match request:
                case Pause() | Resume():
                    self._pause(isinstance(request, Pause))
                    return self.status()
                case Snapshot():
                    loop.operations.snapshot()
                    return self.status()
                case Cut():
                    loop.cut()
                    return self.status()
                case HandOver():
                    self._handing_s = time.monotonic()
                    loop.operations.held = True
                    loop.operations.snapshot()
                    return self.status()
            if self._handing_s is not None:
                raise RequestError("a deployment is about to switch bundles; ask again in a moment")
            return control.perform(loop.operations, request)

    def status(self) -> Status:
        """How the service is, without waiting for anything."""
        loop = self._loop
        return msgspec.structs.replace(
            self._pulse.status(loop) if loop else Status(bundle=""),
            source=self._file.source,
            ended=self._ended,
            paused=(self._directory / PAUSED).exists(),
            uptime_s=time.monotonic() - self._started_s,
            resident_bytes=resident.resident_bytes(),
            journal_bytes=disk.used_bytes(self._directory / "journal"),
            journal_quota_bytes=self._settings.journal_bytes,
            celsius=heat.hottest(),
        )

    def _open_loop(self) -> Loop:
        if not self._loop:
            raise RequestError("no bundle answers here yet; deploy one")
        return self._loop

    def _pause(self, paused: bool) -> None:
        try:
            if paused:
                disk.replace(self._directory / PAUSED, b"")
            else:
                disk.remove(self._directory / PAUSED)
        except OSError as error:
            raise StoreError(f"{self._directory}: {error.strerror}; make room") from None
        if self._handing_s is None and self._loop:
            self._loop.operations.held = paused

    def _see_to_bundle(self) -> None:
        """Open the bundle that is current, where another is open or none."""
        now_s = time.monotonic()
        if self._handing_s is not None and now_s - self._handing_s > HANDING_S:
            with self._using:
                self._handing_s = now_s if deployer_start.taken(self._directory) else None
                self._pause_again()
        if self._handing_s is not None or now_s < self._retry_s:
            return
        try:
            self._go_over()
        except EdgeclError as error:
            self._retry_s = now_s + RETRY_S
            self._tell(str(error))

    def _reopened(self) -> Status:
        """Go over to the current bundle now. Raises EdgeclError: it cannot be opened."""
        with self._using:
            self._handing_s = None
            self._go_over()
            self._pause_again()
        return self.status()

    def _go_over(self) -> None:
        """Open the current bundle, where it is not open. Raises EdgeclError; then none is open."""
        with self._using:
            current = self._store.current
            if current == (self._loop.bundle.id if self._loop else ""):
                return
            if self._loop:
                loop, self._loop = self._loop, None
                loop.close("another bundle is deployed")
            if not current:
                return
            self._pulse = Pulse()
            manifest = self._store.manifest(current)
            self._loop = Loop(
                self._store.place(current),
                self._directory,
                replace(self._settings, engine=choose(self._file.engine, manifest)),
                source=self._file.source,
                learned=self._store.learned(manifest.lineage, current),
                told=self._deployed(current),
                on_record=self._record,
            )
            self._position = max(self._position, self._loop.place.position)
            self._pause_again()
            self._say(f"{manifest.name} version {manifest.version} answers, at step {self._loop.state.step}")
            if self._feed and (self._feed.given, self._feed.classes) != (manifest.input, self._loop.classes):
                self._close_feed("")

    def _deployed(self, current: str) -> dict[str, str]:
        """What the journal is to tell of how a bundle came here: unsigned ones run in development mode alone."""
        try:
            known = deployments.read(self._directory).deployments
        except StoreError:
            return {}  # a damaged record is no reason not to answer
        for one in reversed(known):
            if one.bundle == current:
                return {
                    "deployment": str(one.number),
                    "deployed_by": one.by,
                    "signed_by": one.signed_by,
                    "learned": one.learned,
                }
        return {}

    def _record(self, record: Record) -> None:
        self._pulse.note(record)
        if self._on_record:
            self._on_record(record)

    def _pause_again(self) -> None:
        if self._loop and self._handing_s is None:
            self._loop.operations.held = (self._directory / PAUSED).exists()

    def _see_to_feed(self) -> bool:
        if self._feed is None and time.monotonic() >= self._retry_s:
            assert self._loop
            try:
                if self._file.source == CANARIES:
                    raise SourceError("source canaries: they are for tries; name another source in service.toml")
                self._feed = Feed(self._file.source, self._loop.manifest.input, self._loop.classes, self._position)
            except SourceError as error:
                self._close_feed(str(error))
        return self._feed is not None

    def _close_feed(self, why: str) -> None:
        if self._feed:
            self._feed.close()
            self._feed = None
        if why:
            self._retry_s = time.monotonic() + RETRY_S
            self._tell(why)

    def _tell(self, line: str) -> None:
        """Say it, once until something else is said."""
        if line != self._told:
            self._told = line
            self._say(line)
