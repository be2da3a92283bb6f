"""How well samples find their domain: the router of a run of the loop, and simpler ones over the same domains.

A domain belongs to the corruption that most samples had that it answered until it was in the bank; the source belongs
to clean images. A sample is routed right when a domain of its corruption answers it. The controls send a sample to the
nearest mean of the taps of each domain's founders (of training data, for the source), by the Euclidean distance of
standardised taps or of whitened ones; their domains are founded when the router founds its own. The running mean of
the router and of what is smoothed goes back 8 samples.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from streams import After, Network, Ran

from edgecl import journal
from edgecl.bank import SOURCE
from edgecl.router import Router

Floats = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]

ENTERED: Final = (journal.Domain.ENTERED, journal.Domain.BEGAN)
CHUNK: Final = 500
TIMED: Final = 2000


class Routing(msgspec.Struct, frozen=True):
    """What the router of a learner did with one stream. Shares in percent."""

    learner: str
    order: int
    stretches: list[str]
    routed: list[float]
    """Share of each stretch that a domain of its own answered."""
    delays: list[int | None]
    """Samples of each stretch until such a domain answered; None where none did."""
    founded: dict[str, list[int]]
    settled: dict[str, float]
    """Share right of the samples at which no domain was being founded: of the router and of controls."""
    single: dict[str, float]
    """Share right of held-out samples of all domains, mixed, each by itself."""
    single_of: dict[str, float]
    """The router's, by domain."""
    bytes: list[int]
    """Of the files of each domain but the source."""


@dataclass(frozen=True)
class Seen:
    """Samples as the network as built sees them."""

    x: Floats
    logits: Floats
    taps: Floats
    white: Floats


def see(network: Network, x: Floats) -> Seen:
    """Look at samples [N, ...]."""
    logits, taps = network.look(network.built, x)
    white = np.concatenate([network.signatures.whitening(part) for part in _parts(taps)])
    return Seen(x, logits, taps, white)


def _parts(rows: Floats) -> list[Floats]:
    return np.array_split(rows, -(-len(rows) // CHUNK))


def owners(ran: Ran, clean: str) -> dict[int, str]:
    """What each domain belongs to, one that was given up among them."""
    return {SOURCE: clean} | ran.founded()


def measure(
    learner: str,
    order: int,
    ran: Ran,
    network: Network,
    source: Seen,
    held_out: Mapping[str, Seen],
) -> Routing:
    """All that is said of one run; `source` is training data, the first of `held_out` what the source belongs to."""
    names = list(held_out)
    own = owners(ran, names[0])
    truth = np.concatenate([[stretch.domain] * len(stretch.x) for stretch in ran.stretches])
    domains = np.array(ran.domains)
    right = np.array([own.get(number) for number in domains]) == truth
    delays = [int(right[span].argmax()) if right[span].any() else None for span in ran.spans]
    seen = see(network, np.concatenate([stretch.x for stretch in ran.stretches]))
    settled, means = _settled(ran, seen, source, own, truth, right)
    mixed = np.concatenate([[name] * len(held_out[name].taps) for name in names])
    shuffled = np.random.default_rng(order).permutation(len(mixed))
    white = np.concatenate([held_out[name].white for name in names])[shuffled]
    routes = network.routes(ran.after[-1], white, hysteresis=1, start=SOURCE)
    hits = np.array([own.get(number) for number in routes]) == mixed[shuffled]
    single = {"router": 100 * float(hits.mean())}
    for control, (features, given) in means.items():
        found = np.concatenate([nearest(given, features(held_out[name]), 1) for name in names])
        single[control] = 100 * float(np.mean(np.array([own[number] for number in found]) == mixed))
    return Routing(
        learner,
        order,
        [stretch.domain for stretch in ran.stretches],
        [100 * float(right[span].mean()) for span in ran.spans],
        delays,
        {name: [number for number, whose in own.items() if whose == name] for name in names},
        settled,
        single,
        {name: 100 * float(hits[mixed[shuffled] == name].mean()) for name in names},
        [size for number, size in ran.sizes.items() if number != SOURCE],
    )


Means = Mapping[int, Floats]
Control = tuple[Callable[[Seen], Floats], Means]


def _settled(
    ran: Ran, seen: Seen, source: Seen, own: Mapping[int, str], truth: Any, right: Any
) -> tuple[dict[str, float], dict[str, Control]]:
    """Shares right while no domain was being founded, and the means of the controls at the end."""
    centre, spread = source.taps.mean(0), source.taps.std(0) + 1e-9
    forms: dict[str, Callable[[Seen], Floats]] = {
        "standardised": lambda of: (of.taps - centre) / spread,
        "whitened": lambda of: of.white,
    }
    domains, joined = np.array(ran.domains), {SOURCE: 0}
    joined |= {turn.domain: turn.place for turn in ran.turns if turn.event == journal.Domain.FOUNDED}
    calm = np.array([place >= joined.get(number, len(domains)) for place, number in enumerate(domains)])
    shares = {"router": 100 * float(right[calm].mean())}
    controls: dict[str, Control] = {}
    for name, form in forms.items():
        features = form(seen)
        founders = {n: features[:at][domains[:at] == n] for n, at in joined.items() if n != SOURCE}
        means = {SOURCE: form(source).mean(0)} | {number: rows.mean(0) for number, rows in founders.items()}
        controls[name] = (form, means)
        for hysteresis in (8, 1):
            found = nearest(means, features, hysteresis, joined)
            hits = np.array([own[number] for number in found]) == truth
            label = f"{name}, {'smoothed' if hysteresis > 1 else 'each by itself'}"
            shares[label] = 100 * float(hits[calm].mean())
    return shares, controls


def nearest(means: Means, rows: Floats, hysteresis: int, joined: Mapping[int, int] | None = None) -> Numbers:
    """The domain of the nearest mean for each row [N, F], by a running mean of squared distances.

    `joined`: the place from which on a domain is there.
    """
    numbers = list(means)
    squared = np.stack([((rows - means[number]) ** 2).sum(1) for number in numbers], axis=1)
    since = np.array([(joined or {}).get(number, 0) for number in numbers])
    smooth, found = squared[0].copy(), []
    for place, row in enumerate(squared):
        smooth += (row - smooth) / hysteresis
        found.append(numbers[int(np.where(since <= place, smooth, np.inf).argmin())])
    return np.array(found)


def microseconds(network: Network, after: After, seen: Seen) -> float:
    """Signature and route of one sample, median; processor time."""
    router, times = Router(network.record, after.bank, hysteresis=8), []
    for place in range(TIMED):
        taps = seen.taps[place % len(seen.taps)][None]
        started = time.thread_time()
        white = network.signatures.whitening(taps)
        router.note(network.signatures.of_white(white)[0], white[0])
        times.append(time.thread_time() - started)
    return 1e6 * statistics.median(times)
