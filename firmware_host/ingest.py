"""Makes tables of the segments in a host store: what is new of each device, in parts that are valid as a whole.

An ingest may be interrupted at any moment. What it wrote is valid once the device's index names it; the next one
deletes the rest and goes on. A part is made again when one of its segments has changed, when a segment comes late that
belongs before one of it, or when a later segment tells what the clock of its boot was; where segments have gone
meanwhile, what was made of them stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from edgecl.errors import StoreError
from edgecl.recovery import Stop
from firmware_host import batches, parts, tables
from firmware_host.host_store import Carry, Clock, HostStore, Index, Part, Segment
from firmware_host.parts import PartWriter

PART_BYTES: Final = 256 << 20
"""Of segments that become one part."""

FAN: Final = 8
"""So many parts of about the same size become one: a store that is watched would have a file for every segment else."""


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one device; a line of `--json`."""

    device: str
    segments: int
    """That were taken now."""
    bytes: int
    records: int
    there: int
    """That had been taken before."""
    lost: tuple[Segment, ...]
    """Of those taken now, the ones that are not whole."""

    @property
    def bytes_lost(self) -> int:
        """Of these."""
        return sum(segment.bytes_lost for segment in self.lost)


Progress = Callable[[str, int, int], None]
"""Device, bytes of segments that were taken, of how many."""


def ingest(
    store: HostStore,
    devices: Sequence[str] = (),
    *,
    again: bool = False,
    progress: Progress = lambda device, done, of: None,
) -> Iterator[Ingested]:
    """Take what is new of these devices, or of all. `again`: make all tables anew.

    Raises StoreError: a device is not there, another ingest is at work, or the disk fails. JournalError: a segment was
    written by a later edgecl.
    """
    there = store.devices()
    for device in devices:
        if device not in there:
            have = ", ".join(there[:8]) or "none"
            raise StoreError(f"{store.root}: no device {device}; there are {have}")
    with store.ingesting():
        for device in devices or there:
            if again:
                with store.locked():
                    store.forget(device)
            yield _Device(store, device, progress).ingest()


def news(store: HostStore) -> bool:
    """Whether a store has segments that were not taken yet, or have changed. Raises StoreError."""
    for device in store.devices():
        index = store.index(device)
        before = {segment.name: segment for part in index.parts for segment in part.segments}
        if any(part.schema != tables.SCHEMA for part in index.parts):
            return True
        for segment in store.segments(device):
            if not (known := before.get(segment.name)) or not known.same(segment):
                return True
    return False


@dataclass
class _Device:
    """The ingest of one device."""

    store: HostStore
    device: str
    progress: Progress
    taken: list[Segment] = field(default_factory=list)

    def ingest(self) -> Ingested:
        store, index = self.store, self.store.index(self.device)
        with store.locked():
            store.sweep(index)
        here = {segment.name: segment for segment in store.segments(self.device)}
        index = self._without_stale(index, here)
        done = {segment.name for part in index.parts for segment in part.segments}
        left = [segment for segment in here.values() if segment.name not in done]
        total, finished = sum(segment.bytes for segment in left), 0
        for group in _groups(left):
            index = self._commit(index, self._part(index, group))
            finished += sum(segment.bytes for segment in group)
            self.progress(self.device, finished, total)
            while stale := [part for part in index.parts if _guessed_worse(part, index) and _all_here(part, here)]:
                segments = sorted((s for part in stale for s in part.segments), key=_order)
                kept = tuple(part for part in index.parts if part not in stale)
                index = msgspec.structs.replace(index, parts=kept)
                for again in _groups(segments):
                    index = self._commit(index, self._part(index, again))
        for part in [part for part in index.parts if part.schema != tables.SCHEMA]:  # of segments that have gone
            index = self._merged(index, [part])
        index = self._fewer(index)
        fresh = {segment.name: segment for segment in self.taken}
        return Ingested(
            device=self.device,
            segments=len(fresh),
            bytes=sum(segment.bytes for segment in fresh.values()),
            records=sum(segment.records for segment in fresh.values()),
            there=len(here) - len(fresh),
            lost=tuple(segment for segment in fresh.values() if segment.bytes_lost),
        )

    def _without_stale(self, index: Index, here: dict[str, Segment]) -> Index:
        """An index without the parts that must be made again."""
        known = {segment.name: segment for part in index.parts for segment in part.segments}
        changed = {name for name, segment in here.items() if name in known and not known[name].same(segment)}
        first: dict[str, int] = {}
        """Boot -> the new segment of it that was written first."""
        for name, segment in here.items():
            if name not in known and name.startswith("journal/"):
                first[segment.boot] = min(segment.number, first.get(segment.boot, segment.number))
        stale = [
            part
            for part in index.parts
            if part.schema != tables.SCHEMA
            or (changed & {segment.name for segment in part.segments})
            or _reaches_beyond(part, first)
        ]
        gone = [part for part in stale if not _all_here(part, here)]
        kept = tuple(part for part in index.parts if part not in stale or part in gone)
        return msgspec.structs.replace(index, parts=kept)

    def _part(self, index: Index, segments: Sequence[Segment]) -> tuple[Part, dict[str, Clock]]:
        """Make a part of these segments: again, where it turns out what the clock was only at its end."""
        clocks = dict(index.clocks)
        while True:  # at most twice: the first time tells the clocks
            context = batches.Context(_carry(index, segments), clocks)
            writer = PartWriter(self.store.tables, self.device, index.following)
            try:
                made = [self._taken(segment, context, writer) for segment in segments]
                if any(clocks[boot].level > level for boot, level in context.guessed.items()):
                    writer.drop()
                    continue
                files = writer.finish()
            except BaseException:
                writer.drop()
                raise
            break
        self.taken += made
        part = Part(
            number=index.following,
            segments=tuple(made),
            files=files,
            records=dict(writer.records),
            guessed=context.guessed,
            after=context.carry,
            schema=tables.SCHEMA,
        )
        return part, clocks

    def _taken(self, segment: Segment, context: batches.Context, writer: PartWriter) -> Segment:
        path = self.store.root / self.device / segment.name
        records, stop = 0, None
        try:
            for found in batches.read(path, context):
                if isinstance(found, Stop):
                    stop = found
                    continue
                for rows in found:
                    records += len(rows.time_us)
                    writer.add(rows)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}; give a store that can be read") from None
        assert stop
        reason = "" if stop.sealed else stop.reason
        return msgspec.structs.replace(segment, records=records, bytes_lost=stop.bytes_lost, reason=reason)

    def _commit(self, index: Index, made: tuple[Part, dict[str, Clock]]) -> Index:
        """The part is valid from here on, and those that it replaces are not."""
        part, clocks = made
        index = msgspec.structs.replace(index, parts=(*index.parts, part), clocks=clocks, following=index.following + 1)
        with self.store.locked():
            self.store.write(index)
            self.store.sweep(index)
        return index

    def _fewer(self, index: Index) -> Index:
        """An index with parts of about the same size made one, where there are many."""
        while True:
            classes: dict[int, list[Part]] = {}
            for part in index.parts:
                classes.setdefault(max(1, part.rows).bit_length() // 3, []).append(part)
            many = next((found for found in classes.values() if len(found) >= FAN), None)
            if not many:
                return index
            index = self._merged(index, many)

    def _merged(self, index: Index, many: list[Part]) -> Index:
        """An index with one part, in the form of today, instead of these."""
        many = sorted(many, key=lambda part: min(map(_order, part.segments), default=(True, 0)))
        files = [file for part in many for file in part.files]
        writer = parts.merged(self.store.tables, self.device, index.following, files)
        guessed: dict[str, int] = {}
        for part in many:
            for boot, level in part.guessed.items():
                guessed[boot] = min(level, guessed.get(boot, 2))
        last = max(many, key=lambda part: max((_order(segment) for segment in part.segments), default=(True, 0)))
        one = Part(
            number=index.following,
            segments=tuple(sorted((segment for part in many for segment in part.segments), key=_order)),
            files=writer.finish(),
            records=dict(writer.records),
            guessed=guessed,
            after=last.after,
            schema=tables.SCHEMA,
        )
        kept = tuple(part for part in index.parts if part not in many)
        return self._commit(msgspec.structs.replace(index, parts=kept), (one, index.clocks))


def _order(segment: Segment) -> tuple[bool, int]:
    return segment.name.startswith("journal/"), segment.number


def _groups(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Segments that become a part each."""
    group: list[Segment] = []
    for segment in sorted(segments, key=_order):
        if group and sum(one.bytes for one in group) + segment.bytes > PART_BYTES:
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _carry(index: Index, segments: Sequence[Segment]) -> Carry:
    """What the part with the last journal segment before these, of the same boot, has left."""
    mine = [segment for segment in segments if segment.name.startswith("journal/")]
    best, carry = 0, Carry()
    if mine:
        first = min(mine, key=lambda segment: segment.number)
        for part in index.parts:
            before = [s.number for s in part.segments if s.name.startswith("journal/") and s.boot == first.boot]
            last = max((number for number in before if number < first.number), default=0)
            if last > best:
                best, carry = last, part.after
    return carry


def _reaches_beyond(part: Part, first: dict[str, int]) -> bool:
    """Whether a part has journal segments that were written after new ones of the same boot: runs go across them."""
    return any(
        segment.number > first.get(segment.boot, segment.number)
        for segment in part.segments
        if segment.name.startswith("journal/")
    )


def _guessed_worse(part: Part, index: Index) -> bool:
    return any(index.clocks[boot].level > level for boot, level in part.guessed.items() if boot in index.clocks)


def _all_here(part: Part, here: dict[str, Segment]) -> bool:
    return all(segment.name in here for segment in part.segments)


def watched(store: HostStore, wait: Callable[[], bool]) -> Iterator[Ingested]:
    """Ingest again and again, until `wait`, which is called between two looks, tells to stop."""
    while True:
        if news(store):
            for one in ingest(store):
                if one.segments:
                    yield one
        if not wait():
            return
