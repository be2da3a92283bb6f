"""The bank of domains: what is kept of each, to know its samples again, and how two become one.

A domain has a prototype, the majority of its founders' signatures (`edgecl/signature.py`); a calibration, which says
how alike to that its samples are; and some of the signatures themselves, so that two domains can be merged as if they
had been founded together. Banks and domains do not change: every operation gives a new bank, with all other domains as
they were.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import msgspec
import numpy as np

from edgecl import hypervectors, shift
from edgecl.hypervectors import Bits
from edgecl.manifest import Calibration
from edgecl.signature import together
from edgecl.whitening import Floats

KEPT: Final = 64
"""Signatures of founders that are kept, to merge domains by: 32 kB at 4096 dimensions."""
FOLDS: Final = 4
"""A domain's calibration is of founders against the prototype of the others: parts that they are divided in."""
DOUBT: Final = 2.0
"""Standard errors of a founded domain's calibration that it is eased by: it was made of few samples."""
SOURCE: Final = 0
"""Number of the domain that the bundle was built on."""


@dataclass(frozen=True)
class Domain:
    """One entry of the bank."""

    number: int
    """Never given twice in a state directory."""
    name: str
    prototype: Bits
    """[D / 8]"""
    calibration: Calibration
    founders: Bits
    """[n, D / 8]; of the source none."""
    mean: Floats
    """[F], of the founders' whitened taps: where a head begins there (`edgecl/head.py`)."""

    @cached_property
    def digest(self) -> str:
        """16 digits of the sha256 of everything but number and name."""
        numbers = np.array(msgspec.structs.astuple(self.calibration), np.float64)
        parts = (self.prototype, self.founders, self.mean, numbers)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Bank:
    """All domains, the source first, in the order of their numbers."""

    domains: tuple[Domain, ...]
    following: int
    """Number of the next one."""

    def __getitem__(self, number: int) -> Domain:
        """Raises KeyError."""
        for domain in self.domains:
            if domain.number == number:
                return domain
        raise KeyError(number)

    def __contains__(self, number: object) -> bool:
        return any(domain.number == number for domain in self.domains)

    def named(self, name: str) -> Domain:
        """By name, or by number. Raises KeyError."""
        for domain in self.domains:
            if domain.name == name or str(domain.number) == name:
                return domain
        raise KeyError(name)

    def grown(self, domain: Domain) -> "Bank":
        """With one more."""
        return Bank((*self.domains, domain), max(self.following, domain.number + 1))

    def without(self, number: int) -> "Bank":
        """With one less."""
        return replace(self, domains=tuple(domain for domain in self.domains if domain.number != number))

    def renamed(self, number: int, name: str) -> "Bank":
        """With another name for a domain."""
        return self.changed(replace(self[number], name=name))

    def changed(self, domain: Domain) -> "Bank":
        """With this one in place of the one of its number."""
        return replace(self, domains=tuple(domain if d.number == domain.number else d for d in self.domains))

    def merged(self, one: int, other: int) -> "Bank":
        """The later of two founded anew from the founders of both, under the number and name of the earlier."""
        first, second = (self[number] for number in sorted((one, other)))
        made = found(first.number, first.name, np.concatenate([first.founders, second.founders]), first.mean[None])
        made = replace(made, mean=(first.mean + second.mean) / np.float32(2))
        return self.without(second.number).changed(made)

    def closest(self) -> tuple[int, int]:
        """The two that are most alike, the source aside. Raises ValueError: there are no two."""
        kept = [domain for domain in self.domains if domain.number != SOURCE]
        if len(kept) < 2:
            raise ValueError("no two domains beside the source")
        prototypes = np.stack([domain.prototype for domain in kept])
        alike = hypervectors.bit_similarity(prototypes, prototypes)
        alike[np.tril_indices(len(kept))] = -2
        one, other = np.unravel_index(int(alike.argmax()), alike.shape)
        return kept[one].number, kept[other].number


def found(number: int, name: str, signatures: Bits, white: Floats) -> Domain:
    """A domain with these founders: signatures [n, D / 8], and whitened taps [m, F]."""
    folds = np.arange(len(signatures)) % FOLDS
    similarities = [
        hypervectors.bit_similarity(signatures[folds == fold], together(signatures[folds != fold])[None])[:, 0]
        for fold in range(FOLDS)
    ]
    belonging = np.concatenate(similarities)
    eased = belonging - DOUBT * belonging.std() / np.sqrt(len(belonging))
    kept = signatures[np.linspace(0, len(signatures) - 1, min(KEPT, len(signatures))).astype(int)]
    return Domain(number, name, together(signatures), shift.calibrate(eased), kept, white.mean(0, dtype=np.float32))


def source_bank(calibration: Calibration, prototype: Bits, features: int) -> Bank:
    """The bank of a bundle as built, whose taps have so many features."""
    nobody, nowhere = np.zeros((0, len(prototype)), np.uint8), np.zeros(features, np.float32)
    domain = Domain(SOURCE, "source", prototype, calibration, nobody, nowhere)
    return Bank((domain,), SOURCE + 1)
