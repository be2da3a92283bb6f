"""Journal records, made of what a loop has at hand."""

import os
from collections.abc import Mapping
from typing import Final

from edgecl import __version__, _runtime, boot, journal
from edgecl.answer import Answer
from edgecl.bundle import Bundle
from edgecl.checkpoints import Learned
from edgecl.domains import Seen
from edgecl.processor import processor
from edgecl.router import Event, Turn
from edgecl.settings import Settings

EVENTS: Final[Mapping[Event, journal.Domain.Event.ValueType]] = {
    "began": journal.Domain.BEGAN,
    "founded": journal.Domain.FOUNDED,
    "returned": journal.Domain.RETURNED,
    "refused": journal.Domain.REFUSED,
    "merged": journal.Domain.MERGED,
    "entered": journal.Domain.ENTERED,
}


def board() -> journal.Boot:
    """What this board is."""
    here = os.uname()
    cores = len(os.sched_getaffinity(0))
    return journal.Boot(model=boot.model(), arch=here.machine, kernel=here.release, cores=cores)


def run(
    bundle: Bundle,
    settings: Settings,
    *,
    hyper: Mapping[str, float],
    budget_bytes: int,
    domains: int,
    learned: Learned,
    seen: int,
    checkpoint: int,
    source: str,
    told: Mapping[str, str],
) -> journal.Run:
    """A run starts, from what was learned before."""
    every = {
        **{f"hyper.{name}": value for name, value in hyper.items()},
        "sync": settings.sync,
        "wait": settings.wait,
        "checkpoint_every": settings.checkpoint_every,
        "budget_bytes": budget_bytes,
        "engine": settings.engine,
        "domains": domains,
        "hysteresis": settings.hysteresis,
        "keep_bytes": settings.keep_bytes,
        "journal_bytes": settings.journal_bytes,
        "rehearsal_bytes": settings.rehearsal_bytes,
        "rehearse": settings.rehearse,
        **told,
    }
    state = learned.states[learned.active]
    return journal.Run(
        bundle=bundle.id,
        name=bundle.manifest.name,
        learner=bundle.manifest.learner.name,
        settings=[journal.Setting(name=name, value=str(value)) for name, value in every.items()],
        seed=settings.seed,
        threads=settings.threads,
        edgecl=__version__,
        executorch=_runtime.EXECUTORCH_VERSION,
        arch=os.uname().machine,
        digest=state.digest,
        step=state.step,
        seen=seen,
        source=source,
        added=learned.added,
        domain=learned.active,
        lineage=bundle.manifest.lineage,
        version=bundle.manifest.version,
        checkpoint=checkpoint,
        processor=processor(),
        domains=kept(learned),
    )


def prediction(answer: Answer, seen: Seen, *, position: int, y: int | None, latency_ns: int) -> journal.Prediction:
    """A sample was answered."""
    return journal.Prediction(
        seq=answer.seq,
        label=answer.index,
        confidence=answer.confidence,
        entropy=answer.entropy,
        step=seen.state.step,
        position=position,
        y=y,
        similarity=answer.similarity,
        novel=answer.novel,
        domain=seen.domain,
        changes=seen.view.number,
        latency_ns=latency_ns,
    )


def turn(made: Turn, name: str, seq: int) -> journal.Domain:
    """The stream has come to a domain of this name, or the bank has changed."""
    return journal.Domain(what=EVENTS[made.event], seq=seq, domain=made.domain, name=name, other=made.other)


def checkpoint(
    learned: Learned, cause: journal.Checkpoint.Cause.ValueType, number: int, file: str
) -> journal.Checkpoint:
    """What was learned is on the disk."""
    state = learned.states[learned.active]
    return journal.Checkpoint(
        number=number,
        step=state.step,
        seen=state.seen,
        digest=state.digest,
        file=file,
        cause=cause,
        active=learned.active,
        domains=kept(learned),
    )


def kept(learned: Learned) -> list[journal.Kept]:
    """All domains of the bank."""
    return [
        journal.Kept(
            domain=domain.number,
            name=domain.name,
            step=learned.states[domain.number].step,
            digest=learned.states[domain.number].digest,
            signature=domain.digest,
        )
        for domain in learned.bank.domains
    ]
