"""The domains of a running loop: answers each sample with the state of its domain, and gathers what each adapts to.

Without routing there is one, the source, whose state follows the stream. With routing the source stays as it was built
(labels aside): every sample is first seen by the network as built, which gives its signature, and where it belongs to
another domain answered by that one's state.

The router follows the stream in the thread that answers; states belong to the thread that learns. `bank` is what has
settled there, and what a checkpoint holds.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgecl import hypervectors
from edgecl.bank import SOURCE, Bank
from edgecl.forms import SAMPLES
from edgecl.hypervectors import Bits
from edgecl.journal import Domain as DomainRecord
from edgecl.journal import Record, Score
from edgecl.learning import Batch, Learning
from edgecl.manifest import Manifest
from edgecl.programs import Programs
from edgecl.router import Router, Turn
from edgecl.routing import Routing
from edgecl.signature import Signatures
from edgecl.state import State
from edgecl.teaching import Teaching
from edgecl.view import View, Views

Floats = npt.NDArray[np.float32]

Later = Callable[[Callable[[], object]], None]
"""Runs a small job in the thread that learns, behind the updates that are under way."""


@dataclass(frozen=True)
class Seen:
    """What the bundle makes of one sample."""

    domain: int
    state: State
    """That answered."""
    view: View
    """It is of."""
    logits: Floats
    """[C], one a class, those that were added too."""
    taps: Floats
    """[F], for the detector: as the network as built has them where it was asked, as the state has them otherwise."""
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Placed:
    """A sample that was answered earlier."""

    domain: int
    """Of the bank, where it belongs."""
    logits: Floats
    """[C], of that domain's program."""
    taps: Floats
    """[F], of the network as built."""
    white: Floats
    """The same, whitened."""


class Domains:
    """Used by the thread that answers, but for `settle`."""

    def __init__(
        self,
        manifest: Manifest,
        programs: Programs,
        learning: Learning,
        teaching: Teaching,
        views: Views,
        start: Routing,
        *,
        later: Later,
        settled: Callable[[], object],
        note: Callable[[Record], None],
    ) -> None:
        """`settled` is called in the thread that learns whenever the bank has changed there."""
        self._programs, self._learning, self._teaching, self._views = programs, learning, teaching, views
        self._manifest = manifest
        self._adapt = manifest.method("adapt") if manifest.has("adapt") else None
        self._router, self._signatures, self._rests = start.router, start.signatures, start.rests
        self._later, self._settled, self._note = later, settled, note
        self._due: list[Callable[[], object]] = []  # for the thread that learns, once the sample has been answered
        self._pending: dict[int, list[npt.NDArray[Any]]] = {}
        self._first: dict[int, int] = {}
        self._founders: deque[npt.NDArray[Any]] = deque(maxlen=SAMPLES)
        self.bank = start.bank
        """As it has settled."""

    @property
    def active(self) -> int:
        """The domain of the last sample."""
        return self._router.active if self._router else SOURCE

    @property
    def here(self) -> int:
        """The domain of the bank that the stream is in, or was left in where there is no routing now."""
        here = self._router.active if self._router else self._rests
        return here if here in self.bank else SOURCE  # one that is being founded is begun anew after a restart

    @property
    def routed(self) -> bool:
        """Whether samples are routed."""
        return self._router is not None

    @property
    def waiting(self) -> bool:
        """Whether some samples have been put aside that do not make a batch yet."""
        return bool(self._pending)

    @property
    def known(self) -> Bank:
        """As the stream has it: it may be ahead of `bank` by jobs that the thread that learns has yet to do."""
        return self._router.bank if self._router else self.bank

    def name(self, number: int) -> str:
        """Of a domain; one that is being founded has the name that it will get."""
        return self.known[number].name if number in self.known else f"domain-{number}"

    def see(self, sample: npt.NDArray[Any], x: Floats, seq: int) -> Seen:
        """Look at one sample: as its source gave it, and [1, ...] as the program takes it."""
        if self._signatures and self._router:
            return self._route(self._signatures, self._router, sample, x, seq)
        view = self._views.seen()
        state = view.states[SOURCE]
        if self._signatures and SOURCE in view.heads:
            first = self._call(self._learning.built, x)
            whitened = self._signatures.whitening(first["taps"])
            return self._seen(view, SOURCE, x, first, whitened[0], ())
        out = self._call(state, x)
        logits = view.logits(SOURCE, out["logits"][0], None)
        return Seen(SOURCE, state, view, logits, out["taps"][0] if "taps" in out else _NONE, ())

    def _route(self, signatures: Signatures, router: Router, sample: npt.NDArray[Any], x: Floats, seq: int) -> Seen:
        """Find the domain of a sample, and answer it with that one's state."""
        first = self._call(self._learning.built, x)
        whitened = signatures.whitening(first["taps"])
        route = router.note(signatures.of_white(whitened)[0], whitened[0])
        if self._manifest.forms:
            self._founders.append(sample.copy())
        for turn in route.turns:
            self._turned(turn, seq)
        return self._seen(self._views.seen(), self.active, x, first, whitened[0], route.turns)

    def _seen(
        self, view: View, domain: int, x: Floats, first: dict[str, Floats], white: Floats, turns: tuple[Turn, ...]
    ) -> Seen:
        """Of what the network as built makes of a sample, and the state of its domain."""
        state = view.states.get(domain, self._learning.built)
        out = first if state.theta is self._learning.built.theta else self._call(state, x)
        return Seen(domain, state, view, view.logits(domain, out["logits"][0], white), first["taps"][0], turns)

    def place(self, domain: int, x: Floats) -> Placed:
        """Where one sample [1, ...] belongs that was answered in a domain, which may be gone by now.

        Or its own was not known yet. Only in the thread that learns.
        """
        first = self._call(self._learning.built, x)
        whitened = self._signatures.whitening(first["taps"]) if self._signatures else _NONE[None]
        if self._signatures:
            alike = self._alike(self._signatures.of_white(whitened))
            nearest = max(alike, key=lambda number: alike[number])
            if domain not in alike or alike[nearest] - alike[domain] > CLEAR * self.bank[domain].calibration.deviation:
                domain = nearest
        elif domain not in self.bank:
            domain = SOURCE
        logits = self._call(self._learning[domain], x)["logits"][0]
        return Placed(domain, logits, first["taps"][0] if "taps" in first else _NONE, whitened[0])

    def collect(self, domain: int, x: npt.NDArray[Any], seq: int) -> Batch | None:
        """Put a sample aside for its domain to adapt to; the batch, when that makes one.

        What its answer means for the bank is handed to the thread that learns first.
        """
        for job in self._due:
            self._later(job)
        self._due.clear()
        if not self._adapt or (self.routed and domain == SOURCE):
            return None
        pending = self._pending.setdefault(domain, [])
        if not pending:
            self._first[domain] = seq
        pending.append(x.copy())  # a camera may give the same buffer again
        if len(pending) < self._adapt.batch:
            return None
        del self._pending[domain]
        return Batch(pending, self._first[domain], seq, domain)

    def rename(self, number: int, name: str) -> None:
        """Give a domain of the bank another name."""
        self._change(lambda bank: bank.renamed(number, name), {}, lambda: None)

    def drop(self, number: int) -> None:
        """Take a domain out of the bank, and forget what it learned."""
        self._pending.pop(number, None)

        def forget() -> None:
            self._learning.forget(number)
            self._teaching.forget(number)

        self._change(lambda bank: bank.without(number), {}, forget)

    def merge(self, one: int, other: int) -> None:
        """Make one of two; the earlier keeps its number."""
        one, other = sorted((one, other))
        self._pending.pop(other, None)
        bank = self.known.merged(one, other)
        self._change(lambda _: bank, {other: one}, lambda: self._merge(one, other, bank))

    def _change(self, change: Callable[[Bank], Bank], instead: dict[int, int], states: Callable[[], object]) -> None:
        bank = change(self.known)
        if self._router:
            self._router.replace(bank, instead)
        self._later(self._settling(bank, states))

    def _settling(self, bank: Bank, states: Callable[[], object]) -> Callable[[], object]:
        def settle() -> None:
            states()
            self.bank = bank
            self._settled()

        return settle

    def _turned(self, turn: Turn, seq: int) -> None:
        """Do what a turn of the stream means for states and batches."""
        if turn.event == "returned":
            self._pending.pop(turn.domain, None)
            self._due.append(lambda: self._learning.forget(turn.domain))
        elif turn.event == "founded" and turn.bank:
            number, samples = turn.domain, list(self._founders)
            self._due.append(self._settling(turn.bank, lambda: self._form(number, samples, seq)))
        elif turn.event == "merged" and turn.bank and turn.other is not None:
            one, other = turn.other, turn.domain
            self._pending.pop(other, None)
            bank = turn.bank
            self._due.append(self._settling(bank, lambda: self._merge(one, other, bank)))

    def _alike(self, signature: Bits) -> dict[int, float]:
        """How alike a signature [1, D / 8] is to each domain of the settled bank."""
        prototypes = np.stack([domain.prototype for domain in self.bank.domains])
        alike = hypervectors.bit_similarity(signature, prototypes)[0].tolist()
        return dict(zip((domain.number for domain in self.bank.domains), alike, strict=True))

    def _form(self, number: int, samples: list[npt.NDArray[Any]], seq: int) -> None:
        """Choose the form of a domain that was founded, where there are several, and adapt it to its founders."""
        if len(samples) < SAMPLES:
            return
        ranking = self._learning.form(number, samples)
        forms = {"": self._manifest.forms[0].name}
        scores = [
            Score(
                form=forms.get(one.form, one.form),
                zico=one.zico,
                naswot=one.naswot,
                condition=one.condition,
                rank=one.rank,
            )
            for one in ranking
        ]
        what = DomainRecord.FORMED
        self._note(DomainRecord(what=what, seq=seq, domain=number, name=f"domain-{number}", scores=scores))
        if ranking[0].form and self._adapt:
            for start in range(0, len(samples) - self._adapt.batch + 1, self._adapt.batch):
                part = samples[start : start + self._adapt.batch]
                last = seq - len(samples) + start + len(part)
                self._learning.update(Batch(part, last - len(part) + 1, last, number))

    def _merge(self, one: int, other: int, bank: Bank) -> None:
        self._learning.merge(one, other)
        self._teaching.merge(one, other, bank)

    def _call(self, state: State, x: Floats) -> dict[str, Floats]:
        method = self._manifest.method("infer", 1, self._manifest.form_of(state.layout))
        return self._programs.call(method, theta=state.theta, x=x)


CLEAR: Final = 2.0
"""Deviations by which a sample must be more like another domain, to belong there and not where it was answered."""

_NONE: Final = np.zeros(0, np.float32)
