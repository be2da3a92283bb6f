"""Hypervectors: the same on every machine, and as far apart as the features that they stand for."""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import hypervectors
from edgecl.hypervectors import Projection, bit_similarity, bits, unit

Floats = npt.NDArray[np.float32]

SHAPES = [(1, 64), (3, 64), (64, 64), (128, 4096), (100, 4096), (200, 1024), (1000, 4096), (4096, 4096)]


def _features(rows: int, features: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, features), np.float32)


def _matrix(features: int, dimensions: int, seed: int = 0) -> Floats:
    """The projection written out: what it makes of each feature alone."""
    return Projection(features, dimensions, seed)(np.eye(features, dtype=np.float32))


@pytest.mark.parametrize(("features", "dimensions"), SHAPES)
def test_a_projection_is_bipolar_and_its_columns_are_orthogonal(features: int, dimensions: int) -> None:
    matrix = _matrix(features, dimensions)
    assert matrix.shape == (features, dimensions)
    assert set(np.unique(matrix)) == {-1.0, 1.0}
    assert np.array_equal(matrix @ matrix.T, dimensions * np.eye(features))


@pytest.mark.parametrize(("features", "dimensions"), SHAPES)
def test_a_projection_is_the_product_with_its_matrix(features: int, dimensions: int) -> None:
    x = _features(5, features)
    want = x.astype(np.float64) @ _matrix(features, dimensions).astype(np.float64)
    assert np.abs(Projection(features, dimensions, 0)(x) - want).max() < 1e-5 * np.abs(want).max()


def test_a_seed_gives_the_same_projection_everywhere() -> None:
    """The digest was made once; another processor, system or numpy must give it too."""
    signs = _matrix(128, 4096, seed=7) > 0
    assert hashlib.sha256(np.packbits(signs).tobytes()).hexdigest() == DIGEST
    assert not np.array_equal(_matrix(128, 4096, seed=7), _matrix(128, 4096, seed=8))


DIGEST = "e25a801fd1a995c8e266b9ec839a56baff934ec3a12a2a6264f7a6cf04eb2a02"


def test_signs_are_even() -> None:
    signs = hypervectors.signs(3, 1 << 16)
    assert abs(signs.mean()) < 4 / 256
    assert abs((signs[1:] * signs[:-1]).mean()) < 4 / 256


@pytest.mark.parametrize(("features", "dimensions"), [(0, 64), (3, 0), (3, 96), (128, 64), (200, 4096 + 64)])
def test_dimensions_that_do_not_fit_are_refused(features: int, dimensions: int) -> None:
    with pytest.raises(ValueError, match="give a multiple of"):
        Projection(features, dimensions, 0)


@pytest.mark.parametrize(("features", "dimensions"), SHAPES)
def test_cosines_are_those_of_the_features(features: int, dimensions: int) -> None:
    one, other = _features(4, features), _features(6, features, seed=1)
    project = Projection(features, dimensions, 5)
    found = unit(project(one)) @ unit(project(other)).T
    a, b = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1)[:, None] for v in (one, other))
    assert np.abs(found - a @ b.T).max() < 1e-5 < 3 / np.sqrt(dimensions)


def test_a_zero_has_no_direction() -> None:
    assert not unit(np.zeros((1, 64), np.float32)).any()


@pytest.mark.parametrize("dimensions", [64, 192, 4096])
def test_bit_similarity_is_one_less_twice_the_share_that_differs(dimensions: int) -> None:
    one, other = _features(4, dimensions), _features(6, dimensions, seed=1)
    found = bit_similarity(bits(one), bits(other))
    for i in range(4):
        for j in range(6):
            hamming = int(((one[i] > 0) != (other[j] > 0)).sum())
            assert found[i, j] == np.float32(1 - 2 * hamming / dimensions)


def test_one_bit_a_dimension_keeps_the_angle() -> None:
    """P(signs differ) = angle / pi; the deviation of D bits is 0.5 / sqrt(D) at most."""
    one, other = _features(40, 128), _features(40, 128, seed=1)
    other += np.linspace(0, 3, 40, dtype=np.float32)[:, None] * one  # angles of all sizes
    project = Projection(128, 4096, 2)
    a, b = project(one), project(other)
    angle = np.arccos(np.clip(np.diag(unit(a) @ unit(b).T), -1, 1)) / np.pi
    apart = (1 - np.diag(bit_similarity(bits(a), bits(b)))) / 2
    assert np.abs(apart - angle).max() < 4 * 0.5 / np.sqrt(4096)
