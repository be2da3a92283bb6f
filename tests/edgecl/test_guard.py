"""The guard's rules, one by one; what the loop does about them is in test_loop.py."""

import math

import numpy as np
import pytest

from edgecl import manifest
from edgecl.guard import Guard, Verdict


def never() -> float:
    raise AssertionError("the canaries were asked")


def guard(*, every: int = 0, floor: float = 0.5, entropy: float = 0.3, window: int = 8, canaries: bool = True) -> Guard:
    settings = manifest.Guard(canary_every=every, canary_floor=floor, entropy_floor=entropy, window=window)
    return Guard(settings, 4, canaries=canaries)


def labels(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def test_numbers_that_are_not_finite_are_dropped_before_anything_is_asked() -> None:
    watching = guard(every=1)
    verdict = watching.judge(False, never)
    assert (verdict.action, verdict.reason) == ("drop", "not-finite")
    assert watching.judge(True, lambda: 0.6) == Verdict("commit", good=True)


def test_canaries_are_asked_after_as_many_updates_as_set() -> None:
    watching, asked = guard(every=3), list[None]()

    def accuracy() -> float:
        asked.append(None)
        return 0.5

    verdicts = [watching.judge(True, accuracy) for _ in range(9)]
    assert len(asked) == 3
    assert [verdict.good for verdict in verdicts] == [False, False, True] * 3
    assert {verdict.action for verdict in verdicts} == {"commit"}, "the floor itself is enough"


def test_a_state_below_the_floor_is_taken_back() -> None:
    verdict = guard(every=1).judge(True, lambda: 0.49)
    assert (verdict.action, verdict.reason, verdict.good) == ("roll back", "canaries", False)
    assert verdict.detail == "canary accuracy 0.490, the floor is 0.500"


@pytest.mark.parametrize(
    ("answers", "entropy"),
    [
        (labels(0, 0, 0, 0, 0, 0, 0, 0), 0.0),
        (labels(0, 0, 0, 0, 1, 1, 1, 1), math.log(2)),
        (labels(0, 1, 2, 3, 0, 1, 2, 3), math.log(4)),
        (labels(3, 3, 3, 3, 3, 3, 3, 1), -7 / 8 * math.log(7 / 8) - 1 / 8 * math.log(1 / 8)),
    ],
)
def test_the_entropy_of_class_shares(answers: np.ndarray[tuple[int], np.dtype[np.int64]], entropy: float) -> None:
    watching = guard()
    watching.answered(labels(2, 2, 2))
    assert watching.entropy_of_shares() is None, "the window is not full"
    watching.answered(answers)
    assert watching.entropy_of_shares() == pytest.approx(entropy)


def test_a_collapse_without_canaries_is_taken_back_once_a_window() -> None:
    for watching in (guard(every=0), guard(every=5, canaries=False)):
        watching.answered(labels(*[1] * 7))
        assert watching.judge(True, never) == Verdict("commit")
        watching.answered(labels(1))
        verdict = watching.judge(True, never)
        assert (verdict.action, verdict.reason) == ("roll back", "collapse")
        assert verdict.detail == "entropy of class shares 0.000 nats, the floor is 0.300"
        watching.answered(labels(*[1] * 7))
        assert watching.judge(True, never) == Verdict("commit"), "a new window has to fill"


def test_canaries_have_the_last_word_on_a_collapse() -> None:
    watching = guard(every=100)
    watching.answered(labels(*[1] * 8))
    assert watching.judge(True, lambda: 0.9) == Verdict("commit", good=True)
    assert watching.judge(True, lambda: 0.1).action == "roll back"
    assert watching.judge(True, never) == Verdict("commit"), "a new window has to fill"
