"""What an evaluation says of one device, and what one of a fleet says. The formulas stand in docs/science.md.

What could not be told is None, and `notes` says why. Times are in UTC, as well as they can be known; the order of
answers is that of their numbers. Shares are 0 to 1, entropies are in nats.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True)
class Interval:
    """A figure, and where it would lie in 95 of 100 streams like this one (block bootstrap)."""

    value: float
    low: float | None = None
    """None where there are too few answers to tell."""
    high: float | None = None


@dataclass(frozen=True)
class Percentiles:
    """Of durations, in milliseconds; None where there were none."""

    count: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None


@dataclass(frozen=True)
class Window:
    """A stretch of answers, one behind the other. Windows of an evaluation are of equal size, but for the last."""

    first_seq: int
    last_seq: int
    start: datetime
    end: datetime
    answers: int
    labelled: int
    accuracy: float | None
    """Of the answers in it whose label is known."""
    faded: float | None
    """Prequential accuracy with a fading factor, at its end; None before the first label."""
    entropy: float
    """Mean."""
    confidence: float
    """Mean."""
    novel: float | None
    """Share; None where the bundle has no detector."""
    similarity: float | None
    """Mean, to the source."""
    domain: int
    """That answered most of them."""
    agreement: float | None
    """With the source model, where it answered the same samples."""
    drift: float
    """Jensen-Shannon distance of its answers' classes to those of the first window, 0 to 1."""
    latency_p95_ms: float


@dataclass(frozen=True)
class DomainFigures:
    """Answers that belong to one domain."""

    number: int
    name: str
    answers: int
    labelled: int
    accuracy: Interval | None
    before: float | None
    """Accuracy of the source model on those that it answered, too."""
    after: float | None
    """Of the board on the same."""
    entropy: float
    confidence: float
    similarity: float | None
    novel: float | None
    visits: int
    """Times that the stream was in it."""
    updates: int
    """Committed, of its state."""
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Phase:
    """A stay of the stream in one domain: a row of the accuracy matrix."""

    domain: str
    first_seq: int
    last_seq: int
    answers: int
    labelled: int


@dataclass(frozen=True)
class AccuracyMatrix:
    """Accuracy on each domain in each phase, as the stream visited them."""

    by: Literal["phases", "domains", "shifts"]
    """Where the domains are told: in a file of the user's, by the board's routing, or by its detector alone."""
    domains: tuple[str, ...]
    """Columns, in the order in which they first came."""
    phases: tuple[Phase, ...]
    """Rows."""
    accuracy: tuple[tuple[float | None, ...], ...]
    """None: not visited in that phase, or too few labels."""
    source: tuple[float | None, ...]
    """Of the source model on each domain."""
    average: Interval | None
    """Average accuracy: mean over domains of the latest figure of each."""
    forgetting: float | None
    """Mean over domains that came back of the best figure before minus the latest (Chaudhry et al. 2018)."""
    backward: float | None
    """Backward transfer: mean over those of the latest figure minus the first (Lopez-Paz and Ranzato 2017)."""
    forward: float | None
    """Forward transfer: mean over domains but the first of the accuracy with which each was entered, minus the source
    model's on the same samples."""


@dataclass(frozen=True)
class Novelty:
    """How well the board's own scores tell answers in the source domain from others."""

    by: Literal["phases", "domains", "errors"]
    """What was taken as novel: the stretches that a file names, what routing gave to other domains, or, where there is
    neither, answers that were wrong."""
    inside: int
    outside: int
    auroc: Interval
    fpr95: float
    """Share of novel samples let pass where 95 % of the others are."""
    told: float
    """Share of novel samples below the threshold of the bundle."""
    false_alarms: float
    """Share of the others below it."""


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence."""

    low: float
    high: float
    answers: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Whether answers are right as often as they say."""

    ece: Interval | None
    """Expected calibration error of the board's answers (equal-width bins)."""
    before: float | None
    """The same of the source model, on the samples that it answered."""
    after: float | None
    """Of the board on the same samples."""
    bins: tuple[Bin, ...]
    """Of all answers with labels."""
    bins_before: tuple[Bin, ...]


@dataclass(frozen=True)
class Recovery:
    """What came of a change of the stream."""

    seq: int
    """Sample where it was told."""
    time: datetime
    what: str
    """`shift`, or the domain that the stream came to."""
    by: Literal["accuracy", "entropy"]
    """What was looked at: entropy where there are not enough labels."""
    before: float
    """Level in front of it."""
    worst: float
    """Behind it."""
    answers: int | None
    """Until the level was as before again, 0 where it never left it; None: not before the next change or the end."""
    seconds: float | None


@dataclass(frozen=True)
class GuardCount:
    """What the guard did, for one reason."""

    action: str
    reason: str
    times: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Against:
    """The board beside its source model, on the same samples: what learning was worth."""

    answers: int
    """Samples that the source model answered again here."""
    labelled: int
    before: Interval | None
    """Accuracy of the source model."""
    after: Interval | None
    """Of the board."""
    gain: Interval | None
    """After minus before."""
    agreement: float
    """Share of answers that are the same."""
    entropy_before: float
    entropy_after: float


@dataclass(frozen=True)
class Behaviour:
    """What can be told without any label."""

    entropy: Interval
    """Mean of all answers."""
    entropy_first: float
    """Of the first tenth of the stream."""
    entropy_last: float
    confidence: float
    steady: float
    """Share of answers that are the one before's, within a domain."""
    novel: float | None
    similarity_first: float | None
    similarity_last: float | None
    drift: float
    """Jensen-Shannon distance between the classes answered in the first and in the last tenth, 0 to 1."""
    classes: Mapping[str, float]
    """Share of each class in the answers, by name, or index where the name is not known."""
    shifts: int
    domains: int


@dataclass(frozen=True)
class Evaluation:
    """Of one lineage on one device."""

    device: str
    lineage: str
    bundles: tuple[str, ...]
    """Ids, in the order in which they ran."""
    learner: str
    """Of the last run."""
    runs: int
    answers: int
    labelled: int
    damaged: int
    first: datetime
    last: datetime
    accuracy: Interval | None
    """Of all answers whose label is known: prequential, as each was given before its label."""
    against: Against | None
    over_time: tuple[Window, ...]
    domains: tuple[DomainFigures, ...]
    matrix: AccuracyMatrix | None
    novelty: Novelty | None
    calibration: Calibration
    recoveries: tuple[Recovery, ...]
    updates: int
    """Committed."""
    refused: int
    guard: tuple[GuardCount, ...]
    """Most frequent first."""
    latency: Percentiles
    """From a sample to its answer."""
    update: Percentiles
    answering_seconds: float
    learning_seconds: float
    behaviour: Behaviour
    notes: tuple[str, ...]
    """What could not be told and why, and what was odd."""

    @property
    def before(self) -> Interval | None:
        """Accuracy of the source model, on the samples that it answered."""
        return self.against.before if self.against else None

    @property
    def cpu_seconds(self) -> float:
        """Proxy for energy: the time that answers and updates took, as the board journalled it."""
        return self.answering_seconds + self.learning_seconds


@dataclass(frozen=True)
class Overview:
    """A line of a fleet."""

    device: str
    lineage: str
    answers: int
    labelled: int
    accuracy: float | None
    entropy: float
    confidence: float
    novel: float | None
    updates: int
    refused: int
    latency_p95_ms: float
    first: datetime
    last: datetime
    distance: float
    """Largest deviation from the median of the lineage, in robust deviations (1.4826 MAD)."""
    odd: str
    """The figure that deviates so; empty where the lineage has too few devices to tell."""


@dataclass(frozen=True)
class Fleet:
    """All devices, those that are unlike the others first."""

    devices: tuple[Overview, ...]
    notes: tuple[str, ...] = ()
