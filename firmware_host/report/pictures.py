"""Small pictures of samples around what happened: those that were kept, in front of it and behind it.

A sample that is no image (a window of a sensor, a feature vector) is drawn as a line. All pictures of a report have a
budget of bytes together; what is over it is left out, and told.
"""

import base64
import bisect
import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
from PIL import Image

from edgecl import journal, recovery, samples
from edgecl.errors import JournalError
from edgecl.journal import Sample
from firmware_host.evaluate.evaluation import Evaluation
from firmware_host.report.story import Event

SIDE: Final = 96
"""Longer side of a picture, pixels."""
SMALL: Final = 48
"""Up to this side it is a PNG, pixel by pixel; above, a JPEG."""
FRONT: Final = (-160, -40, 4)
BEHIND: Final = (0, 96, 8)
"""First and last sample, from the event on, and how many of them are shown."""
NEWS: Final = {("shift", "began"), ("domain", "began"), ("domain", "founded"), ("domain", "refused")}
"""Lane and kind of events that have pictures."""
PER_DEVICE: Final = 8
"""Events that have pictures, the first ones and the last ones."""
POINTS: Final = 64
"""Of a line."""


@dataclass
class Budget:
    """Bytes that pictures may take."""

    left: int

    def take(self, size: int) -> bool:
        """Whether there was room."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Picture:
    """One sample, and what was answered."""

    seq: int
    label: int
    truth: int | None
    confidence: float
    novel: bool
    image: str
    """A data URI; empty where it is a line."""
    line: tuple[float, ...]
    """0 to 1, where it is no image."""
    side: int
    """Longer side of the sample, pixels."""


@dataclass(frozen=True)
class Scene:
    """An event with its pictures."""

    event: Event
    front: tuple[Picture, ...]
    behind: tuple[Picture, ...]


def scenes(
    connection: duckdb.DuckDBPyConnection, device: Path, found: Evaluation, events: Sequence[Event], budget: Budget
) -> tuple[tuple[Scene, ...], tuple[str, ...]]:
    """The novelty events of a device with samples around them; and what is missing."""
    news = [event for event in events if (event.lane, event.what) in NEWS and event.seq is not None]
    news, notes = _apart(news), []
    if len(news) > PER_DEVICE:
        notes.append(f"samples are shown of {PER_DEVICE} of {len(news)} events")
        news = [*news[: PER_DEVICE // 2], *news[-PER_DEVICE // 2 :]]
    chosen = [
        (event, _near(connection, found, event, FRONT), _near(connection, found, event, BEHIND)) for event in news
    ]
    wanted = {row[0] for _, *sides in chosen for side in sides for row in side}
    kept = read(device / "samples", wanted)
    out: list[Scene] = []
    over = False
    for event, *sides in chosen:
        shown = []
        for side in sides:
            made = [_picture(row, kept[row[0]]) for row in side if row[0] in kept]
            fits = [one for one in made if budget.take(len(one.image) + 8 * len(one.line))]
            over |= len(fits) < len(made)
            shown.append(tuple(fits))
        if any(shown):
            out.append(Scene(event, *shown))
    if over:
        notes.append("pictures are left out, as the report would be too large; report fewer devices with --device")
    if news and not wanted:
        notes.append("no samples were kept around these events: edgecl run --keep, and edgecl pull fetches them")
    elif len(wanted) > len(kept):
        notes.append(f"{len(wanted) - len(kept)} samples around these events are not in the store any more")
    return tuple(out), tuple(notes)


def _apart(events: Sequence[Event]) -> list[Event]:
    """Events one for each place of the stream: a shift and the domain that it began show the same samples."""
    out: list[Event] = []
    for event in sorted(events, key=lambda one: (one.seq or 0, one.lane)):
        if not out or (event.seq or 0) - (out[-1].seq or 0) > BEHIND[1]:
            out.append(event)
    return out


def _near(
    connection: duckdb.DuckDBPyConnection, found: Evaluation, event: Event, side: tuple[int, int, int]
) -> list[tuple[Any, ...]]:
    """Answers around an event of which the samples are kept, evenly chosen."""
    first, last, most = side
    marks = ", ".join("?" for _ in found.bundles) or "''"
    rows = connection.execute(
        f"""
        SELECT seq, any_value(label), any_value(truth), any_value(confidence), any_value(novel)
        FROM answers SEMI JOIN samples USING (device, seq)
        WHERE device = ? AND bundle IN ({marks}) AND seq BETWEEN ? AND ? GROUP BY seq ORDER BY seq
        """,
        [found.device, *found.bundles, max(0, (event.seq or 0) + first), max(0, (event.seq or 0) + last)],
    ).fetchall()
    if len(rows) <= most:
        return rows
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def read(folder: Path, wanted: Collection[int]) -> Mapping[int, Sample]:
    """Samples by their numbers, from the segments of a device; only those that may have them are read."""
    if not wanted or not folder.is_dir():
        return {}
    starts: list[tuple[int, Path]] = []
    for path in journal.segments(folder):
        with contextlib.suppress(OSError):
            starts.append((_first(path), path))
    starts.sort(key=lambda start: start[0])
    numbers = [start for start, _ in starts]
    paths: dict[Path, set[int]] = {}
    for seq in wanted:
        # a number may be given again behind a crash, at the start of the next segment
        for place in range(max(0, bisect.bisect_left(numbers, seq) - 1), bisect.bisect_right(numbers, seq)):
            paths.setdefault(starts[place][1], set()).add(seq)
    out: dict[int, Sample] = {}
    for path, here in paths.items():
        with contextlib.suppress(OSError), path.open("rb") as file:
            for chunk in recovery.scan(file):
                for message in chunk.messages if isinstance(chunk, recovery.Chunk) else ():
                    sample = _sample(message)
                    if sample and sample.seq in here and not sample.learned:
                        out[sample.seq] = sample
    return out


def _first(path: Path) -> int:
    """Number of the first sample of a segment; of one without any, that of none."""
    with path.open("rb") as file:
        for chunk in recovery.scan(file):
            for message in chunk.messages if isinstance(chunk, recovery.Chunk) else ():
                if sample := _sample(message):
                    return sample.seq
    return 1 << 63


def _sample(message: Any) -> Sample | None:
    if message.channel.topic != "/sample":
        return None
    try:
        return Sample.FromString(message.data)
    except Exception:
        return None


def _picture(row: tuple[Any, ...], sample: Sample) -> Picture:
    seq, label, truth, confidence, novel = row
    image, side = "", 0
    line: tuple[float, ...] = ()
    with contextlib.suppress(JournalError):
        x = samples.array(sample)
        grey = x.reshape(x.shape[:2]) if x.ndim == 3 and x.shape[2] == 1 else x
        if x.size and (grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] == 3)) and min(grey.shape[:2]) > 1:
            image, side = _image(_levels(grey)), max(grey.shape[:2])
        elif x.size:
            line = _line(x)
    return Picture(seq, label, truth, confidence, bool(novel), image, line, side)


def _levels(x: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey levels, of numbers from their least to their greatest."""
    if x.dtype == np.uint8:
        return x
    return np.round(255 * _unit(x)).astype(np.uint8)


def _line(x: npt.NDArray[Any]) -> tuple[float, ...]:
    """The first row of values as they lie in memory, thinned."""
    flat = _unit(x.reshape(-1))
    chosen = flat[np.linspace(0, len(flat) - 1, min(POINTS, len(flat))).astype(int)]
    return tuple(round(float(value), 3) for value in chosen)


def _unit(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    finite = np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    return (finite - low) / (high - low) if high > low else np.full(finite.shape, 0.5)


def _image(x: npt.NDArray[np.uint8]) -> str:
    image, out = Image.fromarray(np.ascontiguousarray(x)), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    if max(image.size) <= SMALL:
        image.save(out, kind := "png", optimize=True)
    else:
        image.save(out, kind := "jpeg", quality=80)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
