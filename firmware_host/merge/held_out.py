"""Samples that boards have kept, with what is known of them, to judge states by: not those that a state was taught."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgecl import samples
from edgecl.bank import SOURCE
from edgecl.bundle import Bundle
from edgecl.errors import BundleError, EdgeclError, ProgramError
from edgecl.journal import Class, Domain, Label, Prediction, Run
from edgecl.preprocess import Preprocess
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.recording import Recording, Tape, records


@dataclass(frozen=True)
class Held:
    """One sample."""

    x: npt.NDArray[Any]
    """As the program's caller takes it."""
    truth: int | None
    """Its label, of the bundle's classes; None where it is not known."""
    board: int | None
    """What its board answered."""


@dataclass
class Tally:
    """What was read, and what was not used."""

    devices: list[str] = field(default_factory=list)
    taught: int = 0
    """A state that is merged was told their labels."""
    foreign: int = 0
    """Their classes are not the bundle's."""
    nameless: set[str] = field(default_factory=set)
    """Bundles that are not here, so that labels by their sources, and their answers, mean nothing."""


class HeldOut:
    """Samples of recordings, as many of each as wanted at most, spread over its stream."""

    def __init__(
        self,
        found: Sequence[Recording],
        bundle: Bundle,
        bundles: Bundles,
        *,
        domain: str = "",
        most: int,
        taught: Sequence[Path] = (),
    ) -> None:
        """`domain`: only samples that it answered. `taught`: homes of the boards whose states are judged."""
        self._found, self._bundle, self._bundles = found, bundle, bundles
        self._domain, self._most, self._homes = domain, most, {path.resolve() for path in taught}
        self._classes = {name: index for index, name in enumerate(bundle.manifest.classes)}
        self._preprocess = Preprocess(bundle.manifest.input)
        self.tally = Tally()

    def __iter__(self) -> Iterator[Held]:
        """Raises BundleError: a recording of another lineage. JournalError."""
        for recording in self._found:
            self.tally.devices.append(recording.name)
            yield from self._of(recording)

    def _of(self, recording: Recording) -> Iterator[Held]:
        labels, domains, answers = self._look(recording)
        own = recording.home is not None and recording.home.resolve() in self._homes
        step = max(1, -(-answers // self._most))
        tape = Tape(recording.samples, frozenset())
        names: Sequence[str] | None = None
        place = 0
        for record in records(recording.segments):
            if isinstance(record, Run):
                names = self._names(record)
            elif isinstance(record, Class) and names is not None:
                names = (*names, record.name)
            elif isinstance(record, Prediction):
                if not self._wanted(domains, record.domain):
                    continue
                place += 1
                if place % step:
                    continue
                sample = tape.find(record.seq)
                if sample is None:
                    continue
                if own and record.seq in labels:
                    self.tally.taught += 1
                    continue
                yield from self._held(record, samples.array(sample), labels.get(record.seq), names)

    def _held(
        self, record: Prediction, x: npt.NDArray[Any], label: str | None, names: Sequence[str] | None
    ) -> Iterator[Held]:
        try:
            x = self._preprocess.check(x)
        except (EdgeclError, ProgramError):
            self.tally.foreign += 1
            return
        truth = label or (_at(names, record.y) if record.HasField("y") else None)
        if truth is not None and truth not in self._classes:
            self.tally.foreign += 1
            return
        answered = _at(names, record.label)
        yield Held(x, None if truth is None else self._classes[truth], self._classes.get(answered or ""))

    def _look(self, recording: Recording) -> tuple[Mapping[int, str], Mapping[int, str], int]:
        """Labels by the number of their sample, domains by theirs, and how many answers. Raises BundleError."""
        labels: dict[int, str] = {}
        domains = {SOURCE: "source"}
        answers = 0
        for record in records(recording.segments):
            if isinstance(record, Label):
                labels[record.seq] = record.name
            elif isinstance(record, Domain):
                domains[record.domain] = record.name
            elif isinstance(record, Run):
                domains |= {one.domain: one.name for one in record.domains}
                if record.lineage != self._bundle.manifest.lineage:
                    raise BundleError(
                        f"{recording.name}: its journal is of lineage {record.lineage}, the bundle of "
                        f"{self._bundle.manifest.lineage}; give held-out journals of one lineage"
                    )
            answers += isinstance(record, Prediction)
        return labels, domains, answers

    def _wanted(self, domains: Mapping[int, str], number: int) -> bool:
        return not self._domain or self._domain in (domains.get(number), str(number))

    def _names(self, run: Run) -> Sequence[str] | None:
        """What the indices of a run stand for."""
        if run.bundle == self._bundle.id:
            return (*self._bundle.manifest.classes, *run.added)
        found = self._bundles.find(run.bundle)
        if not found:
            self.tally.nameless.add(run.bundle)
            return None
        return (*found.manifest.classes, *run.added)


def _at(names: Sequence[str] | None, index: int) -> str | None:
    return names[index] if names is not None and index < len(names) else None
