"""Segments become batches of columns: many chunks decoded at once, with the run and the time of each record."""

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError

from edgecl import recovery
from edgecl.errors import JournalError
from edgecl.journal import TOPICS, VERSION, Stamp
from edgecl.recovery import Stop
from edgecl.segment import Channel
from firmware_host import columns, tables
from firmware_host.columns import PADDING, Unusual
from firmware_host.host_store import Carry, Clock

BATCH_BYTES: Final = 4 << 20
"""Of records, before they are compressed. Larger batches are no faster, as they leave the cache."""

PLAUSIBLE_NS: Final = 1_577_836_800 * 10**9
"""2020. A clock that is before that has not been set, whatever the board says."""

LAST_NS: Final = 9_223_286_400 * 10**9
"""In 2262: what comes later is no time, and would not fit into 64 bits."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Records of one kind, in the order in which they were written."""

    topic: str
    columns: dict[str, pa.Array]
    time_us: Places


@dataclass
class Context:
    """What a segment needs to know of others, and adds to."""

    carry: Carry
    clocks: MutableMapping[str, Clock]
    guessed: dict[str, int] = field(default_factory=dict)
    """Boots with records whose time may be known better later -> level of the clock that it was taken from."""


@dataclass
class _Gathered:
    """Chunks to be decoded together."""

    raw: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    """Where each chunk is in the file."""
    frames: list[list[recovery.Frame]] = field(default_factory=list)
    size: int = 0

    def data(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(b"".join([*self.raw, bytes(PADDING)]), np.uint8)

    def places(self) -> npt.NDArray[np.int64]:
        """Channel, start and stop of every message, as columns."""
        bases = np.cumsum([0, *map(len, self.raw)])
        parts = []
        for base, frames in zip(bases, self.frames, strict=False):
            part = np.array(frames, np.uint64).reshape(-1, 5)[:, [0, 3, 4]].astype(np.int64)
            part[:, 1:] += base
            parts.append(part)
        return np.concatenate(parts).T


def read(path: Path, context: Context) -> Iterator[list[Rows] | Stop]:
    """The records of a segment, batch by batch, and a Stop that tells where and why it ended.

    Raises OSError. JournalError: a later edgecl has given its fields another meaning.
    """
    boot = path.name.partition("-")[0]
    follows = path.parent.name != "samples"
    channels: dict[int, Channel] = {}
    gathered = _Gathered()
    with path.open("rb") as file:
        size = path.stat().st_size
        for offset, found in recovery.walk(file, _parsed):
            if isinstance(found, Stop):
                if gathered.size:
                    rows, bad = _decoded(gathered, channels, boot, context, follows)
                    yield rows
                    if bad is not None:
                        found = _stopped(bad, size)
                yield found
                return
            raw, frames, channels = found
            _check_version(path, channels)
            gathered.raw.append(raw)
            gathered.offsets.append(offset)
            gathered.frames.append(frames)
            gathered.size += len(raw)
            if gathered.size >= BATCH_BYTES:
                rows, bad = _decoded(gathered, channels, boot, context, follows)
                yield rows
                if bad is not None:
                    yield _stopped(bad, size)
                    return
                gathered = _Gathered()


def _parsed(body: bytes, channels: dict[int, Channel]) -> tuple[bytes, list[recovery.Frame], dict[int, Channel]]:
    raw = recovery.inflated(body)
    return raw, recovery.frames(raw, channels), channels


def _check_version(path: Path, channels: Mapping[int, Channel]) -> None:
    for channel in channels.values():
        if channel.version > VERSION:
            raise JournalError(
                f"{path}: written in version {channel.version} of the journal, this edgecl reads up to {VERSION}; "
                "update edgecl"
            )


def _stopped(offset: int, size: int) -> Stop:
    return Stop(offset, size - offset, False, "a record that does not follow its schema")


def _decoded(
    gathered: _Gathered, channels: Mapping[int, Channel], boot: str, context: Context, follows: bool
) -> tuple[list[Rows], int | None]:
    """The records of some chunks; and where the first chunk is that cannot be decoded, if one cannot."""
    bad = None
    try:
        found = _columns(gathered, channels)
    except DecodeError:
        good = _good_chunks(gathered, channels)
        bad = gathered.offsets[good]
        gathered = _Gathered(gathered.raw[:good], gathered.offsets[:good], gathered.frames[:good])
        found = _columns(gathered, channels) if good else {}
    return (_placed(found, boot, context, follows) if found else []), bad


def _columns(gathered: _Gathered, channels: Mapping[int, Channel]) -> dict[str, tuple[Places, dict[str, pa.Array]]]:
    """Topic -> where its records stand among all, and their columns. Raises DecodeError."""
    data = gathered.data()
    numbers, starts, stops = gathered.places()
    found: dict[str, tuple[Places, dict[str, pa.Array]]] = {}
    for number in np.unique(numbers):
        topic = channels[int(number)].topic
        if topic not in TOPICS:
            continue
        rows = np.flatnonzero(numbers == number)
        kind = TOPICS[topic].DESCRIPTOR
        try:
            if not columns.decodable(kind):
                raise Unusual
            made = tables.from_columns(kind, columns.decode(kind, data, starts[rows], stops[rows]))
        except Unusual:
            pieces = (data[start:stop].tobytes() for start, stop in zip(starts[rows], stops[rows], strict=True))
            made = tables.from_records(kind, [TOPICS[topic].FromString(piece) for piece in pieces])
        if topic in found:  # on two channels: a segment that was put together of others
            before, arrays = found[topic]
            rows = np.concatenate([before, rows])
            made = {name: pa.concat_arrays([arrays[name], made[name]]) for name in made}
        found[topic] = rows, made
    return found


def _good_chunks(gathered: _Gathered, channels: Mapping[int, Channel]) -> int:
    """How many chunks there are before the first with a record that cannot be decoded."""
    for good, (raw, frames) in enumerate(zip(gathered.raw, gathered.frames, strict=True)):
        for number, _, _, start, stop in frames:
            topic = channels[number].topic
            try:
                if topic in TOPICS:
                    TOPICS[topic].FromString(raw[start:stop])
            except DecodeError:
                return good
    return len(gathered.raw)


def _placed(
    found: Mapping[str, tuple[Places, dict[str, pa.Array]]], boot: str, context: Context, follows: bool
) -> list[Rows]:
    """Records with their runs and times."""
    size = 1 + max(int(rows.max()) for rows, _ in found.values())
    sequence, monotonic, wall, quality = (np.zeros(size, np.uint64) for _ in range(4))
    there = np.zeros(size, np.bool_)
    for rows, arrays in found.values():
        there[rows] = True
        sequence[rows] = arrays["stamp.sequence"].to_numpy()
        monotonic[rows] = arrays["stamp.monotonic_ns"].to_numpy()
        wall[rows] = arrays["stamp.wall_ns"].to_numpy()
        quality[rows] = _quality(arrays["stamp.quality"])
    time_us = _times(boot, monotonic, wall, quality, there, context)
    run, bundle, bundles = monotonic, np.zeros(size, np.int32), pa.array([""])
    if follows:
        run, bundle, bundles = _runs(boot, sequence, monotonic, there, found.get("/run"), context)
    out = []
    for topic, (rows, arrays) in found.items():
        schema = tables.SCHEMAS[topic]
        made = arrays | {
            "time": pa.array(time_us[rows]).cast(pa.timestamp("us")),
            "clock": arrays["stamp.quality"],
            "boot": arrays["stamp.boot"],
            "sequence": arrays["stamp.sequence"],
            "monotonic_ns": arrays["stamp.monotonic_ns"],
            "wall_ns": arrays["stamp.wall_ns"],
        }
        if "run" in schema.names:
            made["run"] = pa.array(run[rows])
        if "bundle" in schema.names and topic != "/run":
            made["bundle"] = pa.DictionaryArray.from_arrays(pa.array(bundle[rows]), bundles).cast(pa.string())
        out.append(Rows(topic, {name: made[name] for name in schema.names}, time_us[rows]))
    return out


_LEVELS: Final = {name.lower(): number for name, number in Stamp.Quality.items()}


def _quality(names: pa.Array) -> npt.NDArray[Any]:
    """Numbers of what the board said of its clock."""
    coded = names.dictionary_encode()
    numbers = np.array([_LEVELS.get(name, 0) for name in coded.dictionary.to_pylist()] or [0], np.uint64)
    return numbers[coded.indices.to_numpy()]  # type: ignore[no-any-return]


def _times(
    boot: str,
    monotonic: npt.NDArray[np.uint64],
    wall: npt.NDArray[np.uint64],
    quality: npt.NDArray[np.uint64],
    there: npt.NDArray[np.bool_],
    context: Context,
) -> Places:
    """When each record was made, as well as its boot's clock is known: microseconds since 1970, UTC."""
    level = np.where(quality == Stamp.SYNCHRONISED, 2, (quality == Stamp.UNKNOWN) & (wall >= PLAUSIBLE_NS)).astype(
        np.int8
    )
    level[~there] = -1
    best = int(level.max())
    known = context.clocks.get(boot)
    if known is None or best > known.level:
        first = int(np.argmax(level == best))
        known = context.clocks[boot] = Clock(level=best, offset_ns=int(wall[first]) - int(monotonic[first]))
    if known.level < 2:
        context.guessed[boot] = min(known.level, context.guessed.get(boot, 2))
    guess = monotonic.astype(np.float64) + known.offset_ns
    exact = monotonic.astype(np.int64) + np.int64(max(-(1 << 62), min(known.offset_ns, 1 << 62)))
    by_monotonic = np.where((guess >= 0) & (guess < LAST_NS), exact, 0)
    own = np.minimum(wall, np.uint64(LAST_NS)).astype(np.int64)
    return np.where(level >= known.level, own, by_monotonic) // 1000


def _runs(
    boot: str,
    sequence: npt.NDArray[np.uint64],
    monotonic: npt.NDArray[np.uint64],
    there: npt.NDArray[np.bool_],
    told: tuple[Places, dict[str, pa.Array]] | None,
    context: Context,
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32], pa.Array]:
    """Of each record, the start of its run, and the bundle as a place in the list that follows."""
    known = np.flatnonzero(there)
    carry = context.carry
    heads = np.zeros(len(there), np.bool_)
    heads[known[1:]] = sequence[known[1:]] <= sequence[known[:-1]]
    heads[known[0]] = boot != carry.boot or int(sequence[known[0]]) <= carry.sequence
    places = np.maximum.accumulate(np.where(heads, np.arange(len(there)), -1))
    run = np.where(places >= 0, monotonic[np.maximum(places, 0)], np.uint64(carry.run))
    names = ["", carry.bundle]
    codes = np.full(len(there), -1, np.int32)
    codes[heads] = 0
    if told:
        rows, arrays = told
        for row, name in zip(rows, arrays["bundle"].to_pylist(), strict=True):
            if name not in names:
                names.append(name)
            codes[row] = names.index(name)
    last = np.maximum.accumulate(np.where(codes >= 0, np.arange(len(codes)), -1))
    bundle = np.where(last >= 0, codes[np.maximum(last, 0)], 1).astype(np.int32)
    end = int(known[-1])
    context.carry = Carry(boot=boot, sequence=int(sequence[end]), run=int(run[end]), bundle=names[int(bundle[end])])
    return run, bundle, pa.array(names)
