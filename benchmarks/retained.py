"""What is still known of domains that were learned one after another: accuracy on what is held out of each."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import results
import routing
from routing import Seen
from streams import After, Network, Ran

from edgecl.bank import SOURCE

Numbers = npt.NDArray[np.int64]


class Row(msgspec.Struct, frozen=True):
    """One way of learning, in one order. Percent."""

    name: str
    order: int
    stretches: list[str]
    errors: list[float]
    """Of the answers to each stretch."""
    matrix: list[dict[str, float]]
    """Accuracy after each stretch on what is held out of each domain, whose samples come one after another."""
    own: list[dict[str, float]] | None = None
    """The same where each is answered by its own domain, whatever the router says."""
    refused: int = 0
    """Updates that the guard took back."""


def row(
    name: str, order: int, ran: Ran, network: Network, seen: Mapping[str, Seen], labels: Mapping[str, Numbers]
) -> Row:
    """Of one run; `seen` and `labels` are of what is held out of each domain, that of the source first."""
    routed = any(ran.domains)
    whose = routing.owners(ran, next(iter(seen)))
    matrix: list[dict[str, float]] = []
    own: list[dict[str, float]] = []
    for after in ran.after:
        matrix.append({})
        own.append({})
        for domain, samples in seen.items():
            routes = np.full(len(samples.x), SOURCE)
            if routed:
                routes = network.routes(after, samples.white, hysteresis=8, start=after.active)
                known = [n for n, belongs in whose.items() if belongs == domain and n in after.bank]
                most = max(known, key=lambda number: int((routes == number).sum()), default=SOURCE)
                answers = _answers(network, after, np.full(len(samples.x), most), samples)
                own[-1][domain] = percent(answers == labels[domain])
            matrix[-1][domain] = percent(_answers(network, after, routes, samples) == labels[domain])
    domains = [stretch.domain for stretch in ran.stretches]
    return Row(name, order, domains, ran.errors(), matrix, own if routed else None, ran.refused)


def _answers(network: Network, after: After, routes: Numbers, seen: Seen) -> Numbers:
    """By the state of the domain that each sample is routed to; one that is not in the bank is as built."""
    answers: Numbers = seen.logits.argmax(1)
    for number in np.unique(routes):
        state = after.states.get(int(number), network.built)
        if state.digest != network.built.digest:
            here = routes == number
            answers[here] = network.look(state, seen.x[here])[0].argmax(1)
    return answers


def percent(right: npt.NDArray[np.bool_]) -> float:
    """The share that is true."""
    return 100 * float(right.mean())


def forgetting(matrix: Sequence[Mapping[str, float]], domain: str, since: int) -> float:
    """Chaudhry et al. 2018, eq. 3: the best accuracy from stretch `since` on, less that after the last."""
    return max(one[domain] for one in matrix[since:]) - matrix[-1][domain]


def means(rows: Sequence[Row], first: str, domains: Sequence[str]) -> dict[str, list[float]]:
    """Of each way: error, final accuracy, first domain lost, at worst, forgetting, backward transfer."""
    named: dict[str, list[list[float]]] = {}
    for one in rows:
        named.setdefault(one.name, []).append(_measures(one, one.matrix, first, domains))
        if one.own:
            named.setdefault(f"{one.name}, own domain", []).append(_measures(one, one.own, first, domains))
    return {name: [float(value) for value in np.mean(values, axis=0)] for name, values in named.items()}


def _measures(one: Row, matrix: Sequence[Mapping[str, float]], first: str, domains: Sequence[str]) -> list[float]:
    begin, last = matrix[0][first], matrix[-1]
    others = [name for name in domains if name != one.stretches[-1]]
    begun = {name: one.stretches.index(name) for name in domains}
    return [
        float(np.mean(one.errors)),
        float(np.mean(list(last.values()))),
        begin - last[first],
        begin - min(after[first] for after in matrix),
        float(np.mean([forgetting(matrix, name, begun[name]) for name in others])),
        float(np.mean([last[name] - matrix[begun[name]][name] for name in others])),
    ]


def table(rows: Sequence[Row], first: str, domains: Sequence[str]) -> str:
    """A line for each way."""
    head = ["percent, points", "error", "final accuracy", "first domain lost", "at worst", "forgetting"]
    lines = []
    for name, values in means(rows, first, domains).items():
        shown = [f"{value:.2f}" for value in values]
        lines.append([name, "" if name.endswith("own domain") else shown[0], *shown[1:]])
    return results.table([*head, "backward transfer"], lines)


def says() -> str:
    """What the columns of the table are."""
    return (
        "After every stretch, those of each domain come one after another, from where the stream was; nothing is "
        "learned from them. a_k,j is the accuracy on domain j after stretch k of T, n(j) the first stretch of j. "
        "*Error*: of the answers to the stream. *Final accuracy*: mean of a_T,j. *First domain lost*: a_1,1 - a_T,1; "
        "*at worst*: max over k of a_1,1 - a_k,1. *Forgetting* (Chaudhry et al. 2018, eq. 3): mean over all domains "
        "but the last of max over k from n(j) on of a_k,j - a_T,j. *Backward transfer* (Lopez-Paz and Ranzato 2017, "
        "eq. 3): mean over the same of a_T,j - a_n(j),j; below zero, something was lost. `own domain`: the same "
        "states, each sample answered by the domain that was founded on its kind, which shows what routing costs."
    )
