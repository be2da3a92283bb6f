"""What the scores of `edgecl search` are worth: against really training every candidate, on ResNet-20 and CIFAR-10.

Every form of adaptor at every tap, at all and at halves of them is scored, and trained with labels, on 1,000 images of
each of three corruptions at severity 5: 50 steps of 32 on four fifths, accuracy on the rest, a mean over two orders.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import fmean, median
from typing import Final

import cases
import data
import msgspec
import numpy as np
import results
import torch

from export.build import load_model
from export.candidates import Candidate, candidates, within
from export.correlations import NEAR, Correlation, correlations
from export.encoder import Encoder, capture
from export.ranks import kendall
from export.search import PROBE_STEPS, PROBED, TRAIN_STEPS, Domain, Row, Scores, accuracies, score
from export.source_data import SourceData

DOMAINS: Final = ("gaussian_noise", "defocus_blur", "contrast")
ORDERS: Final = (0, 1)
"""Seeds of what is fitted to and what is held out."""
WORKERS: Final = 2


class Choice(msgspec.Struct, frozen=True):
    """What a way to choose gets: accuracy after training, by domain."""

    way: str
    accuracy: tuple[float, ...]


class Found(msgspec.Struct, frozen=True):
    """All of it."""

    rows: tuple[Row, ...]
    """Best rank first; `trained` are means over orders."""
    worth: list[Correlation]
    again: tuple[float | None, ...]
    """Tau between two orders of training, by domain: no score can foretell more than training does itself."""
    choices: list[Choice]


def run() -> Found:
    """Score and train all candidates; two processes of one thread each."""
    encoder = _encoder()
    wanted = candidates(encoder)
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        training = [[pool.submit(_trained, name, order, TRAIN_STEPS) for order in ORDERS] for name in DOMAINS]
        scoring = [pool.submit(_scored, name) for name in DOMAINS]
        built = [pool.submit(_trained, name, ORDERS[0], 0, 1) for name in DOMAINS]
        scores = [job.result() for job in scoring]
        orders = [[job.result() for job in jobs] for jobs in training]
        as_built = tuple(job.result()[0] for job in built)
    trained = [np.mean(each, 0).tolist() for each in orders]
    rows = [
        Row(sized, tuple(of), (), tuple(accuracy))
        for sized, of, accuracy in zip(
            within(encoder, wanted), zip(*scores, strict=True), zip(*trained, strict=True), strict=True
        )
    ]
    again = tuple(kendall(*each) for each in orders)
    ranked = sorted(rows, key=lambda row: (row.rank, row.sized.state_bytes))
    return Found(tuple(ranked), correlations(rows), again, _choices(encoder, rows, as_built))


def _encoder() -> Encoder:
    project = cases.project("resnet20", "ecotta", "float")
    source = SourceData(*project.data(project.tables.data.train), project.given)
    return capture(load_model(project), source.inputs(slice(0, 2)), taps=project.tables.model.taps)


def _domain(name: str) -> Domain:
    x, y = data.corrupted(name)
    images = SourceData(x, y, cases.project("resnet20", "source", "float").given)
    return Domain(name, images.inputs(slice(None)), images.labels(slice(None)))


def _scored(name: str) -> list[Scores]:
    torch.set_num_threads(1)
    encoder = _encoder()
    return score(encoder, _domain(name), candidates(encoder))


def _trained(name: str, order: int, steps: int, first: int | None = None) -> list[float]:
    torch.set_num_threads(1)
    encoder = _encoder()
    return accuracies(encoder, _domain(name), candidates(encoder)[:first], steps=steps, seed=order)


def _choices(encoder: Encoder, rows: Sequence[Row], as_built: tuple[float, ...]) -> list[Choice]:
    """Accuracy of what each way to choose would take, domain by domain."""
    ways: Mapping[str, Callable[[int], float]] = {
        "the best of all, by training them": lambda d: max(row.trained[d] for row in rows),
        f"search: best of {PROBED} after {PROBE_STEPS} steps": lambda d: _probed(encoder, rows, d),
        "search: first by rank": lambda d: _first(rows, d, lambda row: -row.scores[d].rank),
        "first by ZiCo": lambda d: _first(rows, d, lambda row: row.scores[d].zico),
        "first by NASWOT": lambda d: _first(rows, d, lambda row: row.scores[d].naswot),
        "first by condition": lambda d: _first(rows, d, lambda row: -row.scores[d].condition),
        "most parameters": lambda d: _first(rows, d, lambda row: row.sized.parameters),
        "any: the median": lambda d: median(row.trained[d] for row in rows),
    }
    found = [Choice(way, tuple(of(d) for d in range(len(DOMAINS)))) for way, of in ways.items()]
    return [*found, Choice("none: the network as trained", as_built)]


def _first(rows: Sequence[Row], domain: int, value: Callable[[Row], float]) -> float:
    return max(rows, key=value).trained[domain]


def _probed(encoder: Encoder, rows: Sequence[Row], domain: int) -> float:
    best = sorted(rows, key=lambda row: (row.scores[domain].rank, row.sized.state_bytes))[:PROBED]
    wanted = [row.sized.candidate for row in best]
    probed = accuracies(encoder, _domain(DOMAINS[domain]), wanted, steps=PROBE_STEPS)
    return best[probed.index(max(probed))].trained[domain]


def render(found: Found) -> list[str]:
    """What was found, as Markdown."""
    names = [name.replace("_", " ") for name in DOMAINS]
    smallest, largest = (f(row.sized.state_bytes for row in found.rows) / 1e3 for f in (min, max))
    worth = [
        [one.proxy, _tau(one.accuracy), *map(_tau, one.by_domain), _tau(one.equal_bytes), _tau(one.parameters)]
        for one in found.worth
    ]
    again = ["training again in another order", _tau(_mean(found.again)), *map(_tau, found.again), "", ""]
    chosen = [
        [c.way, *(f"{100 * a:.1f}" for a in c.accuracy), f"**{100 * fmean(c.accuracy):.1f}**"] for c in found.choices
    ]
    return [
        " ".join(str(__doc__).split("\n\n", 1)[1].split()),
        f"{len(found.rows)} candidates of {smallest:.1f} to {largest:.1f} kB (state and momentum).",
        "## Kendall's tau-b with the accuracy after training",
        results.table(
            ["score", "mean", *names, f"mean, within a factor of {NEAR:g} in bytes", "with parameters"], [*worth, again]
        ),
        "## What each way to choose gets: accuracy in percent",
        results.table(["", *names, "mean"], chosen),
        "## All candidates, best rank first",
        "Scores are means over the domains, accuracies in percent.",
        results.table(
            ["candidate", "parameters", "ZiCo", "NASWOT", "condition", "rank", *names],
            [_line(row) for row in found.rows],
        ),
    ]


def _line(row: Row) -> list[str]:
    scores = row.scores
    return [
        _named(row.sized.candidate),
        str(row.sized.parameters),
        f"{fmean(s.zico for s in scores):.1f}",
        f"{fmean(s.naswot for s in scores):.1f}",
        f"{fmean(s.condition for s in scores):.3g}",
        f"{row.rank:.1f}",
        *(f"{100 * accuracy:.1f}" for accuracy in row.trained),
    ]


def _named(candidate: Candidate) -> str:
    return f"{candidate.form} {' '.join(candidate.at)}".strip()


def _mean(taus: Sequence[float | None]) -> float | None:
    known = [tau for tau in taus if tau is not None]
    return fmean(known) if known else None


def _tau(tau: float | None) -> str:
    return "" if tau is None else f"{tau:+.2f}"
