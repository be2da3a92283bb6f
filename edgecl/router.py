"""Which domain a sample of the stream belongs to, and when the stream has come to a new one.

Every sample has a signature (`edgecl/signature.py`), made by the network as built, so that it does not change with what
was learned. A sample goes to the domain whose prototype agrees with most of its bits, as a running mean over the last
samples of the stream: hysteresis.

A stream has left all known domains when the watch (`edgecl/shift.py`) says so of the deficits of its samples, each in
deviations of the domain that it is most like. From then on its samples found a new domain: it answers and adapts from a
fresh state at once, and joins the bank with FOUNDERS samples. Where the stream goes back before, nothing was changed.

One more than the bank may hold: the two most alike are merged, or the new one is refused and not kept; by policy. The
source stays as it is always.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from edgecl import hypervectors, shift
from edgecl.bank import SOURCE, Bank, Domain, found
from edgecl.hypervectors import Bits
from edgecl.manifest import Router as Record
from edgecl.shift import Look, Watch
from edgecl.whitening import Floats

FOUNDERS: Final = 128
"""Samples that found a domain."""
RECAST: Final = 32
"""Founders by which a domain that is being founded is known itself, and after which it is known better."""
MEMORY: Final = 16
"""Samples that the running mean goes back by which the stream is said to have left it again."""
MARGIN: Final = 0.5
"""Deviations that another domain must be ahead by, in the running mean, to take over the stream."""


Event = Literal["began", "founded", "merged", "refused", "returned", "entered"]


@dataclass(frozen=True)
class Turn:
    """What a sample changed in the bank, or in where the stream is."""

    event: Event
    """`began` to found a domain; which was `founded`, `merged` with another, `refused` for want of room, or given up as
    the stream `returned` to those known. `entered`: the samples go to another domain from here on."""
    domain: int
    other: int | None = None
    """That it was merged into."""
    bank: Bank | None = None
    """As it is from here on, where it has changed."""


@dataclass(frozen=True)
class Route:
    """Where one sample goes."""

    domain: int
    similarity: float
    """To that domain's prototype."""
    turns: tuple[Turn, ...]


Founder = tuple[Bits, Floats]
"""Signature [D / 8] and whitened taps [F] of a sample."""


class Founding:
    """A domain in the making."""

    def __init__(self, number: int, founders: list[Founder]) -> None:
        self.number, self.founders = number, founders
        self.refused = False
        """There was no room: it goes on, outside the bank, until the stream goes back."""
        self._made: Domain | None = None
        self._behind: dict[int, float] = {}  # running means of the deficits, to itself and to those known

    def note(self, sample: Founder, looks: Mapping[int, Look]) -> bool:
        """Take in a sample; whether the stream has gone back to a domain that is known."""
        if self._made:
            signature = sample[0]
            similarity = float(hypervectors.bit_similarity(signature[None], self._made.prototype[None])[0, 0])
            own = shift.look(self._made.calibration, similarity)
            for number, look in {**looks, self.number: own}.items():
                before = self._behind.get(number, shift.SLACK)
                self._behind[number] = before + (min(look.deficit, shift.MOST) - before) / MEMORY
            nearest = min(self._behind[number] for number in looks)
            if nearest <= shift.SLACK and nearest + MARGIN < self._behind[self.number]:
                return True
        if not self.refused:
            self.founders.append(sample)
            if len(self.founders) % RECAST == 0:
                self._made = self.domain()
        return False

    def domain(self) -> Domain:
        """As its founders make it."""
        signatures, white = (np.stack(part) for part in zip(*self.founders, strict=True))
        return found(self.number, f"domain-{self.number}", signatures, white)


class Router:
    """Follows one stream."""

    def __init__(self, record: Record, bank: Bank, *, hysteresis: int, active: int = SOURCE) -> None:
        """`hysteresis`: samples that the running mean goes back; 1 routes each sample by itself.

        `record.domains` and `record.full` bound the bank; one that is over the bound already keeps what it has.
        """
        self._record, self._hysteresis = record, hysteresis
        self._smooth: dict[int, float] = {}
        self._watch = Watch()
        self._recent: deque[Founder] = deque(maxlen=shift.WINDOW)
        self._founding: Founding | None = None
        self._stayed = hysteresis
        self._unused = SOURCE + 1  # a number that was given up is not given again in this run
        self.bank = bank
        self.active = active if active in bank else SOURCE
        """Of the last sample; a number that is not in the bank is that of a domain being founded."""

    @property
    def founding(self) -> bool:
        """Whether the stream is at a domain that is not in the bank."""
        return self._founding is not None

    def note(self, signature: Bits, white: Floats) -> Route:
        """Where the next sample of the stream, of this signature [D / 8] and whitened taps [F], goes."""
        known = self.bank.domains
        similarities = dict(zip((domain.number for domain in known), self._compare(signature), strict=True))
        looks = {d.number: shift.look(d.calibration, similarities[d.number]) for d in known}
        shifted = self._watch.note(min(looks.values(), key=lambda look: look.deficit))
        self._recent.append((signature, white))
        for domain in known:
            number, before = domain.number, self._smooth.get(domain.number, domain.calibration.mean)
            self._smooth[number] = before + (similarities[number] - before) / self._hysteresis
        turns: list[Turn] = []
        if self._founding:
            if self._founding.note((signature, white), looks) or (shifted and not shifted.began):
                turns.append(Turn("returned", self.active))
                self._founding, self._watch = None, Watch()
        elif shifted and shifted.began:
            rising = max(1, min(self._watch.rising, len(self._recent)))
            self.active = max(self.bank.following, self._unused)
            self._unused = self.active + 1
            self._founding = Founding(self.active, list(self._recent)[-rising:])
            turns.append(Turn("began", self.active))
        self._stayed += 1
        if not self._founding:
            best = max(self._smooth, key=lambda number: self._smooth[number])
            if best != self.active and (self.active not in self.bank or self._leads(best)):
                self.active, self._stayed = best, 0
                turns.append(Turn("entered", best))
        elif len(self._founding.founders) >= FOUNDERS and not self._founding.refused:
            turns += self._found(self._founding)
        similarity = similarities.get(self.active, max(similarities.values()))
        return Route(self.active, similarity, tuple(turns))

    def replace(self, bank: Bank, instead: Mapping[int, int]) -> None:
        """Go on with another bank; `instead` says where domains went that are gone."""
        self.bank = bank
        self._smooth = {number: value for number, value in self._smooth.items() if number in bank}
        if not self.founding and self.active not in bank:
            self.active = instead.get(self.active, SOURCE)

    def _leads(self, best: int) -> bool:
        """Whether a domain is far enough ahead of the one that the stream is in, which has had its time."""
        lead = self._smooth[best] - self._smooth[self.active]
        margin = MARGIN * (1 - 1 / self._hysteresis) * self.bank[self.active].calibration.deviation
        return self._stayed >= self._hysteresis and lead > margin

    def _compare(self, signature: Bits) -> list[float]:
        prototypes = np.stack([domain.prototype for domain in self.bank.domains])
        similarities: list[float] = hypervectors.bit_similarity(signature[None], prototypes)[0].tolist()
        return similarities

    def _found(self, founding: Founding) -> list[Turn]:
        """The domain being founded joins the bank, where there is room or some can be made."""
        full = len(self.bank.domains) >= self._record.domains
        if full and (self._record.full == "refuse" or len(self.bank.domains) == 1):
            founding.refused = True
            return [Turn("refused", founding.number)]
        made = founding.domain()
        self.bank = self.bank.grown(made)
        self._founding, self._watch = None, Watch()
        self._smooth[made.number] = made.calibration.mean
        if not full:
            return [Turn("founded", made.number, bank=self.bank)]
        one, other = sorted(self.bank.closest())
        self.replace(self.bank.merged(one, other), {other: one})
        return [Turn("founded", made.number), Turn("merged", other, one, self.bank)]
