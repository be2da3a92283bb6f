"""Formulas agree with scikit-learn, with loops that are plainly right, and with cases worked by hand."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

from firmware_host.evaluate import bootstrap, metrics

Floats = npt.NDArray[np.float64]


def scores(seed: int, *, ties: bool) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    inside, outside = random.normal(1, 1, 300 + seed), random.normal(0, 1.5, 200)
    return (inside.round(1), outside.round(1)) if ties else (inside, outside)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_fpr95_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    inside, outside = scores(seed, ties=ties)
    truth, values = np.repeat((1, 0), (len(inside), len(outside))), np.concatenate([inside, outside])
    assert metrics.auroc(inside, outside) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    assert metrics.fpr95(inside, outside) == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-12)


def test_auroc_of_separated_equal_and_missing_scores() -> None:
    assert metrics.auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert metrics.auroc(np.zeros(4), np.zeros(3)) == 0.5
    assert np.isnan(metrics.auroc(np.zeros(0), np.zeros(3))) and np.isnan(metrics.fpr95(np.zeros(2), np.zeros(0)))


@pytest.mark.parametrize("bins", [5, 10, 15])
def test_calibration_is_that_of_scikit_learn_and_of_a_loop(bins: int) -> None:
    random = np.random.default_rng(bins)
    confidence = random.random(2000)
    correct = random.random(2000) < confidence**2
    found = metrics.reliability(confidence, correct, bins)
    right, sure = calibration_curve(correct, confidence, n_bins=bins, strategy="uniform")
    assert np.allclose(found.correct / found.counts, right) and np.allclose(found.confidence / found.counts, sure)
    ece = 0.0
    for low, high in zip(found.edges[:-1], found.edges[1:], strict=True):
        here = (confidence > low) & (confidence <= high)
        ece += here.mean() * abs(correct[here].mean() - confidence[here].mean())
    assert found.ece == pytest.approx(ece, abs=1e-12)


def test_calibration_by_hand() -> None:
    """Four answers in two of two bins: 0.5 * |0.4 - 0.5| + 0.5 * |0.9 - 1|, and one that is no number."""
    found = metrics.reliability([0.3, 0.5, 0.8, 1.0, np.nan], [0, 1, 1, 1, 1], 2)
    assert found.counts.tolist() == [2, 2]
    assert found.ece == pytest.approx(0.5 * 0.1 + 0.5 * 0.1)
    assert np.isnan(metrics.reliability([], []).ece)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 3000])
def test_prequential_accuracy_fades_as_its_recurrence_says(count: int) -> None:
    correct = np.random.default_rng(count).random(count) < 0.7
    total = seen = 0.0
    expected = []
    for one in correct:
        total, seen = one + 0.99 * total, 1 + 0.99 * seen
        expected.append(total / seen)
    assert np.allclose(metrics.faded(correct, 0.99), expected, atol=1e-12)
    assert metrics.faded(correct, 1.0)[-1] == pytest.approx(accuracy_score(np.ones(count), correct))


def test_a_sliding_mean_takes_the_last_few() -> None:
    assert metrics.sliding([1, 0, 0, 1, 1], 2).tolist() == [1, 0.5, 0, 0.5, 1]
    assert metrics.sliding([], 3).tolist() == [] == metrics.faded([]).tolist()


MATRIX = np.array([[0.9, 0.3, 0.2], [0.7, 0.8, 0.4], [0.6, 0.7, 0.9]])
"""After each of three tasks, the accuracy on each; at first, 0.1 on all."""


def test_transfer_is_that_of_lopez_paz_and_ranzato() -> None:
    """Their equations 2 to 4, for MATRIX by hand."""
    learned = np.arange(3)
    assert metrics.average_accuracy(MATRIX) == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    assert metrics.backward_transfer(MATRIX, learned) == pytest.approx(((0.6 - 0.9) + (0.7 - 0.8)) / 2)
    entered = np.array([np.nan, MATRIX[0, 1], MATRIX[1, 2]])
    assert metrics.forward_transfer(entered, np.full(3, 0.1)) == pytest.approx(((0.3 - 0.1) + (0.4 - 0.1)) / 2)


def test_forgetting_is_that_of_chaudhry() -> None:
    """Section 3.1 of Riemannian Walk: the best before the last task, minus the last, over all tasks but the last."""
    assert metrics.forgetting(MATRIX, np.arange(3)) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.7)) / 2)
    better = np.array([[0.5, np.nan], [0.8, 0.9]])
    assert metrics.forgetting(better, np.arange(2)) == pytest.approx(-0.3), "what became better was not forgotten"


def test_a_matrix_of_visits_counts_what_came_back() -> None:
    """Domains 0, 1, 0, 2, 0: only 0 came back, from 0.9 over 0.5 to 0.7."""
    nan = np.nan
    matrix = np.array([[0.9, nan, nan], [nan, 0.8, nan], [0.5, nan, nan], [nan, nan, 0.6], [0.7, nan, nan]])
    first = np.zeros(3, int)
    assert metrics.average_accuracy(matrix) == pytest.approx((0.7 + 0.8 + 0.6) / 3)
    assert metrics.forgetting(matrix, first) == pytest.approx(0.9 - 0.7)
    assert metrics.backward_transfer(matrix, first) == pytest.approx(0.7 - 0.9)
    alone = matrix[:2]
    for figure in (metrics.forgetting, metrics.backward_transfer):
        assert np.isnan(figure(alone, first)), "nothing came back"
    assert np.isnan(metrics.forward_transfer(np.full(2, nan), np.zeros(2)))


def test_jensen_shannon_by_hand() -> None:
    assert metrics.jensen_shannon([3, 1], [6, 2]) == 0
    assert metrics.jensen_shannon([1, 0], [0, 5]) == 1
    p, q, m = np.array([0.5, 0.5]), np.array([1.0, 0.0]), np.array([0.75, 0.25])
    by_hand = (0.5 * np.log2(p / m) @ np.ones(2) + q[0] * np.log2(q[0] / m[0])) / 2
    assert metrics.jensen_shannon([1, 1], [4, 0]) == pytest.approx(np.sqrt(by_hand))


def test_robust_deviations_see_the_odd_one() -> None:
    found = metrics.robust_deviations([1.0, 2.0, 3.0, 4.0, 100.0, np.nan])
    assert found[2] == 0 and found[4] == pytest.approx(97 / 1.4826) and np.isnan(found[5])
    assert metrics.robust_deviations([5, 5, 5, 5]).tolist() == [0, 0, 0, 0]
    assert metrics.robust_deviations([5, 5, 5, 5, 9])[4] > 3, "also where more than half are equal"


def correlated(seed: int, count: int, phi: float) -> Any:
    random = np.random.default_rng(seed)
    found = np.zeros(count)
    for place, step in enumerate(random.normal(size=count)):
        found[place] = phi * found[place - 1] + step
    return found


def test_blocks_are_as_long_as_the_correlation_asks_for() -> None:
    """Of x_t = phi x_(t-1) + e_t the best length is (4 phi^2 n / (1 - phi^2)^2)^(1/3) (Politis and White 2004)."""
    lengths = [bootstrap.block_length(correlated(seed, 4000, 0.5)) for seed in range(20)]
    best = (4 * 0.25 * 4000 / (1 - 0.25) ** 2) ** (1 / 3)
    assert np.median(lengths) == pytest.approx(best, rel=0.25)
    independent = [bootstrap.block_length(correlated(seed, 4000, 0.0)) for seed in range(20)]
    assert np.median(independent) < 5
    assert bootstrap.block_length(np.ones(100)) == 1


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_intervals_cover_the_mean_about_as_often_as_they_say(phi: float) -> None:
    """Independent draws would cover it in half of the streams where phi is 0.8."""
    covered = 0
    for seed in range(40):
        found = bootstrap.mean(correlated(seed, 500, phi), seed=seed)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
    assert covered >= 33


def test_the_same_stream_has_the_same_interval_and_a_short_one_has_none() -> None:
    values = np.random.default_rng(1).random(20_000) < 0.8
    found = bootstrap.mean(values, seed=3)
    assert found == bootstrap.mean(values, seed=3) != bootstrap.mean(values, seed=4)
    assert found.low is not None and found.high is not None and found.high - found.low < 0.02
    few = bootstrap.mean(values[: bootstrap.LEAST - 1])
    assert (few.low, few.high) == (None, None) and few.value == pytest.approx(values[: bootstrap.LEAST - 1].mean())
    alike = bootstrap.mean(np.ones(100))
    assert (alike.value, alike.low, alike.high) == (1, 1, 1)
