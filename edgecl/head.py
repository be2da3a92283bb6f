"""Heads without gradients: sums over labelled features, from which the best linear classifier follows in one solve.

A head is what was summed, so samples come in any order and any batches, are taken back when their label was wrong, and
two heads are one by addition; nothing is forgotten. Two forms, in one table, `HEADS`:

* `lda`    linear discriminant analysis as in FSA (Panos et al. 2023): Sigma = (A - a a^T / n) / (n - 1) + I from the
           total covariance, not that within classes, W = Sigma^-1 mu^T and b = -1/2 diag(mu Sigma^-1 mu^T).
* `ridge`  ridge regression to one-hot labels on random features h = relu(f R), W = (G + strength I)^-1 Q, as in RanPAC
           (McDonnell et al. 2023). R is bipolar, over sqrt(d), where RanPAC's is Gaussian. RanPAC tries strengths on a
           fifth of the data, which sums alone do not allow: here it is STRENGTH times the mean diagonal of G.

Features should be whitened (`edgecl/whitening.py`): the I of LDA counts one deviation of the source. Sums are float64,
and take 8 (k^2 + C k + C) bytes for C classes, with k the features, or WIDTH for `ridge`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import hypervectors, tensors
from edgecl.errors import StoreError

FORMAT: Final = "edgecl-head-1"
WIDTH: Final = 512
"""Random features of `ridge`: 2 MiB of sums. RanPAC has 10,000, which would take 800 MB."""
STRENGTH: Final = 1.0
LARGEST: Final = 1e4
"""Features count so much at most: the square of a larger one would leave nothing of the others, nor let itself be
taken back. Whitened features are a few units."""
START: Final = 300.0
"""Samples that the source weighs at the start of a domain, by default."""
_TINY: Final = 1e-30
"""Instead of a zero, where one would be divided by."""

Form = Literal["lda", "ridge"]
Features = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]
Doubles = npt.NDArray[np.float64]


class Space(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is summed: functions of the features [B, d] that are the same on every machine."""

    form: Form
    features: int
    """d"""
    width: int
    """k"""
    seed: int = 0
    """Of the random features."""

    def __call__(self, features: Features) -> Doubles:
        """Features [B, d] to [B, k]. Raises ValueError: another shape, or numbers that are not finite."""
        if features.ndim != 2 or features.shape[1] != self.features:
            raise ValueError(f"features {list(features.shape)} where [n, {self.features}] is needed")
        if not np.isfinite(features).all():
            raise ValueError("features that are not finite; leave such samples out")
        clipped = np.clip(features.astype(np.float64), -LARGEST, LARGEST)
        return clipped if self.form == "lda" else np.maximum(clipped @ _projection(self), 0.0)


@lru_cache(maxsize=2)
def _projection(space: Space) -> Doubles:
    signs = hypervectors.signs(space.seed, space.features * space.width)
    projection: Doubles = signs.reshape(space.features, space.width) / np.sqrt(float(space.features))
    projection.flags.writeable = False
    return projection


@dataclass(frozen=True, eq=False)
class Linear:
    """A solved head."""

    space: Space
    weight: Doubles
    """[k, C]"""
    bias: Doubles
    """[C]; -inf for a class without samples, which is never predicted."""

    def __call__(self, features: Features) -> Doubles:
        """Logits [B, C] of features [B, d]. Raises ValueError as `Space` does."""
        logits: Doubles = self.space(features) @ self.weight + self.bias
        return logits


@dataclass(frozen=True, eq=False)
class Prior:
    """What a head starts from, and shares with others."""

    sums: "Sums"
    weight: float
    """Samples that it weighs as."""
    mean: Doubles | None
    """[d], where its mean is moved to."""


@dataclass(frozen=True, eq=False)
class Sums:
    """All that a head knows of the samples it was given. Read-only: what changes it makes new sums."""

    space: Space
    gram: Doubles
    """[k, k], the sum of outer products."""
    counts: npt.NDArray[np.int64]
    """[C], samples a class."""
    sums: Doubles
    """[C, k], the sum of each class."""
    prior: Prior | None = None

    def __post_init__(self) -> None:
        for array in (self.gram, self.counts, self.sums):
            array.flags.writeable = False

    @property
    def classes(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def n(self) -> int:
        """Samples, those of the prior not counted."""
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        """8 (k^2 + C k + C): the prior is shared, and not counted."""
        return self.gram.nbytes + self.counts.nbytes + self.sums.nbytes

    def add(self, features: Features, labels: Labels) -> "Sums":
        """With samples: features [n, d] and labels [n].

        Raises ValueError: another shape, a label that is no class, or features that are not finite.
        """
        gram, counts, sums = self._of(features, labels)
        return replace(self, gram=self.gram + gram, counts=self.counts + counts, sums=self.sums + sums)

    def remove(self, features: Features, labels: Labels) -> "Sums":
        """Without samples that were added, given as they were then.

        Raises ValueError as `add` does, and where there are none of a class to take, or others were added.
        """
        gram, counts, sums = self._of(features, labels)
        left = self.counts - counts
        if (left < 0).any():
            short = int(left.argmin())
            raise ValueError(f"{counts[short]} samples of class {short} to take from {self.counts[short]}")
        # What has no samples is zero, not what rounding left.
        gram = self.gram - gram if left.any() else np.zeros_like(gram)
        if gram.diagonal().min() < -1e-9 * self.gram.diagonal().max():
            raise ValueError("samples to take that were never added")
        return replace(self, gram=gram, counts=left, sums=np.where(left[:, None] > 0, self.sums - sums, 0.0))

    def widen(self, classes: int) -> "Sums":
        """With more classes, new ones at the end; what is there stays as it is. Raises ValueError: fewer classes."""
        more = classes - self.classes
        if more < 0:
            raise ValueError(f"{classes} classes where there are {self.classes} already")
        return replace(self, counts=np.pad(self.counts, (0, more)), sums=np.pad(self.sums, ((0, more), (0, 0))))

    def plus(self, other: "Sums") -> "Sums":
        """With what another head was given, which may have more or fewer classes; the prior stays this one's.

        Raises ValueError: it has other features.
        """
        if self.space != other.space:
            raise ValueError(f"sums of {self.space} and of {other.space} have no sum")
        classes = max(self.classes, other.classes)
        a, b = self.widen(classes), other.widen(classes)
        return replace(a, gram=a.gram + b.gram, counts=a.counts + b.counts, sums=a.sums + b.sums)

    def upon(self, prior: "Sums", weight: float = START, mean: Features | None = None) -> "Sums":
        """Started from other sums, the source's, which weigh as `weight` samples whatever their number.

        `mean` [d] is that of the domain's features, labelled or not: `lda` moves the prior there, which is most of what
        a shift does to it. Random features do not move with their inputs: `ridge` leaves its prior where it is.

        Raises ValueError: the prior has other features or more classes, or no samples; or weight or mean make no sense.
        """
        if self.space != prior.space or prior.classes > self.classes or not prior.n:
            raise ValueError(f"sums of {self.space}, {self.classes} classes, cannot start from {prior.space}")
        if not 0 < weight < np.inf:
            raise ValueError(f"a weight of {weight} samples")
        d = self.space.features
        at = None if mean is None else Space("lda", d, d)(mean[None])[0]
        return replace(self, prior=Prior(prior, weight, at))

    def solve(self) -> Linear:
        """The head, found when first asked for. Without any samples all its logits are -inf."""
        return self._linear

    @cached_property
    def _linear(self) -> Linear:
        return HEADS[self.space.form].solve(self)

    def _of(self, features: Features, labels: Labels) -> tuple[Doubles, npt.NDArray[np.int64], Doubles]:
        lifted = self.space(features)
        if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
            raise ValueError(f"labels {labels.dtype}{list(labels.shape)} for {len(features)} samples")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ValueError(f"labels from {labels.min()} to {labels.max()} where there are {self.classes} classes")
        sums = np.zeros_like(self.sums)
        np.add.at(sums, labels, lifted)
        return lifted.T @ lifted, np.bincount(labels.astype(np.int64), minlength=self.classes), sums


@dataclass(frozen=True)
class _Moments:
    """Sums as they are solved, with what they start from. Counts are weights, no integers."""

    gram: Doubles
    counts: Doubles
    sums: Doubles

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(self.gram + other.gram, self.counts + other.counts, self.sums + other.sums)

    def scaled(self, by: float) -> "_Moments":
        return _Moments(self.gram * by, self.counts * by, self.sums * by)

    def moved(self, mean: Doubles) -> "_Moments":
        """Those of x + t, with t such that the mean is the one given."""
        n, total = self.counts.sum(), self.sums.sum(0)
        t = mean - total / n
        cross = np.outer(total, t)
        gram = self.gram + cross + cross.T + n * np.outer(t, t)
        return _Moments(gram, self.counts, self.sums + np.outer(self.counts, t))


def _moments(sums: Sums) -> _Moments:
    own = _Moments(sums.gram, sums.counts.astype(np.float64), sums.sums)
    if not sums.prior:
        return own
    prior = sums.prior.sums.widen(sums.classes)
    start = _Moments(prior.gram, prior.counts.astype(np.float64), prior.sums).scaled(sums.prior.weight / prior.n)
    move = sums.prior.mean if sums.space.form == "lda" else None
    return own + (start if move is None else start.moved(move))


def lda(sums: Sums) -> Linear:
    """LDA with the total covariance, as FSA has it; below two samples, that is I."""
    seen = _moments(sums)
    n, total = seen.counts.sum(), seen.sums.sum(0)
    sigma = np.eye(sums.space.width)
    if n >= 2:
        sigma += (seen.gram - np.outer(total, total) / n) / (n - 1)
    mu = seen.sums / np.maximum(seen.counts, _TINY)[:, None]
    weight = _solved(sigma, mu.T)
    return Linear(sums.space, weight, np.where(seen.counts > 0, -0.5 * (mu.T * weight).sum(0), -np.inf))


def ridge(sums: Sums, strength: float = STRENGTH) -> Linear:
    """Ridge regression to one-hot labels; `strength` is in mean diagonals of G."""
    seen = _moments(sums)
    there = seen.counts > 0
    if not there.any():
        return Linear(sums.space, np.zeros_like(seen.sums.T), np.full(sums.classes, -np.inf))
    on_diagonal = max(strength * float(np.trace(seen.gram)) / sums.space.width, _TINY)  # all features may be zero
    weight = _solved(seen.gram + on_diagonal * np.eye(sums.space.width), seen.sums.T)
    return Linear(sums.space, weight, np.where(there, 0.0, -np.inf))


def _solved(matrix: Doubles, right: Doubles) -> Doubles:
    """By Cholesky's factors, so that what is not positive definite fails. Raises LinAlgError."""
    lower = np.linalg.cholesky(matrix)
    solved: Doubles = np.linalg.solve(lower.T, np.linalg.solve(lower, right))
    return solved


@dataclass(frozen=True)
class Head:
    """One form."""

    empty: Callable[[int, int, int], Sums]
    """Of d features, C classes and a seed: sums of nothing."""
    solve: Callable[[Sums], Linear]


def _empty(space: Space, classes: int) -> Sums:
    k = space.width
    return Sums(space, np.zeros((k, k)), np.zeros(classes, np.int64), np.zeros((classes, k)))


HEADS: Final[Mapping[str, Head]] = {
    "lda": Head(lambda d, classes, seed: _empty(Space("lda", d, d), classes), lda),
    "ridge": Head(lambda d, classes, seed: _empty(Space("ridge", d, WIDTH, seed), classes), ridge),
}


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of sums says of itself."""

    format: str
    space: Space
    n: int


def dump(sums: Sums) -> bytes:
    """The bytes of a file, without the prior; the same sums give the same bytes."""
    arrays = {"counts": sums.counts, "gram": sums.gram, "sums": sums.sums}
    return tensors.dump(Header(FORMAT, sums.space, sums.n), arrays)


def load(path: Path, like: Sums) -> Sums:
    """Read sums that go on from `like`, sums of nothing: of its space, with its classes or more, and with its prior.

    Raises StoreError: missing, damaged, of another space, or no sums of samples.
    """
    header, arrays = tensors.load(path, Header, "a head")
    if header.format != FORMAT or set(arrays) != {"counts", "gram", "sums"}:
        raise StoreError(f"{path}: not a head that edgecl wrote; delete it")
    if header.space != like.space:
        raise StoreError(f"{path}: a head of {header.space}, the bundle has {like.space}; delete it")
    gram, counts, sums = arrays["gram"], arrays["counts"], arrays["sums"]
    k, classes = like.space.width, counts.size
    for name, array, dtype, shape in (
        ("counts", counts, np.int64, (classes,)),
        ("gram", gram, np.float64, (k, k)),
        ("sums", sums, np.float64, (classes, k)),
    ):
        if array.dtype != dtype or array.shape != shape:
            raise StoreError(f"{path}: {name!r} is {array.dtype}{list(array.shape)}, no head has that; delete it")
        if not np.isfinite(array).all():
            raise StoreError(f"{path}: {name!r} holds numbers that are not finite; delete it")
    if classes < like.classes:
        raise StoreError(f"{path}: it has {classes} classes, the bundle {like.classes}; delete it")
    if (counts < 0).any() or sum(counts.tolist()) != header.n:  # numpy's sum might wrap around
        raise StoreError(f"{path}: its counts are not those of {header.n} samples; delete it")
    loaded = replace(like, gram=gram, counts=counts, sums=sums)
    if (gram != gram.T).any() or sums[counts == 0].any() or (not header.n and gram.any()):
        raise StoreError(f"{path}: no samples have such sums; delete it")
    try:
        replace(loaded, prior=None).solve()
    except np.linalg.LinAlgError:
        raise StoreError(f"{path}: no samples have such sums; delete it") from None
    return loaded
