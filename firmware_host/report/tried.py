"""What-ifs for a report: results that `edgecl replay --what-if --json` printed, or tries that are replayed for it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from edgecl.errors import EdgeclError, ProjectError
from firmware_host.replay import what_if
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.recording import recordings
from firmware_host.replay.what_if import Result, Try

MAX_FILE_BYTES: Final = 64 << 20
MAX_TRIES: Final = 32
"""That are shown of one device."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A line of results: docs/commands/replay.md."""

    device: str
    name: str
    answers: _Count
    known: _Count = 0
    right: _Count = 0
    agreeing: _Count = 0
    accuracy: _Share | None = None
    entropy: float = 0.0
    updates: _Count = 0
    refused: _Count = 0
    domains: _Count = 0
    passed_over: _Count = 0
    seconds: float = 0.0
    parts: tuple[tuple[_Count, _Count], ...] = ()
    """Known and right, in equal parts of the stream."""


Results = Mapping[str, tuple[Tried, ...]]
"""By device: the board, the same settings again, and the tries."""


def read(path: Path) -> Results | tuple[Try, ...]:
    """Results, or tries that are still to be replayed: what a file is, is told by its first character.

    Raises ProjectError.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ProjectError(f"{path}: too large for results of what-ifs")
        text = path.read_bytes()
    except OSError as error:
        raise ProjectError(
            f"{path}: {error.strerror}; give what-ifs, or what edgecl replay --what-if --json printed"
        ) from None
    if not text.lstrip().startswith(b"{"):
        return what_if.read(path)
    try:
        lines = [msgspec.json.decode(line, type=Tried) for line in text.splitlines() if line.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path}: {error}; give what edgecl replay --what-if --json printed") from None
    return _by_device(lines)


def replayed(
    store: Path, devices: Iterable[str], tries: Sequence[Try], bundles: Sequence[Path], folder: Path
) -> tuple[Results, dict[str, str]]:
    """Replay tries on devices of a host store. Also, by device, why one could not be."""
    lines: list[Tried] = []
    failed: dict[str, str] = {}
    for device in devices:
        try:
            (recording,) = recordings([store / device])
            with Bundles(bundles, [store / device]) as known:
                found = what_if.what_if(recording, tries, known, folder=folder)
        except EdgeclError as error:
            failed[device] = str(error)
            continue
        lines += [_tried(device, one) for one in found]
    return _by_device(lines), failed


def _tried(device: str, one: Result) -> Tried:
    return msgspec.convert({**vars(one), "device": device, "accuracy": one.accuracy}, Tried)


def _by_device(lines: Iterable[Tried]) -> Results:
    out: dict[str, tuple[Tried, ...]] = {}
    for line in lines:
        out[line.device] = (*out.get(line.device, ()), line)[:MAX_TRIES]
    return out
