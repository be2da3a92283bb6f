"""A picture of the error over time, one line a learner, and above it what the camera saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot
from matplotlib.axes import Axes

from demo.shifts import Stream
from demo.table import Result

WINDOW: Final = 64
"""Images that the error is taken over."""
COLOURS: Final = {"source": "#8a8a8a", "norm": "#3b75af", "tent": "#e08a1e", "ecotta": "#2e8b57"}
EXAMPLES: Final = 2
"""Images shown of each shift."""


def draw(results: Sequence[Result], stream: Stream, path: Path) -> None:
    """Write the picture as PNG."""
    figure, (above, axes) = pyplot.subplots(
        2, 1, figsize=(12, 5.4), height_ratios=(0.85, 5), sharex=True, layout="constrained"
    )
    count, each = len(stream.names), stream.each
    for number, name in enumerate(stream.names):
        left = number * each
        if number % 2:
            for part in (above, axes):
                part.axvspan(left, left + each, color="#f2f2f2", zorder=0)
        above.text(left + each / 2, 1.12, name, ha="center", va="bottom", fontsize=11)
        _examples(above, stream, left)
    for result in results:
        colour = COLOURS.get(result.learner)
        axes.plot(100 * _recent(result.wrong, each), color=colour, linewidth=1.8, label=_label(result))
    axes.set(ylim=(-1, 100), xlim=(0, count * each), ylabel=f"error, % of the last {WINDOW} images")
    axes.set_xlabel("images since deployment")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(loc="upper right", frameon=True, framealpha=0.95, edgecolor="none")
    above.set(ylim=(0, 1.1))
    above.axis("off")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _examples(axes: Axes, stream: Stream, start: int) -> None:
    """The first images under a shift, side by side."""
    width = stream.each / (EXAMPLES + 0.5)
    margin = 0.25 * width
    for place in range(EXAMPLES):
        left = start + margin + place * width
        extent = (left + 0.04 * width, left + 0.96 * width, 0.0, 1.0)
        axes.imshow(stream.x[start + place, ..., 0], cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")


def _recent(wrong: npt.NDArray[np.bool_], each: int) -> npt.NDArray[np.float64]:
    """The share of wrong answers among the latest of the same shift."""
    shares = []
    for part in np.split(wrong.astype(np.float64), len(wrong) // each):
        total = np.concatenate(([0.0], part.cumsum()))
        end = np.arange(1, each + 1)
        start = np.maximum(0, end - WINDOW)
        share = (total[end] - total[start]) / (end - start)
        share[: WINDOW // 4] = np.nan  # too few for a share
        shares.append(share)
    return np.concatenate(shares)


def _label(result: Result) -> str:
    return f"{result.learner}  {100 * result.wrong.mean():.1f} % in all, {result.resident_bytes / 1e6:.0f} MB"
