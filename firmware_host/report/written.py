"""How figures are written: intervals, points, durations."""

from firmware_host.evaluate.evaluation import Interval
from firmware_host.report.markup import Html, join, percent, signed, tag


def with_range(told: Interval | None) -> Html | str:
    """A share, with where it would lie in 95 of 100 such streams."""
    if told is None:
        return "–"
    return join(percent(told.value), tag("small", f" {interval(told)}") if told.low is not None else None)


def interval(told: Interval, *, points: bool = False) -> str:
    """From where to where it would lie, in percent or in points; empty where that is not known."""
    if told.low is None or told.high is None:
        return ""
    low, high = 100 * told.low, 100 * told.high
    return f"{signed(f'{low:+.1f}')} to {signed(f'{high:+.1f}')}" if points else f"{low:.1f} to {high:.1f}"


def points_of(share: float) -> str:
    """A difference of shares, in points of a percentage."""
    return signed(f"{100 * share:+.1f}")


def wrong(accuracy: float | None) -> str:
    """The error of an accuracy."""
    return percent(None if accuracy is None else 1 - accuracy)


def duration(seconds: float | None) -> str:
    """For people; a dash where it is not known."""
    if seconds is None:
        return "–"
    for most, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
