"""Which answers to label: those of which a label is worth most, of those whose samples are there to look at.

What a label is worth is guessed by how unsure the answer was (its entropy: uncertainty sampling, Lewis and Gale 1994)
and how unlike the source its sample is. Of the samples worth most, a greedy choice then takes the one whose worth,
times its distance from all chosen before, is largest; distances are those of samples made coarse. So the same thing is
not labelled twice (farthest first, as in core-sets: Sener and Savarese 2018). Nothing is drawn: the same store gives
the same queue.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgecl import samples
from edgecl.errors import JournalError, StoreError
from firmware_host.evaluate.answers import Answers
from firmware_host.evaluate.device import Gathered
from firmware_host.replay.recording import Tape

POOL: Final = 20
"""Samples that are looked at for each that is asked for."""
MOST_POOL: Final = 20_000
SIDE: Final = 8
"""Of a sample made coarse, along each of its axes."""
COLUMNS: Final = ("seq", "class", "answer", "confidence", "entropy", "similarity", "domain", "why")
"""Of a file; `edgecl label --csv` takes the first two."""
SAME: Final = 1e-3
"""Distance, of the largest there is, below which two samples are the same."""


@dataclass(frozen=True)
class Suggestion:
    """A sample to label. Its place in the queue tells what it is worth."""

    seq: int
    answer: str
    """That the board gave."""
    confidence: float
    entropy: float
    similarity: float | None
    domain: str
    why: str
    """`unsure`, `novel`, or both."""


@dataclass(frozen=True)
class Queue:
    """What to label, what is worth most first."""

    device: str
    lineage: str
    suggestions: tuple[Suggestion, ...]
    notes: tuple[str, ...]


def suggest(gathered: Gathered, count: int) -> Queue:
    """So many samples, or as many as there are. Raises StoreError: no samples are here."""
    answers, notes = gathered.answers, []
    here = np.isin(answers.seq, gathered.kept)
    if gathered.recording is None or not here.any():
        device = gathered.lineage.device
        raise StoreError(f"{device}: no samples are here to be labelled; keep some (edgecl run --keep) and pull them")
    open_ = here & ~answers.known
    if not open_.any():
        notes.append("every sample that is here has its label")
    worth, sides = _worth(answers)
    pool = np.flatnonzero(open_)
    size = min(MOST_POOL, count * POOL)
    pool = np.sort(pool[np.lexsort((answers.seq[pool], -worth[pool]))[:size]])
    places, coarse, gone, twice = _look(gathered, answers, pool)
    if gone:
        notes.append(f"{gone} samples that were kept are not in the store any more")
    chosen = choose(worth[places], coarse, count)
    if len(chosen) < min(count, len(places)):
        twice += min(count, len(places)) - len(chosen)
    if twice:
        notes.append(f"{twice} samples are left out that are like another one")
    return Queue(
        gathered.lineage.device,
        gathered.lineage.name,
        tuple(_suggestion(gathered, int(places[one]), sides) for one in chosen),
        tuple(notes),
    )


def _worth(answers: Answers) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.float64]]]:
    """What the label of each answer is worth, 0 to 1, and the parts of that: ranks, so that no scale matters."""
    unsure = _ranks(np.nan_to_num(answers.entropy, nan=np.inf))
    scored = np.isfinite(answers.similarity)
    if not scored.any():
        return unsure, {"unsure": unsure}
    unlike = _ranks(np.where(scored, -answers.similarity, -np.inf))
    return (unsure + unlike) / 2, {"unsure": unsure, "novel": np.where(answers.novel, unlike, 0)}


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The share of values that are below each."""
    ordered = np.sort(values)
    found: npt.NDArray[np.float64] = np.searchsorted(ordered, values) / len(values)
    return found


def _look(
    gathered: Gathered, answers: Answers, pool: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32], int, int]:
    """Places of samples that can be had, each once, with what they are like; how many are gone, and how many twice."""
    assert gathered.recording is not None
    tape = Tape(gathered.recording.samples, frozenset())
    places: list[int] = []
    rows: list[npt.NDArray[np.float32]] = []
    digests: set[bytes] = set()
    gone = twice = 0
    for place in pool.tolist():
        sample = tape.find(int(answers.seq[place]))
        try:
            x = samples.array(sample) if sample else None
        except JournalError:
            x = None
        if sample is None or x is None:
            gone += 1
            continue
        digest = hashlib.sha256(sample.x).digest()
        if digest in digests:
            twice += 1
            continue
        digests.add(digest)
        row = coarse(x)
        if rows and row.size != rows[0].size:
            gone += 1  # of another bundle, whose samples have another form
            continue
        places.append(place)
        rows.append(row)
    found = np.stack(rows) if rows else np.zeros((0, 1), np.float32)
    return np.array(places, np.intp), found, gone, twice


def coarse(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A sample as few numbers: means over at most SIDE stretches of each axis."""
    found: npt.NDArray[np.float32] = x.astype(np.float32)
    for axis, size in enumerate(x.shape):
        if size > SIDE:
            starts = np.arange(SIDE) * size // SIDE
            lengths = np.diff(np.append(starts, size)).reshape([-1 if one == axis else 1 for one in range(x.ndim)])
            found = (np.add.reduceat(found, starts, axis) / lengths).astype(np.float32)
    return found.reshape(-1)


def choose(worth: npt.NDArray[Any], rows: npt.NDArray[np.float32], count: int) -> list[int]:
    """Places in the order in which they are chosen."""
    if not len(rows):
        return []
    spread = float(np.linalg.norm(rows - rows.mean(0), axis=1).max()) * 2 or 1.0
    distance = np.ones(len(rows))
    chosen: list[int] = []
    while len(chosen) < count:
        value = worth * distance
        value[chosen] = -1
        best = int(value.argmax())
        if value[best] < 0 or (chosen and distance[best] < SAME):
            break
        chosen.append(best)
        distance = np.minimum(distance, np.linalg.norm(rows - rows[best], axis=1) / spread)
    return chosen


def _suggestion(gathered: Gathered, place: int, sides: dict[str, npt.NDArray[np.float64]]) -> Suggestion:
    answers = gathered.answers
    similarity = float(answers.similarity[place])
    label = int(answers.label[place])
    why = [name for name, ranks in sides.items() if ranks[place] >= 0.5] or ["different"]
    return Suggestion(
        seq=int(answers.seq[place]),
        answer=gathered.names.get(label, str(label)),
        confidence=float(answers.confidence[place]),
        entropy=float(answers.entropy[place]),
        similarity=similarity if np.isfinite(similarity) else None,
        domain=gathered.stays.names[int(gathered.stays.domain[place])],
        why=" and ".join(why),
    )


def rows(queue: Queue) -> Iterable[dict[str, Any]]:
    """As `edgecl label --csv` takes them, once `class` is filled in."""
    for one in queue.suggestions:
        yield {
            "seq": one.seq,
            "class": "",
            "answer": one.answer,
            "confidence": f"{one.confidence:.4f}",
            "entropy": f"{one.entropy:.4f}",
            "similarity": "" if one.similarity is None else f"{one.similarity:.4f}",
            "domain": one.domain,
            "why": one.why,
        }
