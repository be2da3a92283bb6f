"""Whether the replay journals what the board did, and the first record where it does not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgecl.journal import Checkpoint, Domain, Guard, Kept, Label, Prediction, Record, Run, Shift, Update

TOLERANCE: Final = 1e-3
"""Of numbers on another processor: absolute up to 1, relative above. Kernels differ there in the last bits of sums, and
learning carries that on."""

_TIMES: Final[Mapping[type[Record], tuple[str, ...]]] = {
    Prediction: ("stamp", "latency_ns"),
    Update: ("stamp", "duration_ns"),
    Checkpoint: ("stamp", "number", "file", "step", "seen", "digest", "active"),  # of the domain it was in just then
}
_DIGESTS: Final = frozenset(("digest", "detail", "signature"))
"""Text that follows from numbers: on another processor it says nothing."""


@dataclass(frozen=True)
class Difference:
    """The first record that differs."""

    recorded: Record | None
    """None where the board did nothing."""
    replayed: Record | None
    """None where the replay does nothing."""

    @property
    def step(self) -> int:
        """Update that was computed, or that had been when the sample was answered."""
        one = self.recorded or self.replayed
        return one.step if isinstance(one, Update | Guard | Prediction | Checkpoint | Run) else 0

    @property
    def seq(self) -> int | None:
        """Sample that the record is of."""
        one = self.recorded or self.replayed
        if isinstance(one, Update | Guard):
            return one.last_seq
        return one.seq if isinstance(one, Prediction | Shift | Domain | Label) else None

    def fields(self) -> dict[str, tuple[Any, Any]]:
        """Fields that differ: recorded and replayed."""
        one, other = _plain(self.recorded), _plain(self.replayed)
        return {
            name: (one.get(name), other.get(name))
            for name in dict.fromkeys((*one, *other))
            if one.get(name) != other.get(name)
        }


class DivergenceError(Exception):
    """The replay does something else than the board did."""

    def __init__(self, recorded: Record | None, replayed: Record | None) -> None:
        self.difference = Difference(recorded, replayed)
        super().__init__("diverged")


class Comparison:
    """Of one run."""

    def __init__(self, *, tolerant: bool) -> None:
        """`tolerant`: the board's processor was of another kind."""
        self._tolerant = tolerant
        self.exact = True
        """Whether all was equal to the bit until now."""
        self.apart = 0.0
        """Largest difference of a number that was tolerated, measured as TOLERANCE is."""

    def check(self, recorded: Record, replayed: Record) -> None:
        """Raises DivergenceError."""
        if type(recorded) is not type(replayed):
            raise DivergenceError(recorded, replayed)
        if isinstance(recorded, Checkpoint) and isinstance(replayed, Checkpoint):
            replayed = _as_told(recorded, replayed)
        one, other = _without_times(recorded), _without_times(replayed)
        if one == other:
            return
        apart = _apart(_plain(recorded), _plain(replayed)) if self._tolerant else math.inf
        if apart > TOLERANCE:
            raise DivergenceError(recorded, replayed)
        self.exact = False
        self.apart = max(self.apart, apart)


def same(recorded: Sequence[Kept], mine: Sequence[Kept]) -> bool:
    """Whether these are the same domains, by all that a journal tells of them."""
    return list(recorded) == _told(recorded, mine)


def _as_told(recorded: Checkpoint, replayed: Checkpoint) -> Checkpoint:
    copy = Checkpoint()
    copy.CopyFrom(replayed)
    del copy.domains[:]
    copy.domains.extend(_told(recorded.domains, replayed.domains))
    return copy


def _told(recorded: Sequence[Kept], mine: Sequence[Kept]) -> list[Kept]:
    """What a journal of before had told of these domains: it had no signatures."""
    if any(domain.signature for domain in recorded):
        return list(mine)
    return [Kept(domain=one.domain, name=one.name, step=one.step, digest=one.digest) for one in mine]


def _without_times(record: Record) -> bytes:
    copy = type(record)()
    copy.CopyFrom(record)  # type: ignore[arg-type]
    for name in _TIMES.get(type(record), ("stamp",)):
        copy.ClearField(name)  # type: ignore[arg-type]
    return copy.SerializeToString(deterministic=True)


def _plain(record: Record | None) -> dict[str, Any]:
    """Fields by name, as values that compare; not-a-number is text, so that it is like itself."""
    if record is None:
        return {}
    skipped = _TIMES.get(type(record), ("stamp",))
    return {field.name: _value(value) for field, value in record.ListFields() if field.name not in skipped}


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if hasattr(value, "ListFields"):
        return {field.name: _value(one) for field, one in value.ListFields()}
    if isinstance(value, str | bytes | int):
        return value
    return tuple(_value(one) for one in value)


def _apart(one: Any, other: Any) -> float:
    """Largest difference of the numbers of two values, as TOLERANCE is measured; infinite where anything else differs.

    A number that is 0 is not written, so none is 0. Of anything else, none and the first value are two things.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = {*one, *other} - _DIGESTS
        return max((_apart(one.get(name), other.get(name)) for name in names), default=0.0)
    if isinstance(one, tuple) and isinstance(other, tuple):
        same_length = len(one) == len(other)
        return max(map(_apart, one, other), default=0.0) if same_length else math.inf
    if isinstance(one, float) or isinstance(other, float):
        one, other = (0.0 if value is None else value for value in (one, other))
    if one == other:
        return 0.0
    if isinstance(one, float) and isinstance(other, float):
        apart = abs(one - other) / max(1.0, abs(one), abs(other))
        return math.inf if math.isnan(apart) else apart  # of two infinities
    return math.inf
