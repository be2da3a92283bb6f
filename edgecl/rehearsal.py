"""Labelled samples kept to be learned again: evenly over classes and domains, and within those left to chance.

The samples of a class in a domain are a group. What is too much is taken from the largest group, so that groups stay
even however uneven the stream is (as in CBRS, Chrysakis and Moens 2020). Within a group every sample was equally likely
to be kept: each has a rank, a random number of the seed and its `seq`, and a group keeps its lowest. That is reservoir
sampling (the distribution of algorithm R, Vitter 1985) which depends on no order and keeps no count of what it has
seen, and a replay keeps the same samples. Where room was made by `drop`, `remove` or a larger budget, new samples come
in until it is used, and higher ranks go first again.

A sample counts its array and OVERHEAD bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import tensors
from edgecl.errors import StoreError

FORMAT: Final = "edgecl-rehearsal-1"
OVERHEAD: Final = 512
"""Bytes that Python needs for a sample beside its numbers: array header, `Stored`, dictionary entries; 409 measured."""

_NUMBERS: Final = ("seq", "label", "domain")
_RANKS, _DRAWS = 1 << 64, 1 << 65
"""Where random numbers begin, so that neither are those of the other, nor those of a learner's noise."""

Array = npt.NDArray[Any]
Group = tuple[int, int]
"""Domain and label."""


@dataclass(frozen=True, eq=False)
class Stored:
    """One labelled sample."""

    seq: int
    """Of its answer: no two samples have the same."""
    label: int
    domain: int
    x: Array
    """As its source gave it: uint8 for images or float32 for vectors."""

    @property
    def nbytes(self) -> int:
        """What it counts in the budget."""
        return self.x.nbytes + OVERHEAD

    @property
    def group(self) -> Group:
        """Its domain and label."""
        return self.domain, self.label


class Rehearsal:
    """A bounded buffer. One thread at a time uses it."""

    def __init__(self, budget_bytes: int, seed: int) -> None:
        self.budget_bytes, self.seed = budget_bytes, seed
        self.nbytes = 0
        """Never more than the budget."""
        self._kept: dict[int, Stored] = {}
        self._ranks: dict[int, int] = {}
        self._groups: dict[Group, set[int]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Stored]:
        """All samples, in the order of `seq`."""
        return (self._kept[seq] for seq in self.seqs)

    @property
    def seqs(self) -> tuple[int, ...]:
        """Of all samples, rising."""
        return tuple(sorted(self._kept))

    def add(self, stored: Stored) -> bool:
        """Take a sample in, and others or itself out until the budget is kept; whether it is among those kept.

        Raises ValueError: its `seq` is there already, its numbers are not like those of the others or not finite, or
        its label, domain or seq is negative.
        """
        if stored.seq in self._kept:
            raise ValueError(f"sample {stored.seq} is stored already")
        if min(stored.seq, stored.label, stored.domain) < 0:
            raise ValueError(f"sample {stored.seq}: class {stored.label} of domain {stored.domain}")
        if stored.x.dtype not in (np.uint8, np.float32) or not np.isfinite(stored.x).all():
            raise ValueError(f"sample {stored.seq}: {stored.x.dtype}, or numbers that are not finite")
        other = next(iter(self._kept.values()), stored).x
        if (stored.x.dtype, stored.x.shape) != (other.dtype, other.shape):
            given, there = (f"{x.dtype}{list(x.shape)}" for x in (stored.x, other))
            raise ValueError(f"sample {stored.seq}: {given} among samples of {there}")
        x = stored.x.copy(order="C")  # a view would keep all of the batch that it is part of
        x.flags.writeable = False
        self._put(replace(stored, x=x))
        while self.nbytes > self.budget_bytes:
            self.remove(self._last())
        return stored.seq in self._kept

    def get(self, seq: int) -> Stored | None:
        """The sample, where it is kept."""
        return self._kept.get(seq)

    def remove(self, seq: int) -> Stored | None:
        """Take a sample out, where it is kept."""
        stored = self._kept.pop(seq, None)
        if stored:
            self.nbytes -= stored.nbytes
            del self._ranks[seq]
            self._groups[stored.group].remove(seq)
            if not self._groups[stored.group]:
                del self._groups[stored.group]
        return stored

    def relabel(self, seq: int, label: int) -> Stored | None:
        """Correct the label of a sample, where it is kept. Raises ValueError: a negative label."""
        if label < 0:
            raise ValueError(f"sample {seq}: class {label}")
        stored = self.remove(seq)
        if stored:
            self._put(replace(stored, label=label))
        return stored and self._kept[seq]

    def of(self, domain: int) -> tuple[Stored, ...]:
        """The samples of a domain, in the order of `seq`."""
        return tuple(stored for stored in self if stored.domain == domain)

    def batch(self, domain: int, count: int, key: int) -> list[Stored]:
        """Draw different samples of a domain, its classes as evenly as they allow; all of them, where there are fewer.

        The same samples and key give the same draw, on every machine.
        """
        of = self.of(domain)
        # Raw words: numpy may change what it makes of them, and a replay should not.
        words = np.random.Philox(key=_key(self.seed, key), counter=_DRAWS)
        numbers = dict(zip((stored.seq for stored in of), words.random_raw(len(of)).tolist(), strict=True))
        labels = sorted({stored.label for stored in of})
        turns = zip(labels, words.random_raw(len(labels)).tolist(), strict=True)
        drawn = [
            (turn, number, seq)  # in every turn, one sample of each class
            for label, number in turns
            for turn, seq in enumerate(sorted(self._groups[domain, label], key=numbers.__getitem__))
        ]
        return [self._kept[seq] for _, _, seq in sorted(drawn)[: max(0, count)]]

    def move(self, domain: int, to: int) -> None:
        """Make one domain's samples another's, as where two become one."""
        for stored in self.of(domain):
            self.remove(stored.seq)
            self._put(replace(stored, domain=to))

    def drop(self, domain: int) -> None:
        """Forget the samples of a domain."""
        for stored in self.of(domain):
            self.remove(stored.seq)

    def _put(self, stored: Stored) -> None:
        self._kept[stored.seq] = stored
        self._ranks[stored.seq] = rank(self.seed, stored.seq)
        self._groups.setdefault(stored.group, set()).add(stored.seq)
        self.nbytes += stored.nbytes

    def _last(self) -> int:
        """The sample to go next: the highest rank of the largest group, of the lowest of those."""
        largest = min(self._groups, key=lambda group: (-len(self._groups[group]), group))
        return max(self._groups[largest], key=lambda seq: (self._ranks[seq], seq))


def rank(seed: int, seq: int) -> int:
    """A random number of 64 bits for a sample, the same on every machine."""
    return int(np.random.Philox(key=_key(seed, seq), counter=_RANKS).random_raw())


def _key(*words: int) -> npt.NDArray[np.uint64]:
    return np.array(words, np.uint64)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of samples says of itself."""

    format: str
    seed: int


def dump(rehearsal: Rehearsal) -> bytes:
    """The bytes of a file; the same samples and seed give the same bytes."""
    kept = list(rehearsal)
    arrays = {name: np.array([getattr(stored, name) for stored in kept], np.int64) for name in _NUMBERS}
    x = np.stack([stored.x for stored in kept]) if kept else np.zeros(0, np.uint8)
    return tensors.dump(Header(FORMAT, rehearsal.seed), arrays | {"x": x})


def load(path: Path, budget_bytes: int) -> Rehearsal:
    """Read samples; those that do not fit a budget, which may have become smaller, go as they would in `add`.

    Raises StoreError: missing, damaged, or no samples.
    """
    header, arrays = tensors.load(path, Header, "stored samples")
    if header.format != FORMAT or set(arrays) != {*_NUMBERS, "x"} or not 0 <= header.seed < 1 << 64:
        raise StoreError(f"{path}: not stored samples that edgecl wrote; delete it")
    x, count = arrays["x"], arrays["seq"].size
    for name in _NUMBERS:
        array = arrays[name]
        if array.dtype != np.int64 or array.shape != (count,) or (array < 0).any():
            raise StoreError(f"{path}: {name!r} is not {count} numbers from 0 on; delete it")
    if (np.diff(arrays["seq"]) <= 0).any():
        raise StoreError(f"{path}: its samples are not in the order of their numbers; delete it")
    if not x.ndim or len(x) != count:
        raise StoreError(f"{path}: {list(x.shape)} for {count} samples; delete it")
    rehearsal = Rehearsal(budget_bytes, header.seed)
    try:
        for seq, label, domain, one in zip(*(arrays[name].tolist() for name in _NUMBERS), x, strict=True):
            rehearsal.add(Stored(seq, label, domain, one))
    except ValueError as error:
        raise StoreError(f"{path}: {error}; delete it") from None
    return rehearsal
