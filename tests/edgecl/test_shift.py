"""Shifts of a stream: told soon, taken back when they are over, and hardly ever told of the source itself."""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import shift
from edgecl.manifest import Calibration
from edgecl.shift import BACK, FALSE_ALARM, LIMIT, WINDOW, Shift, Watch

MEAN, DEVIATION = 0.6, 0.1


def _skewed(count: int, seed: int) -> npt.NDArray[np.float64]:
    """Similarities as a detector finds them: most near the top, some far below."""
    z = -np.random.default_rng(seed).gamma(2.0, 1 / math.sqrt(2), count) + math.sqrt(2)
    return MEAN + DEVIATION * z


SOURCE = _skewed(20_000, 0)
RECORD = Calibration(
    threshold=float(np.quantile(SOURCE, shift.NOVEL)),
    mean=float(SOURCE.mean()),
    deviation=float(SOURCE.std()),
    drift=shift.drift((SOURCE - SOURCE.mean()) / SOURCE.std()),
)


def _told(similarities: Iterable[float], watch: Watch | None = None) -> list[tuple[int, Shift]]:
    watch = watch or Watch()
    notes = ((i, watch.note(shift.look(RECORD, float(s)))) for i, s in enumerate(similarities))
    return [(i, note) for i, note in notes if note]


@pytest.mark.parametrize("once_in", [20, 1000, FALSE_ALARM])
def test_a_limit_is_the_least_that_is_exceeded_rarely_enough(once_in: int) -> None:
    def exceeded(number: int) -> float:
        return sum(math.comb(64, k) * 0.05**k * 0.95 ** (64 - k) for k in range(number + 1, 65))

    found = shift.limit(64, 0.05, once_in)
    assert exceeded(found) <= 1 / once_in < exceeded(found - 1)


def test_the_drift_of_normal_deviations_is_the_known_one() -> None:
    """For N(0, 1) and a slack of 0.5, theta is 1."""
    z = np.random.default_rng(1).standard_normal(400_000)
    assert shift.drift(z) == pytest.approx(math.log(FALSE_ALARM), rel=0.03)


def test_the_drift_solves_its_equation() -> None:
    z = (SOURCE - SOURCE.mean()) / SOURCE.std()
    theta = math.log(FALSE_ALARM) / shift.drift(z)
    assert np.exp(theta * (np.minimum(-z, shift.MOST) - shift.SLACK)).mean() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("deviations", [[], [0.0, 0.0], [1.0, 2.0], [-9.0, -9.0]])
def test_a_drift_of_odd_samples_is_a_number(deviations: list[float]) -> None:
    assert 0 < shift.drift(deviations) < math.inf


def test_the_source_is_hardly_ever_told_as_a_shift() -> None:
    """Two tests with one false alarm in 100,000 samples each, at most: four are expected of 200,000."""
    began = [event for _, event in _told(_skewed(200_000, 2)) if event.began]
    assert len(began) <= 8


def test_a_stream_of_novel_samples_is_told_as_soon_as_the_limit_allows() -> None:
    (at, event), *more = _told([0.0] * 200)
    assert at <= LIMIT and event.began and event.share == 1.0 and event.similarity == 0.0
    assert not more


def test_small_and_lasting_is_told_too() -> None:
    """One deviation and a half lower, but never below the threshold."""
    low = np.maximum(RECORD.mean - 1.5 * RECORD.deviation, RECORD.threshold + 1e-6)
    ((at, event),) = _told([low] * 400)  # nor does it end while it lasts
    assert at < 100 and event.began and event.test == "cusum" and event.share == 0.0


def test_a_single_odd_sample_is_no_shift() -> None:
    stream = np.full(1000, MEAN)
    stream[500] = -1.0
    assert _told(stream) == []


def test_a_stream_that_comes_back_is_told_to_be_back() -> None:
    stream = np.concatenate([_skewed(500, 3), np.zeros(300), _skewed(500, 4), np.zeros(300)])
    told = _told(stream)
    assert [event.began for _, event in told] == [True, False, True]
    first, second, third = (at for at, _ in told)
    assert 500 <= first <= 500 + LIMIT and 800 < second <= 800 + WINDOW and 1300 <= third <= 1300 + LIMIT
    assert told[1][1].share <= BACK / WINDOW


def test_a_stream_between_the_limits_does_not_flap() -> None:
    share = (LIMIT + BACK) / 2 / WINDOW
    novel = np.random.default_rng(5).random(20_000) < share
    told = _told(np.where(novel, RECORD.threshold - 0.01, MEAN))
    gaps = np.diff([at for at, _ in told])
    assert (gaps >= WINDOW).all() and len(told) < 20_000 / WINDOW / 2


def test_a_watch_tells_which_side_it_is_on() -> None:
    watch = Watch()
    assert not watch.shifted
    _told([0.0] * 50, watch)
    assert watch.shifted
    _told([MEAN] * 100, watch)
    assert not watch.shifted
