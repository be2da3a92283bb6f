"""What tells domains apart is fitted to the source: whitened, calibrated, and the same file every time."""

import numpy as np
import pytest

from edgecl import hypervectors, shift, whitening
from edgecl.signature import Signatures
from export import router

WIDTHS = (3, whitening.WIDEST + 1, 5)


def taps(count: int, seed: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """Correlated within a tap, of very different scales, one channel constant."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((sum(WIDTHS), sum(WIDTHS)))
    x = random.standard_normal((count, sum(WIDTHS))) @ mix * np.geomspace(1e-3, 1e3, sum(WIDTHS)) + 5
    x[:, 1] = 2.5
    return x.astype(np.float32)


def test_whitened_taps_have_no_mean_and_unit_covariance_within_a_tap() -> None:
    source = taps(6000, 1)
    white = router.whiten(source, WIDTHS)
    assert [block.shape for block in white.blocks] == [(3, 3), (WIDTHS[1],), (5, 5)]
    v = white(source).astype(np.float64)
    assert np.abs(v.mean(0)).max() < 1e-2
    last = np.cov(v[:, -5:].T)
    assert np.abs(last - np.diag(np.diag(last))).max() < 0.06 and (np.diag(last) < 1.001).all()
    assert np.abs(v[:, 3 : 3 + WIDTHS[1]].std(0) - 1).max() < 1e-3
    assert np.isfinite(v).all(), "a constant channel is no division by zero"


def test_what_is_stored_reads_back_to_the_same_whitening() -> None:
    white = router.whiten(taps(500, 2), WIDTHS)
    again = whitening.unflat(white.mean, white.flat, WIDTHS)
    x = taps(9, 3)
    assert again(x).tobytes() == white(x).tobytes()
    with pytest.raises(ValueError, match="channels need"):
        whitening.unflat(white.mean, white.flat[:-1], WIDTHS)


def test_the_calibration_is_of_held_out_samples() -> None:
    source, apart = [taps(300, seed) for seed in range(4)], [taps(200, 9), taps(100, 10)]
    made = router.fit(source, apart, WIDTHS, dimensions=1024, seed=3, domains=4, full="refuse")
    signatures = Signatures(made.whitening, 1024, 3)
    found = np.concatenate([hypervectors.bit_similarity(signatures(x), made.prototype[None])[:, 0] for x in apart])
    assert made.record.calibration == shift.calibrate(found)
    assert np.mean(found < made.record.calibration.threshold) == pytest.approx(shift.NOVEL, abs=0.01)
    assert (made.record.domains, made.record.full) == (4, "refuse")
    again = router.fit(source, apart, WIDTHS, dimensions=1024, seed=3, domains=4, full="refuse")
    assert router.dump(again) == router.dump(made)


def test_dimensions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="dimensions for"):
        router.fit([taps(50, 1)], [taps(50, 2)], WIDTHS, dimensions=100, seed=0, domains=1, full="merge")
