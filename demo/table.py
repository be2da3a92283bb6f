"""What a run of the stream gave, read from its events, and the table of all runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt


class Event(msgspec.Struct):
    """What the table needs of a line that `edgecl run --json` or demo/eager.py prints."""

    event: str
    position: int = 0
    seq: int = 0
    began: bool = False
    label: int = 0
    y: int | None = None
    resident_bytes: int = 0
    answer_ms: float | None = None
    update_ms: float | None = None
    rolled_back: int = 0


@dataclass(frozen=True)
class Result:
    """One learner, run by edgecl or by PyTorch."""

    learner: str
    by: str
    wrong: npt.NDArray[np.bool_]
    """Of every image of the stream, whether its answer was wrong."""
    resident_bytes: int
    """Of the whole process, at its end."""
    answer_ms: float
    """Median, as `update_ms`; that is None where nothing is learned."""
    update_ms: float | None
    rolled_back: int
    """Updates that the guard took back."""
    shifted_at: int | None = None
    """The image at which inputs were first told to be unlike the source."""

    def errors(self, shifts: int) -> list[float]:
        """In percent, of each of so many parts of the stream."""
        return [100 * float(part.mean()) for part in np.split(self.wrong, shifts)]


def read(learner: str, by: str, lines: Iterable[bytes | str]) -> Result:
    """The result that a process printed, one JSON object a line."""
    events = [msgspec.json.decode(line, type=Event) for line in lines]
    answers = sorted((event for event in events if event.event == "prediction"), key=lambda event: event.position)
    summary = events[-1]
    return Result(
        learner,
        by,
        np.array([event.label != event.y for event in answers]),
        summary.resident_bytes,
        summary.answer_ms or 0.0,
        summary.update_ms,
        summary.rolled_back,
        next((event.seq for event in events if event.event == "shift" and event.began), None),
    )


def table(results: Sequence[Result], shifts: Sequence[str]) -> str:
    """Errors in percent under each shift, and what a process took."""
    rows = [["", "", *shifts, "all", "MB", "ms/answer", "ms/update"]]
    before = ""
    for result in results:
        errors = [f"{error:.1f}" for error in (*result.errors(len(shifts)), 100 * result.wrong.mean())]
        update = "" if result.update_ms is None else f"{result.update_ms:.1f}"
        costs = [f"{result.resident_bytes / 1e6:.0f}", f"{result.answer_ms:.2f}", update]
        rows.append(["" if result.learner == before else result.learner, result.by, *errors, *costs])
        before = result.learner
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        names = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths, strict=False)]
        numbers = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(names + numbers).rstrip())
    return "\n".join(lines)


def seen(results: Sequence[Result], shifts: Sequence[str]) -> str:
    """What the numbers say, in a few lines."""
    ours = {result.learner: result for result in results if result.by == "edgecl"}
    theirs = {result.learner: result for result in results if result.by != "edgecl"}
    shifted = [place for place, name in enumerate(shifts) if not name.startswith("clean")]
    lines = [f"Mean over the {len(shifted)} shifts, learning without a single label: "]
    means = {name: np.array(result.errors(len(shifts)))[shifted].mean() for name, result in ours.items()}
    lines[0] += ", ".join(f"{name} {mean:.1f} %" for name, mean in means.items()) + "."
    first, last = ({name: result.errors(len(shifts))[place] for name, result in ours.items()} for place in (0, -1))
    clean = ", ".join(f"{name} {first[name]:.1f} % and {last[name]:.1f} %" for name in ours)
    lines.append(f"Clean images before and after all that: {clean}.")
    same = min(float((ours[name].wrong == theirs[name].wrong).mean()) for name in theirs)
    more = [theirs[name].resident_bytes / ours[name].resident_bytes for name in theirs]
    lines.append(
        f"PyTorch is right and wrong on the same images, {100 * same:.1f} % or more of them, "
        f"with {min(more):.1f} to {max(more):.1f} times the memory."
    )
    first_shift = min(shifted) * len(next(iter(ours.values())).wrong) // len(shifts)
    told = [
        f"{name} {result.shifted_at - first_shift + 1}"
        for name, result in ours.items()
        if result.shifted_at is not None and result.shifted_at >= first_shift
    ]
    if told:
        lines.append(f"Images of the first shift until the detector told of it: {', '.join(told)}.")
    lines += [
        f"The guard took back {result.rolled_back} updates of {name}: they had made it worse on its canaries."
        for name, result in ours.items()
        if result.rolled_back
    ]
    return "\n".join(lines)
