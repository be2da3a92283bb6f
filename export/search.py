"""Zero-shot search: which adaptor, at which taps, suits a new domain within a budget, before anything is trained.

Candidates within the budgets are scored by proxies (export/proxies.py) on a few samples of each new domain, ranked by
rank(ZiCo) + rank(NASWOT) + rank(-kappa) over several draws of their pieces, and the best few are fitted for some steps;
the one that is right most often on samples held out wins. All on values kept at the first tap that a candidate touches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

from edgecl.errors import ProjectError
from edgecl.proxies import condition, naswot, rank_sums, zico
from export import proxies
from export.above import above
from export.adaptors import ADAPTORS
from export.candidates import Candidate, Say, Sized
from export.encoder import Encoder
from export.learners import Pieces
from export.learners.adaptor import Adaptor

SCORED: Final = 32
"""Samples in a batch that is scored: two for ZiCo, the first of them for NASWOT, half of it for the kernel."""
DRAWS: Final = 3
"""Draws of a candidate's pieces; its rank is the mean over them."""
JITTER: Final = 0.1
"""How far a draw is from the pieces as built, in 1 / sqrt(fan-in). As built, all candidates compute the same."""

PROBED: Final = 3
PROBE_STEPS: Final = 30
TRAIN_STEPS: Final = 50
FIT_BATCH: Final = 32
HELD_OUT: Final = 5
"""One of so many samples is not fitted to, and tells the accuracy."""
LEAST_SAMPLES: Final = 2 * SCORED


@dataclass(frozen=True)
class Domain:
    """Samples of a new domain as model inputs [N, ...], and their labels [N] where they are known."""

    name: str
    x: Tensor
    y: Tensor | None


@dataclass(frozen=True)
class Scores:
    """Of one candidate on one domain: means over draws."""

    zico: float
    naswot: float
    condition: float
    rank: float
    """Of the three ranks' sum, from 0; lower is better."""


@dataclass(frozen=True)
class Row:
    """What was found of one candidate; `scores`, `probed` and `trained` have one entry a domain."""

    sized: Sized
    scores: tuple[Scores, ...] = ()
    probed: tuple[float, ...] = ()
    """Accuracy on held-out samples after a short fit; of the best few."""
    trained: tuple[float, ...] = ()
    """The same after a longer one, where that was asked for."""

    @property
    def rank(self) -> float:
        return fmean(score.rank for score in self.scores)


def score(encoder: Encoder, domain: Domain, wanted: Sequence[Candidate], *, seed: int = 0) -> list[Scores]:
    """Scores on one domain, in order; labels that are not known are the network's own answers.

    Raises ProjectError: fewer samples than it takes.
    """
    if len(domain.x) < LEAST_SAMPLES:
        raise ProjectError(f"{domain.name}: {len(domain.x)} samples; the search takes {LEAST_SAMPLES} or more")
    few = _order(domain, seed)[:LEAST_SAMPLES]
    x = domain.x[few]
    y = domain.y[few] if domain.y is not None else _answers(encoder, x)
    found: dict[Candidate, list[tuple[float, float, float]]] = {candidate: [] for candidate in wanted}
    for upper, values, group in _groups(encoder, x, wanted):
        batches = list(zip(_split(values), _split(_one_hot(y, encoder.classes)), strict=True))
        for candidate in group:
            for draw in range(DRAWS):
                learner = candidate.learner(upper, seed=seed + draw)
                found[candidate].append(_proxies(learner, _drawn(learner.start, seed + draw), batches))
    each = [[found[candidate][draw] for candidate in wanted] for draw in range(DRAWS)]
    summed = [rank_sums(scores) for scores in each]
    return [
        Scores(
            zico=fmean(scores[place][0] for scores in each),
            naswot=fmean(scores[place][1] for scores in each),
            condition=fmean(scores[place][2] for scores in each),
            rank=fmean(places[place] for places in summed),
        )
        for place in range(len(wanted))
    ]


def _proxies(learner: Adaptor, pieces: Pieces, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    x = batches[0][0]
    gradients = proxies.gradients_of(learner.logits, pieces, batches)
    return (
        zico({name: g.numpy() for name, g in gradients.items()}),
        naswot([code.numpy() for code in proxies.codes_of(learner.logits, pieces, x)]),
        condition(proxies.jacobian_of(learner.logits, pieces, x[: SCORED // 2]).numpy()),
    )


def accuracies(
    encoder: Encoder, domain: Domain, wanted: Sequence[Candidate], *, steps: int, seed: int = 0
) -> list[float]:
    """Share of right answers on held-out samples of the domain, after so many steps of `learn` on the others, in order.

    The domain has labels.
    """
    assert domain.y is not None
    order = _order(domain, seed)
    y, x = domain.y[order], domain.x[order]
    held = torch.arange(len(y)) % HELD_OUT == 0
    found: dict[Candidate, float] = {}
    for upper, values, group in _groups(encoder, x, wanted):
        for candidate in group:
            learner = candidate.learner(upper, seed=seed)
            theta = _fit(learner, values[~held], _one_hot(y[~held], encoder.classes), steps)
            found[candidate] = accuracy(learner, theta, values[held], y[held])
    return [found[candidate] for candidate in wanted]


def accuracy(learner: Adaptor, theta: Pieces, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        logits = torch.cat([learner.logits(theta, part) for part in x.split(256)])  # type: ignore[no-untyped-call]
    return float((logits.argmax(1) == y).to(torch.float32).mean())


def _fit(learner: Adaptor, x: Tensor, y: Tensor, steps: int) -> Pieces:
    """Theta after so many steps of the learner's own, as the board would take them."""
    theta, slots = learner.theta(), learner.slots()
    hyper = {name: torch.tensor(value) for name, value in learner.hyper.items()}
    for step in range(steps):
        places = torch.arange(step * FIT_BATCH, (step + 1) * FIT_BATCH) % len(x)
        done = learner.learn(theta, slots, x[places], y[places], hyper)
        theta, slots = theta | done.theta, slots | done.slots
    return theta


def _groups(
    encoder: Encoder, x: Tensor, wanted: Sequence[Candidate]
) -> Iterator[tuple[Encoder, Tensor, list[Candidate]]]:
    """Candidates by the first tap that they touch: the encoder from there on, and the values there."""
    names = [tap.name for tap in encoder.taps]
    groups: dict[int, list[Candidate]] = {}
    for candidate in wanted:
        first = min((names.index(name) for name in candidate.at), default=-1)
        groups.setdefault(first - ADAPTORS[candidate.form].reads_before, []).append(candidate)
    for first, group in groups.items():
        upper = above(encoder, first) if first >= 0 else None
        if upper is None:
            yield encoder, x, group
        else:
            with torch.no_grad():
                values = [encoder(part).taps[first] for part in _split(x, 256)]
            yield upper, torch.cat(values), group


def _drawn(start: Pieces, seed: int) -> Pieces:
    random = torch.Generator().manual_seed(seed)
    return {
        name: piece + JITTER * torch.randn(piece.shape, generator=random) / max(1, piece[0].numel()) ** 0.5
        for name, piece in start.items()
    }


def _answers(encoder: Encoder, x: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = encoder(x).logits.argmax(1)
    return labels


def _order(domain: Domain, seed: int) -> Tensor:
    return torch.randperm(len(domain.x), generator=torch.Generator().manual_seed(seed))


def _split(x: Tensor, size: int = SCORED) -> list[Tensor]:
    return [x[start : start + size] for start in range(0, len(x), size)]


def _one_hot(y: Tensor, classes: int) -> Tensor:
    return torch.eye(classes)[y]


@dataclass(frozen=True)
class Found:
    """What a search found."""

    rows: tuple[Row, ...]
    """Best first."""
    winner: Row
    as_built: tuple[float, ...]
    """Accuracy of the network as trained on the same held-out samples; empty where labels are not known."""


def search(
    encoder: Encoder, sized: Sequence[Sized], domains: Sequence[Domain], *, seed: int = 0, train: bool = False,
    say: Say = lambda _: None,
) -> Found:  # fmt: skip
    """Score these candidates, fit the best few where labels are known, and all of them with `train`.

    The winner is the most accurate of the best few; without labels, the first. Raises ProjectError: too few samples,
    or no labels to train with.
    """
    wanted = [one.candidate for one in sized]
    unknown = [domain.name for domain in domains if domain.y is None]
    if train and unknown:
        raise ProjectError(f"{unknown[0]}: no labels, which training needs; add y, or leave --train out")
    scores = []
    for domain in domains:
        say(f"{domain.name}: scoring {len(sized)} candidates")
        scores.append(score(encoder, domain, wanted, seed=seed))
    rows = [Row(one, of) for one, of in zip(sized, zip(*scores, strict=True), strict=True)]
    rows = sorted(rows, key=lambda row: (row.rank, row.sized.state_bytes))
    as_built: tuple[float, ...] = ()
    if train:
        say(f"training {len(rows)} candidates")
        rows = [replace(row, trained=of) for row, of in _fitted(encoder, domains, rows, TRAIN_STEPS, seed)]
    winner = rows[0]
    if not unknown:
        best = rows[:PROBED]
        say(f"fitting the best {len(best)}")
        best = [replace(row, probed=of) for row, of in _fitted(encoder, domains, best, PROBE_STEPS, seed)]
        rows = [*best, *rows[PROBED:]]
        winner = max(best, key=lambda row: fmean(row.probed))  # the first of those that are equal
        as_built = tuple(accuracies(encoder, domain, wanted[:1], steps=0, seed=seed)[0] for domain in domains)
    return Found(tuple(rows), winner, as_built)


def _fitted(
    encoder: Encoder, domains: Sequence[Domain], rows: Sequence[Row], steps: int, seed: int
) -> list[tuple[Row, tuple[float, ...]]]:
    wanted = [row.sized.candidate for row in rows]
    each = [accuracies(encoder, domain, wanted, steps=steps, seed=seed) for domain in domains]
    return list(zip(rows, zip(*each, strict=True), strict=True))
