"""What the source model says of samples that the board answered: each bundle as it was built, without learning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl import samples
from edgecl.answer import answer_of
from edgecl.bundle import Bundle, read_state
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from firmware_host.evaluate.answers import Answers
from firmware_host.replay.recording import Recording, Tape


@dataclass(frozen=True)
class Said:
    """Of some samples, in the order of their numbers."""

    seq: npt.NDArray[np.int64]
    label: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.seq)


def chosen(candidates: npt.NDArray[Any], most: int) -> npt.NDArray[np.intp]:
    """Places of at most so many candidates, spread evenly over them."""
    places = np.flatnonzero(candidates)
    if len(places) <= most:
        return places
    return places[np.arange(most) * len(places) // most]


def ask(recording: Recording, wanted: Sequence[tuple[int, str]], bundles: Mapping[str, Bundle]) -> Said:
    """Answer samples, each a number and the id of a bundle, in the order of their numbers; those not here are left out.

    Raises EdgeclError: a sample does not fit its bundle, or a program fails.
    """
    models: dict[str, _Model] = {}
    tape = Tape(recording.samples, frozenset())
    rows: list[tuple[int, int, float, float]] = []
    try:
        for seq, bundle in wanted:
            sample = tape.find(seq)
            if sample is None or sample.learned:
                continue
            if bundle not in models:
                models[bundle] = _Model(bundles[bundle])
            rows.append((seq, *models[bundle](samples.array(sample))))
    finally:
        for model in models.values():
            model.close()
    return said(rows)


def said(rows: Sequence[tuple[int, int, float, float]]) -> Said:
    """Number, label, confidence and entropy, as columns."""
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    kinds = (np.int64, np.int32, np.float32, np.float32)
    return Said(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


class _Model:
    """A bundle that answers as it was built."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises EdgeclError."""
        self._names = bundle.manifest.classes
        self._method = bundle.manifest.method("infer", 1)
        self._state = read_state(bundle)
        self._preprocess = Preprocess(bundle.manifest.input)
        self._programs = Programs(bundle)

    def __call__(self, x: npt.NDArray[Any]) -> tuple[int, float, float]:
        batch = self._preprocess.batch([self._preprocess.check(x)])
        logits = self._programs.call(self._method, theta=self._state.theta, x=batch)["logits"][0]
        answer = answer_of(0, logits, self._names, None, "source")
        return answer.index, answer.confidence, answer.entropy

    def close(self) -> None:
        self._programs.close()


@dataclass(frozen=True)
class Beside:
    """What the source model said, beside the answers of the board."""

    at: npt.NDArray[np.intp]
    """Places of those answers, rising."""
    said: Said

    def right(self, answers: Answers) -> npt.NDArray[np.bool_]:
        """Whether the source model was right; means something where the label is known."""
        found: npt.NDArray[np.bool_] = self.said.label == answers.truth[self.at]
        return found

    def alike(self, answers: Answers) -> npt.NDArray[np.bool_]:
        """Whether it said what the board said."""
        found: npt.NDArray[np.bool_] = self.said.label == answers.label[self.at]
        return found


def beside(answers: Answers, found: Said) -> Beside:
    """Put what was said beside the answers to the same samples."""
    return Beside(np.searchsorted(answers.seq, found.seq), found)
