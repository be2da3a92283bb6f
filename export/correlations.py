"""How well each proxy of the search foretells what training gives, beside the plain count of parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from export.ranks import kendall
from export.search import Row

NEAR: Final = 2.0
"""Candidates whose bytes differ by less than this factor count as equal in size."""

PROXIES: Final[Mapping[str, Callable[[Row, int], float]]] = {
    "zico": lambda row, domain: row.scores[domain].zico,
    "naswot": lambda row, domain: row.scores[domain].naswot,
    "condition": lambda row, domain: -row.scores[domain].condition,
    "rank": lambda row, domain: -row.scores[domain].rank,
    "parameters": lambda row, domain: float(row.sized.parameters),
}
"""Name -> its value for a candidate on a domain, higher being better."""


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau-b of one proxy, a mean over domains; None where it is not defined on any."""

    proxy: str
    accuracy: float | None
    """With the accuracy after training."""
    parameters: float | None
    """With the count of parameters: how much of the proxy is only size."""
    equal_bytes: float | None
    """With the accuracy, over pairs of candidates of about equal bytes only."""
    by_domain: tuple[float | None, ...]
    """The first, for each domain."""


def correlations(rows: Sequence[Row]) -> list[Correlation]:
    """Of every proxy, over candidates that were all trained on the same domains."""

    def near(i: int, j: int) -> bool:
        small, large = sorted((rows[i].sized.state_bytes, rows[j].sized.state_bytes))
        return large <= NEAR * small

    found = []
    domains = range(len(rows[0].trained))
    for name, value in PROXIES.items():
        accuracy, size, equal = [], [], []
        for domain in domains:
            scores, trained = [value(row, domain) for row in rows], [row.trained[domain] for row in rows]
            accuracy.append(kendall(scores, trained))
            size.append(kendall(scores, [float(row.sized.parameters) for row in rows]))
            equal.append(kendall(scores, trained, near))
        found.append(Correlation(name, _mean(accuracy), _mean(size), _mean(equal), tuple(accuracy)))
    return found


def _mean(taus: Sequence[float | None]) -> float | None:
    known = [tau for tau in taus if tau is not None]
    return fmean(known) if known else None
