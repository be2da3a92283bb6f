"""The columns of the table of devices: their texts, what they are sorted by, and when something is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgecl.requests import Status
from firmware_host.said import size
from firmware_host.status import Standing
from firmware_host.top.figures import Figures

HOT_C: Final = 80.0
"""Where boards of this kind begin to slow down."""
FULL: Final = 0.9
"""Of the journal's quota: behind it nothing is learned soon."""

Key = tuple[bool, float | str]


@dataclass(frozen=True)
class Column:
    """One of them."""

    title: str
    text: Callable[[Figures], str]
    key: Callable[[Figures], float | str | None]
    """What it is sorted by; those without come last."""
    falling: bool = False
    """Whether the largest comes first."""
    bad: Callable[[Figures], bool] = lambda one: False


def ordered(figures: Sequence[Figures], column: Column, *, reverse: bool = False) -> list[Figures]:
    """The devices, sorted by a column; equal ones by their names."""
    named = sorted(figures, key=lambda one: one.device)
    known = [one for one in named if column.key(one) is not None]
    unknown = [one for one in named if column.key(one) is None]
    known.sort(key=lambda one: column.key(one), reverse=column.falling != reverse)  # type: ignore[arg-type,return-value]
    return known + unknown


def row(one: Figures) -> tuple[str, ...]:
    """All texts of a device."""
    return tuple(column.text(one) for column in COLUMNS)


def _of(value: Callable[[Status], float | None]) -> Callable[[Figures], float | None]:
    return lambda one: value(one.service) if one.service else None


def _shown(value: Callable[[Figures], float | None], form: str) -> Callable[[Figures], str]:
    def text(one: Figures) -> str:
        found = value(one)
        return "" if found is None else form.format(found)

    return text


def _number(title: str, value: Callable[[Status], float | None], form: str, **more: object) -> Column:
    return Column(title, _shown(_of(value), form), _of(value), **more)  # type: ignore[arg-type]


def _title(one: Figures) -> str:
    found = one.standing
    if not found or not found.current:
        return ""
    return found.current_title if _answers(found) else f"({found.current_title})"


def _answers(found: Standing) -> bool:
    return found.service is not None and found.service.bundle == found.current


def _fill(found: Status) -> float | None:
    return found.journal_bytes / found.journal_quota_bytes if found.journal_quota_bytes else None


def _journal(one: Figures) -> str:
    found = one.service
    if not found:
        return ""
    share = _fill(found)
    return size(found.journal_bytes) if share is None else f"{size(found.journal_bytes)} {share:.0%}"


def _guard(one: Figures) -> str:
    found = one.service
    if not found:
        return ""
    return f"{found.refused} ({found.rolled_back} back)" if found.rolled_back else str(found.refused)


def _above(value: Callable[[Status], float | None], limit: float) -> Callable[[Figures], bool]:
    def bad(one: Figures) -> bool:
        found = value(one.service) if one.service else None
        return found is not None and found >= limit

    return bad


COLUMNS: Final[tuple[Column, ...]] = (
    Column("device", lambda one: one.device, lambda one: one.device),
    Column("state", lambda one: one.state, lambda one: one.state, bad=lambda one: bool(one.error)),
    Column("bundle", _title, lambda one: _title(one) or None),
    Column("steps/s", _shown(lambda one: one.steps_hz, "{:.2f}"), lambda one: one.steps_hz, falling=True),
    Column("answers/s", _shown(lambda one: one.answers_hz, "{:.1f}"), lambda one: one.answers_hz, falling=True),
    _number("right", lambda now: now.accuracy, "{:.1%}"),
    _number("canaries", lambda now: now.canaries, "{:.1%}"),
    _number("entropy", lambda now: now.entropy, "{:.2f}", falling=True),
    _number("novel", lambda now: now.novel, "{:.1%}", falling=True),
    Column(
        "guard",
        _guard,
        _of(lambda now: 1e6 * now.rolled_back + now.refused),
        falling=True,
        bad=_above(lambda now: now.rolled_back, 1),
    ),
    _number("p95", lambda now: now.latency_ms if now.samples else None, "{:.1f} ms", falling=True),
    Column(
        "memory", lambda one: size(one.service.resident_bytes) if one.service else "",
        _of(lambda now: now.resident_bytes), falling=True,
    ),
    _number("heat", lambda now: now.celsius, "{:.0f} °C", falling=True, bad=_above(lambda now: now.celsius, HOT_C)),
    Column("journal", _journal, _of(lambda now: _fill(now) or 0.0), falling=True, bad=_above(_fill, FULL)),
)  # fmt: skip
