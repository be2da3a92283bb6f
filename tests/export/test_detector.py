"""Detectors fitted to made-up taps: what they find novel, what they keep, and that they are cosines in another form."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from edgecl.detector import Detector
from export.detector import Made, fit

Floats = npt.NDArray[np.float32]
Form = Literal["bits", "full"]

WIDTHS = (16, 48)
CLASSES = 10
_CENTRES = np.random.default_rng(1).standard_normal((CLASSES, sum(WIDTHS)), np.float32)


def _source(count: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Taps around a centre a class; the first tap a thousand times as large as the second, and far from zero."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    taps = _CENTRES[labels] + 0.3 * random.standard_normal((count, sum(WIDTHS)), np.float32)
    return _stretched(taps), labels


def _other(count: int) -> Floats:
    return _stretched(np.random.default_rng(9).standard_normal((count, sum(WIDTHS)), np.float32))


def _stretched(taps: Floats) -> Floats:
    return np.concatenate([1000 * taps[:, : WIDTHS[0]] + 5000, taps[:, WIDTHS[0] :]], 1)


def _made(form: Form, dimensions: int = 4096, batch: int = 100) -> Made:
    x, y = _source(2000, 2)
    batches = [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]
    held_out, _ = _source(1000, 3)
    return fit(batches, [held_out], WIDTHS, CLASSES, dimensions=dimensions, form=form, seed=4)


@pytest.mark.parametrize("form", ["bits", "full"])
def test_held_out_samples_pass_and_others_are_novel(form: Form) -> None:
    made = _made(form)
    detector = Detector(made.record, made.fit)
    taps, labels = _source(1000, 3)
    found = [detector(tap) for tap in taps]
    assert np.mean([one.novel for one in found]) == pytest.approx(0.05, abs=0.002)
    assert np.mean([one.nearest == label for one, label in zip(found, labels, strict=True)]) > 0.99
    assert np.mean([detector(tap).novel for tap in _other(500)]) > 0.95


@pytest.mark.parametrize("form", ["bits", "full"])
def test_the_calibration_is_that_of_held_out_samples(form: Form) -> None:
    made = _made(form)
    detector = Detector(made.record, made.fit)
    found = np.array([detector(tap).similarity for tap in _source(1000, 3)[0]])
    assert made.record.calibration.mean == pytest.approx(found.mean(), abs=1e-5)
    assert made.record.calibration.deviation == pytest.approx(found.std(), abs=1e-5)
    assert made.record.calibration.threshold == pytest.approx(np.quantile(found, 0.05), abs=1e-5)


def test_full_precision_is_the_cosine_of_centred_and_weighted_taps() -> None:
    made = _made("full")
    detector = Detector(made.record, made.fit)
    x, y = _source(2000, 2)
    mean = x.astype(np.float64).mean(0)
    scales = []
    for part in _tap_slices():
        away = (x - mean)[:, part]
        between = np.stack([away[y == label].mean(0) for label in y])
        scales.append((away**2).sum(1).mean() ** 1.5 / (between**2).sum(1).mean())
    scale = np.repeat(scales, WIDTHS)
    sums = np.stack([((x - mean) / scale)[y == label].sum(0) for label in range(CLASSES)])
    v = (_other(50) - mean) / scale
    want = (v / np.linalg.norm(v, axis=1)[:, None]) @ (sums / np.linalg.norm(sums, axis=1)[:, None]).T
    found = detector.similarities(detector.encode(_other(50)))
    assert np.abs(found - want).max() < 1e-3 < 3 / np.sqrt(4096)


def _tap_slices() -> list[slice]:
    return [slice(0, WIDTHS[0]), slice(WIDTHS[0], sum(WIDTHS))]


def test_no_tap_decides_by_its_size() -> None:
    """Of a class whose first tap is right and second wrong, a detector sees half."""
    made = _made("full")
    detector = Detector(made.record, made.fit)
    mixed = np.concatenate([_CENTRES[0, : WIDTHS[0]], _CENTRES[1, WIDTHS[0] :]])[None]
    to_classes = detector.similarities(detector.encode(_stretched(mixed)))[0]
    assert sorted(to_classes.argsort()[-2:]) == [0, 1]
    assert to_classes[0] > 0.3 and to_classes[1] > 0.3


def test_a_tap_that_does_not_tell_classes_apart_hardly_counts() -> None:
    x, y = _source(2000, 2)
    x[:, : WIDTHS[0]] = np.random.default_rng(8).standard_normal((2000, WIDTHS[0]), np.float32)
    made = fit([(x, y)], [x], WIDTHS, CLASSES, dimensions=64, form="full", seed=0)
    v = (x - made.fit.mean) / made.fit.scale
    first, second = ((v[:, part] ** 2).sum(1).mean() for part in _tap_slices())
    assert first < 0.01 * second


def test_prototypes_of_ten_classes_take_less_than_eight_kilobytes() -> None:
    assert _made("bits").fit.prototypes.nbytes <= 8000


@pytest.mark.parametrize("form", ["bits", "full"])
def test_a_detector_does_not_depend_on_how_the_source_was_cut_into_batches(form: Form) -> None:
    one, other = _made(form, batch=2000), _made(form, batch=77)
    assert np.array_equal(one.fit.mean, other.fit.mean)
    assert np.abs(one.fit.prototypes.astype(float) - other.fit.prototypes).max() <= (0 if form == "bits" else 0.05)


def test_one_sample_is_judged_as_in_a_batch() -> None:
    made = _made("bits")
    detector = Detector(made.record, made.fit)
    taps = _other(20)
    together = detector.similarities(detector.encode(taps)).max(1)
    assert [detector(tap).similarity for tap in taps] == together.tolist()


def test_taps_without_spread_are_no_trouble() -> None:
    x, y = np.ones((20, sum(WIDTHS)), np.float32), np.arange(20) % CLASSES
    made = fit([(x, y)], [x], WIDTHS, CLASSES, dimensions=64, form="full", seed=0)
    assert made.record.calibration.deviation > 0
    assert np.isfinite(Detector(made.record, made.fit)(x[0]).similarity)
