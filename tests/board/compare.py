"""How far two runs of the same stream are apart: their journals record by record, and what they learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.bundle import Bundle, read_state
from edgecl.checkpoints import Checkpoints
from edgecl.journal import Checkpoint, Label, Prediction, Record, Torn, Update, read
from edgecl.state import State


@dataclass(frozen=True)
class Distance:
    """Between two runs. All of it is 0 where they are bit-equal."""

    steps: int
    """Updates that both have taken."""
    answers: float
    """Largest difference of a confidence or an entropy."""
    reports: float
    """Largest difference of a number that an update reports."""
    state: float
    """Largest difference of theta or slots in the end, relative to the largest change since the bundle was built."""


def distance(bundle: Bundle, one: Path, other: Path) -> Distance:
    """Between the state directories of two runs. Raises AssertionError: they did not answer and decide the same."""
    first, second = records(one), records(other)
    assert [decision(record) for record in first] == [decision(record) for record in second]
    pairs = list(zip(first, second, strict=True))
    lineage = bundle.manifest.lineage
    return Distance(
        steps=sum(isinstance(record, Update) and record.committed for record in first),
        answers=max(far([a.confidence, a.entropy], [b.confidence, b.entropy])
                    for a, b in pairs if isinstance(a, Prediction) and isinstance(b, Prediction)),
        reports=max(far(a.report, b.report) for a, b in pairs if isinstance(a, Update) and isinstance(b, Update)),
        state=apart(bundle, one / "learned" / lineage, other / "learned" / lineage),
    )  # fmt: skip


def apart(bundle: Bundle, one: Path, other: Path) -> float:
    """`Distance.state` of two folders of checkpoints, which must be at the same step."""
    built, first, second = read_state(bundle), learned(bundle, one), learned(bundle, other)
    assert first.step == second.step
    return max(
        far(first.theta, second.theta) / far(first.theta, built.theta),
        far(first.slots, second.slots) / far(first.slots, built.slots),
    )


def records(state: Path) -> list[Record]:
    """All of a journal, which must be whole."""
    found: list[Record] = []
    for record in read(state / "journal"):
        assert not isinstance(record, Torn), record
        found.append(record)
    return found


def decision(record: Record) -> tuple[object, ...]:
    """What no rounding may change."""
    if isinstance(record, Prediction):
        return Prediction, record.seq, record.position, record.label, record.step, record.domain
    if isinstance(record, Update):
        return Update, record.kind, record.step, record.first_seq, record.last_seq, record.committed
    if isinstance(record, Label):
        return Label, record.seq, record.y
    if isinstance(record, Checkpoint):
        return Checkpoint, record.number, record.step, record.seen
    return (type(record),)


def learned(bundle: Bundle, folder: Path) -> State:
    """The state in the newest of a folder of checkpoints."""
    resumed = Checkpoints(folder).newest(*bundle.manifest.layouts.values())
    assert resumed
    return resumed.learned.states[0]


def far(one: Any, other: Any) -> float:
    """Largest difference."""
    a: npt.NDArray[Any] = np.asarray(one, np.float64)
    return float(np.abs(a - np.asarray(other, np.float64)).max(initial=0.0))
