"""Zero-cost scores against known numbers."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgecl.proxies import condition, naswot, rank_sums, ranks, zico


def wave(*shape: int, k: float) -> npt.NDArray[Any]:
    """sin(k t + 0.05 t^2), t = 1, 2, ..., row by row."""
    t = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    return np.sin(k * t + 0.05 * t * t).reshape(shape)


def test_zico_of_known_gradients() -> None:
    gradients = {"one": np.stack([wave(6, k=0.7), wave(6, k=0.4)]), "two": np.stack([wave(4, k=0.3), wave(4, k=0.8)])}
    assert zico(gradients) == pytest.approx(6.413902, abs=1e-5)
    assert zico(gradients, signed=True) == pytest.approx(5.667664, abs=1e-5)
    still = np.ones((2, 3))
    joined = {"one": np.concatenate([gradients["one"], still], 1), "two": gradients["two"], "three": still}
    assert zico(joined) == pytest.approx(6.413902, abs=1e-5)
    assert zico({"one": still}) == -math.inf


def test_naswot_of_known_codes() -> None:
    codes = wave(3, 8, k=0.7) > 0
    assert naswot([codes]) == pytest.approx(5.743003, abs=1e-5)
    assert naswot([codes[:, :3], codes[:, 3:]]) == pytest.approx(5.743003, abs=1e-5)
    assert naswot([codes[[0, 1, 0]]]) == -math.inf
    assert naswot([]) == naswot([codes[:, :0]]) == -math.inf


def test_condition_of_a_known_jacobian() -> None:
    assert condition(wave(4, 10, k=0.7)) == pytest.approx(2.5579, abs=1e-4)
    assert condition(wave(4, 3, k=0.7)) == math.inf
    assert condition(np.zeros((2, 3))) == math.inf


def test_ranks_begin_with_the_highest_and_are_shared() -> None:
    assert ranks([1.0, 3.0, 2.0]) == [2.0, 0.0, 1.0]
    assert ranks([1.0, 1.0, 5.0, -math.inf]) == [1.5, 1.5, 0.0, 3.0]


def test_the_place_is_by_the_sum_of_three_ranks() -> None:
    assert rank_sums([(3.0, 1.0, 10.0), (2.0, 3.0, 5.0), (1.0, 2.0, math.inf)]) == [1.0, 0.0, 2.0]
