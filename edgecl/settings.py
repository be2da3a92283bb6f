"""How a loop runs, and what its settings may be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgecl.engine import ENGINES
from edgecl.errors import EXIT_USAGE, EdgeclError
from edgecl.manifest import MAX_DOMAINS, Learner

MAX_SEED = (1 << 64) - 1
"""A seed is half of the key of the noise generator, Philox."""

LEAST_JOURNAL_BYTES = 1 << 20


class SettingError(EdgeclError):
    """A setting has a value that it cannot have: correct it."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a loop runs. The defaults are what a camera on a board wants. Raises SettingError."""

    hyper: Mapping[str, float] | None = None
    """Instead of the bundle's own values."""
    sync: bool = False
    """Learn in the calling thread, before the next sample: slower, and exactly repeatable."""
    wait: bool = False
    """When learning is behind, wait for it (a recorded source) instead of leaving batches out (a camera)."""
    checkpoint_every: int = 10
    """Updates between two checkpoints."""
    budget_bytes: int | None = None
    """Resident memory above which no update is taken; the bundle's own budget when None, none when 0."""
    seed: int = 0
    """Of the noise that a learner may take."""
    threads: int = 1
    """That one method may use; an answer that must not wait for learning uses one."""
    domains: int | None = None
    """Domains that are kept at most, the source among them; the bundle's own number when None, no routing when 1."""
    hysteresis: int = 8
    """Samples that routing goes back, against flapping; 1 routes each sample by itself."""
    keep_bytes: int = 0
    """Disk for the newest samples, to which labels may come later; none are kept when 0."""
    journal_bytes: int = 10**9
    """Disk for the journal until a host has taken it: when it is full, nothing more is learned; 0 for no limit."""
    rehearsal_bytes: int = 1 << 20
    """Memory for labelled samples that are learned again with new ones."""
    rehearse: int = 4
    """Updates on rehearsed samples alone for each one with new labels."""
    engine: str = "executorch"
    trace: bool = False
    """Record what the program does, for `Loop.trace`; only with `sync`."""

    def __post_init__(self) -> None:
        for problem, applies in (
            (f"seed {self.seed}: give 0 to {MAX_SEED}", not 0 <= self.seed <= MAX_SEED),
            (f"threads {self.threads}: give 1 or more", self.threads < 1),
            (f"checkpoint_every {self.checkpoint_every}: give 1 or more", self.checkpoint_every < 1),
            (f"budget_bytes {self.budget_bytes}: give 0 for none, or more", (self.budget_bytes or 0) < 0),
            (f"domains {self.domains}: give 1 to {MAX_DOMAINS}", not 1 <= (self.domains or 1) <= MAX_DOMAINS),
            (f"keep_bytes {self.keep_bytes}: give 0 for none, or more", self.keep_bytes < 0),
            (
                f"journal_bytes {self.journal_bytes}: give 0 for no limit, or {LEAST_JOURNAL_BYTES} or more",
                self.journal_bytes != 0 and self.journal_bytes < LEAST_JOURNAL_BYTES,
            ),
            (f"rehearsal_bytes {self.rehearsal_bytes}: give 0 for none, or more", self.rehearsal_bytes < 0),
            (f"rehearse {self.rehearse}: give 0 or more", self.rehearse < 0),
            (f"hysteresis {self.hysteresis}: give 1 or more", self.hysteresis < 1),
            (f"engine {self.engine}: unknown; give {' or '.join(ENGINES)}", self.engine not in ENGINES),
            ("trace: a background thread would mix it up; set sync as well", self.trace and not self.sync),
        ):
            if applies:
                raise SettingError(problem)


def hyper_values(learner: Learner, given: Mapping[str, float] | None) -> dict[str, float]:
    """The learner's hyper-parameters, with the values given instead of its own. Raises SettingError."""
    values = {hyper.name: hyper.value for hyper in learner.hyper}
    for name, value in (given or {}).items():
        if name not in values:
            have = ", ".join(values) or "none"
            raise SettingError(f"hyper-parameter {name}: {learner.name} does not have it; it has {have}")
        if not math.isfinite(value):
            raise SettingError(f"hyper-parameter {name}: {value} is not finite; give another value")
        values[name] = value
    return values
