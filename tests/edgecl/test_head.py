"""Heads from sums: what the formulas say, whatever the order of the samples, and files that are refused when odd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from edgecl import head, tensors
from edgecl.errors import StoreError
from edgecl.head import HEADS, LARGEST, Header, Linear, Space, Sums

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

D, C = 5, 3
FORMS = sorted(HEADS)


def _empty(form: str, classes: int = C) -> Sums:
    return HEADS[form].empty(D, classes, 7)


def _samples(count: int, seed: int = 0) -> tuple[Doubles, Ints]:
    """Classes apart from each other, of uneven size."""
    random = np.random.default_rng(seed)
    y = np.minimum(random.geometric(0.5, count) - 1, C - 1)
    x = random.standard_normal((count, D)) + 2 * np.random.default_rng(99).standard_normal((C, D))[y]
    return x, y


def _apart(one: Linear, other: Linear) -> float:
    x, _ = _samples(50, 5)
    a, b = one(x), other(x)
    there = np.isfinite(a)
    assert np.array_equal(there, np.isfinite(b)), "the same classes have samples"
    return float(np.abs(a[there] - b[there]).max())


def _same(one: Sums, other: Sums) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("gram", "counts", "sums"))


def _s(rows: int, columns: int, k: float) -> Doubles:
    t = np.arange(1, rows * columns + 1, dtype=np.float64)
    return np.sin(k * t + 0.05 * t * t).reshape(rows, columns)


# What the formulas say.


def test_lda_gives_the_numbers_of_fsa() -> None:
    """Computed once by a program of its own from the formulas, to five digits."""
    x, y = _s(8, 3, 0.7), np.array([0, 0, 0, 1, 1, 1, 2, 2])
    found = HEADS["lda"].empty(3, 3, 0).add(x, y).solve()
    rows = [[0.25390, 0.12815, -0.13171], [-0.45102, 0.45840, 0.05668], [0.25785, -0.10684, 0.02913]]
    assert np.abs(found.weight.T - rows).max() < 1e-5
    assert np.abs(-2 * found.bias - [0.14220, 0.74777, 0.14083]).max() < 1e-5
    assert np.abs(found(x[:1])[0] - [0.15662, -0.19150, 0.01480]).max() < 1e-5


def test_lda_of_a_stream_is_that_of_all_samples_at_once() -> None:
    x, y = _samples(200)
    sums = _empty("lda")
    for i in range(len(x)):
        sums = sums.add(x[i : i + 1], y[i : i + 1])
    mu = np.stack([x[y == c].mean(0) for c in range(C)])
    weight = np.linalg.solve(np.cov(x.T) + np.eye(D), mu.T)
    assert np.abs(sums.solve().weight - weight).max() < 1e-9
    assert np.abs(sums.solve().bias + 0.5 * np.diag(mu @ weight)).max() < 1e-9


def test_ridge_is_least_squares_with_a_penalty() -> None:
    """The solution of the normal equations is that of the samples with sqrt(strength) I below them."""
    x, y = _samples(200)
    found = _empty("ridge").add(x, y).solve()
    projection = head._projection(found.space)
    assert set(np.unique(np.abs(projection))) == {1 / np.sqrt(D)}
    h = np.maximum(x @ projection, 0)
    penalty = np.sqrt(head.STRENGTH * (h * h).sum() / head.WIDTH) * np.eye(head.WIDTH)
    targets = np.vstack([np.eye(C)[y], np.zeros((head.WIDTH, C))])
    weight = np.linalg.lstsq(np.vstack([h, penalty]), targets, rcond=None)[0]
    assert np.abs(found.weight - weight).max() < 1e-9
    assert np.abs(found(x) - h @ weight).max() < 1e-9


def test_less_strength_fits_closer() -> None:
    x, y = _samples(200)
    sums = _empty("ridge").add(x, y)
    errors = [((head.ridge(sums, strength)(x) - np.eye(C)[y]) ** 2).mean() for strength in (0.1, 1.0, 10.0)]
    assert errors == sorted(errors) and errors[0] < 0.9 * errors[2]


@pytest.mark.parametrize("form", FORMS)
def test_a_head_tells_classes_apart(form: str) -> None:
    linear = _empty(form).add(*_samples(300)).solve()
    x, y = _samples(300, 1)
    assert linear(x).shape == (300, C) and linear(x).dtype == np.float64
    assert (linear(x).argmax(1) == y).mean() > 0.85 > (y == 0).mean() + 0.2


def test_a_seed_gives_the_same_random_features() -> None:
    space = HEADS["ridge"].empty(D, C, 1).space
    x, _ = _samples(3)
    assert np.array_equal(space(x), _seeded(space, 1)(x))
    assert not np.array_equal(space(x), _seeded(space, 2)(x))


def _seeded(space: Space, seed: int) -> Space:
    return msgspec.structs.replace(space, seed=seed)


# Whatever the order.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_any_batches_give_the_same_head(form: str, seed: int) -> None:
    x, y = _samples(120, seed)
    want, random = _empty(form).add(x, y).solve(), np.random.default_rng(seed)
    sums, order = _empty(form), random.permutation(len(x))
    for some in np.split(order, np.sort(random.integers(0, len(x), 12))):  # empty batches among them
        sums = sums.add(x[some], y[some])
    assert sums.n == 120 and _apart(sums.solve(), want) < 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_taken_back_was_never_there(form: str, seed: int) -> None:
    (x, y), (u, v) = _samples(60, seed), _samples(30, seed + 50)
    want, at = _empty(form).add(x, y), np.random.default_rng(seed).permutation(30)
    both = want.add(u[:20], v[:20]).add(u[20:], v[20:])
    assert _apart(both.solve(), want.solve()) > 1e-3
    back = both.remove(u[at], v[at])
    assert np.array_equal(back.counts, want.counts) and _apart(back.solve(), want.solve()) < 1e-6
    assert _same(back.remove(x, y), _empty(form)), "what has no samples is zero, without what rounding leaves"


@pytest.mark.parametrize("form", FORMS)
def test_a_corrected_label_is_as_good_as_a_right_one(form: str) -> None:
    x, y = _samples(60)
    wrong = y.copy()
    wrong[7] = (y[7] + 1) % C
    corrected = _empty(form).add(x, wrong).remove(x[7:8], wrong[7:8]).add(x[7:8], y[7:8])
    assert _apart(corrected.solve(), _empty(form).add(x, y).solve()) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_a_sum_of_two_is_the_head_of_both(form: str) -> None:
    (x, y), (u, v) = _samples(60), _samples(30, 3)
    one, other = _empty(form).add(x, y), _empty(form, C + 2).add(u, v + 2)
    want = _empty(form, C + 2).add(x, y).add(u, v + 2).solve()
    for found in (one.plus(other), other.plus(one)):
        assert np.array_equal(np.isfinite(found.solve().bias), np.isfinite(want.bias))
        assert np.abs(found.solve().weight - want.weight).max() < 1e-9


def test_sums_of_other_features_are_not_summed() -> None:
    for other in (_empty("ridge"), HEADS["lda"].empty(D + 1, C, 7)):
        with pytest.raises(ValueError, match="have no sum"):
            _empty("lda").plus(other)
    with pytest.raises(ValueError, match="have no sum"):
        _empty("ridge").plus(HEADS["ridge"].empty(D, C, 8))


@pytest.mark.parametrize("form", FORMS)
def test_new_classes_change_nothing_of_the_old(form: str) -> None:
    x, y = _samples(60)
    old = _empty(form).add(x, y)
    new = old.widen(C + 2)
    assert new.classes == C + 2 and np.array_equal(new.gram, old.gram)
    assert np.array_equal(new.sums[:C], old.sums) and np.array_equal(new.counts, [*old.counts, 0, 0])
    assert np.abs(new.solve()(x)[:, :C] - old.solve()(x)).max() < 1e-9 and (new.solve()(x)[:, C:] == -np.inf).all()
    taught = new.add(x[:9] + 8, np.full(9, C + 1)).solve()
    assert (taught(x[:9] + 8).argmax(1) == C + 1).all() and (taught(x)[:, C] == -np.inf).all()
    with pytest.raises(ValueError, match="5 already"):
        new.widen(C + 1)


@pytest.mark.parametrize("form", FORMS)
def test_sums_are_never_changed(form: str) -> None:
    x, y = _samples(60)
    sums = _empty(form).add(x, y)
    before = head.dump(sums)
    sums.add(x, y), sums.remove(x[:5], y[:5]), sums.widen(9), sums.plus(sums), sums.upon(sums).solve()
    assert head.dump(sums) == before
    with pytest.raises(ValueError, match="read-only"):
        sums.gram[0, 0] = 1


@pytest.mark.parametrize("form", FORMS)
def test_a_head_is_solved_once(form: str) -> None:
    sums = _empty(form).add(*_samples(60))
    assert sums.solve() is sums.solve()
    assert sums.add(*_samples(1)).solve() is not sums.solve()


@pytest.mark.parametrize("form", FORMS)
def test_few_samples_give_a_head_too(form: str) -> None:
    x, _ = _samples(2)
    assert (_empty(form).solve()(x) == -np.inf).all()
    one = _empty(form).add(x[:1], np.array([1])).solve()
    assert (one(x).argmax(1) == 1).all() and np.isfinite(one(x)[:, 1]).all()
    zeros = _empty(form).add(np.zeros((4, D)), np.array([0, 0, 2, 2])).solve()
    assert np.array_equal(zeros(x), [[0, -np.inf, 0]] * 2)


def test_lda_of_one_sample_has_no_covariance() -> None:
    x, _ = _samples(1)
    assert np.allclose(_empty("lda").add(x, np.array([1])).solve().weight[:, 1], x[0], atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_fault_of_one_channel_is_taken_back_too(form: str) -> None:
    x, y = _samples(60)
    sums, fault = _empty(form).add(x, y), np.full((1, D), 1e30)
    assert np.array_equal(sums.space(fault), sums.space(np.full((1, D), LARGEST)))
    back = sums.add(fault, y[:1]).remove(fault, y[:1])
    assert _apart(back.solve(), sums.solve()) < 1e-5


def test_bytes_are_those_of_the_formula() -> None:
    assert _empty("lda").nbytes == 8 * (D * D + C * D + C)
    assert _empty("ridge").nbytes == 8 * (512 * 512 + C * 512 + C)


# What cannot be.


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_sample_is_refused(form: str) -> None:
    x, y = _samples(4)
    sums = _empty(form).add(x, y)
    bad = x.copy()
    bad[2, 3] = np.nan
    cases: list[tuple[Any, Any, str]] = [
        (x[0], y, "features"),
        (x[:, :4], y, "features"),
        (bad, y, "not finite"),
        (x, y[:3], "labels"),
        (x, y.astype(np.float64), "labels"),
        (x, np.array([0, 1, 2, 3]), "labels from 0 to 3"),
        (x, np.array([0, -1, 2, 1]), "labels from -1"),
    ]
    for change in (sums.add, sums.remove):
        for features, labels, message in cases:
            with pytest.raises(ValueError, match=message):
                change(features, labels)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_there_is_not_taken(form: str) -> None:
    x, _ = _samples(4)
    sums = _empty(form).add(x, np.array([0, 0, 0, 1]))
    with pytest.raises(ValueError, match="2 samples of class 1 to take from 1"):
        sums.remove(x[:3], np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="never added"):
        sums.remove(10 * x[:1], np.array([0]))


# What a head starts from.


@pytest.mark.parametrize("form", FORMS)
def test_a_head_starts_as_its_prior(form: str) -> None:
    source = _empty(form).add(*_samples(1000))
    x, _ = _samples(50, 9)
    start = _empty(form, C + 1).upon(source, 300).solve()
    assert np.array_equal(start(x)[:, :C].argmax(1), source.solve()(x).argmax(1))
    assert np.abs(start(x)[:, :C] - source.solve()(x)).max() < 0.02 and (start(x)[:, C] == -np.inf).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_prior_weighs_as_so_many_samples(form: str) -> None:
    (x, y), (u, v) = _samples(100), _samples(40, 3)
    source = _empty(form).add(np.tile(x, (6, 1)), np.tile(y, 6))
    found = _empty(form).add(u, v).upon(source, 200).solve()
    twice = _empty(form).add(np.tile(x, (2, 1)), np.tile(y, 2)).add(u, v).solve()
    assert _apart(found, twice) < 1e-9 < _apart(found, source.add(u, v).solve())


def test_a_moved_prior_is_that_of_moved_samples() -> None:
    (x, y), (u, v) = _samples(100), _samples(40, 3)
    mean = np.arange(D, dtype=np.float32)
    found = _empty("lda").add(u, v).upon(_empty("lda").add(x, y), 100, mean).solve()
    want = _empty("lda").add(x - x.mean(0) + mean, y).add(u, v).solve()
    assert _apart(found, want) < 1e-9 < _apart(found, _empty("lda").add(x, y).add(u, v).solve())


def test_random_features_do_not_move() -> None:
    source = _empty("ridge").add(*_samples(100))
    mean = np.ones(D, np.float32)
    assert _apart(_empty("ridge").upon(source, 9, mean).solve(), _empty("ridge").upon(source, 9).solve()) == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_prior_stays_and_is_not_counted(form: str) -> None:
    (x, y), source = _samples(40, 3), _empty(form).add(*_samples(100))
    begun = _empty(form).upon(source)
    full = begun.add(x, y).widen(C + 1)
    assert full.prior is begun.prior and (full.n, full.nbytes) == (40, _empty(form, C + 1).nbytes)
    assert _apart(full.remove(x, y).solve(), begun.widen(C + 1).solve()) == 0
    for prior in (_empty(form), source.widen(C + 1), HEADS[form].empty(D + 1, C, 7)):
        with pytest.raises(ValueError, match="cannot start"):
            begun.upon(prior)
    for weight in (0, -1, np.inf, np.nan):
        with pytest.raises(ValueError, match="a weight of"):
            begun.upon(source, weight)
    with pytest.raises(ValueError, match="not finite"):
        begun.upon(source, 9, np.full(D, np.nan))


# Files.


@pytest.mark.parametrize("form", FORMS)
def test_a_head_is_read_as_it_was_written(form: str, tmp_path: Path) -> None:
    sums = _empty(form).add(*_samples(60)).widen(C + 1)
    path = tmp_path / "head"
    path.write_bytes(head.dump(sums))
    source = _empty(form).add(*_samples(100))
    found = head.load(path, _empty(form).upon(source))
    assert _same(found, sums) and found.space == sums.space
    assert found.prior and found.prior.sums is source
    assert head.dump(found) == head.dump(sums) == path.read_bytes()
    with pytest.raises(ValueError, match="read-only"):
        found.sums[0, 0] = 1


def test_nothing_is_read_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "head").write_bytes(head.dump(_empty("lda")))
    assert _same(head.load(tmp_path / "head", _empty("lda")), _empty("lda"))


Change = Callable[[dict[str, npt.NDArray[Any]]], object]

HOSTILE: dict[str, Change] = {
    "a tensor too few": lambda t: t.pop("sums"),
    "a tensor too many": lambda t: t.update(more=np.zeros(1)),
    "a negative count": lambda t: t.update(counts=np.array([70, -11, 1])),
    "counts of other samples": lambda t: t.update(counts=t["counts"] + [1, 0, 0]),
    "counts that wrap around": lambda t: t.update(counts=np.array([2**63 - 1, 2**63 - 1, 62])),
    "counts that are floats": lambda t: t.update(counts=t["counts"].astype(np.float64)),
    "counts of two axes": lambda t: t.update(counts=t["counts"][None]),
    "no count": lambda t: t.update(counts=np.array(60)),
    "a class less": lambda t: t.update(counts=np.array([30, 30]), sums=t["sums"][:2]),
    "a class without its sum": lambda t: t.update(sums=t["sums"][:2]),
    "sums without samples": lambda t: t.update(counts=np.array([60, 0, 0])),
    "sums that are float32": lambda t: t.update(sums=t["sums"].astype(np.float32)),
    "another width": lambda t: t.update(gram=t["gram"][:4, :4], sums=t["sums"][:, :4]),
    "sums that are not finite": lambda t: t["sums"].__setitem__((0, 0), np.nan),
    "squares that are not finite": lambda t: t["gram"].__setitem__((0, 0), np.inf),
    "squares that differ across the diagonal": lambda t: t["gram"].__setitem__((0, 1), 1e-3),
    "squares below zero": lambda t: t["gram"].__setitem__((2, 2), -1e6),
    "bytes of no known kind": lambda t: t.update(gram=t["gram"].astype(np.float16)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", HOSTILE)
def test_a_file_that_no_samples_give_is_refused(form: str, change: str, tmp_path: Path) -> None:
    """Its digest is right: someone made it so."""
    sums = _empty(form).add(*_samples(60))
    arrays: dict[str, npt.NDArray[Any]] = {"gram": sums.gram.copy(), "counts": sums.counts, "sums": sums.sums.copy()}
    path, header = tmp_path / "head", Header(head.FORMAT, sums.space, 60)
    path.write_bytes(tensors.dump(header, arrays))
    head.load(path, _empty(form))
    HOSTILE[change](arrays)
    path.write_bytes(tensors.dump(header, arrays))
    _refused(path, _empty(form))


@pytest.mark.parametrize(
    "header",
    [
        Header("edgecl-head-2", _empty("lda").space, 60),
        Header(head.FORMAT, _empty("lda").space, 61),
        Header(head.FORMAT, Space("lda", D, D, 1), 60),
        Header(head.FORMAT, Space("ridge", D, D, 0), 60),
        Header(head.FORMAT, Space("pca", D, D), 60),  # type: ignore[arg-type]
    ],
)
def test_a_header_of_another_head_is_refused(header: Header, tmp_path: Path) -> None:
    sums = _empty("lda").add(*_samples(60))
    path = tmp_path / "head"
    path.write_bytes(tensors.dump(header, {"gram": sums.gram, "counts": sums.counts, "sums": sums.sums}))
    _refused(path, _empty("lda"))


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    """One bit of every byte, and every length."""
    content, path = head.dump(_empty("lda").add(*_samples(60))), tmp_path / "head"
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 1 << i % 8
        for bad in (bytes(damaged), content[:i]):
            path.write_bytes(bad)
            _refused(path, _empty("lda"))
    path.write_bytes(content + b"\0")
    _refused(path, _empty("lda"))


def test_files_that_are_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, good = tmp_path / "head", head.dump(_empty("lda").add(*_samples(60)))
    _refused(path, _empty("lda"))
    _refused(tmp_path, _empty("lda"))
    plain = safetensors.numpy.save({"gram": np.zeros(3)})
    for content in (b"", b"\xff" * 8, b"\xff" * 64, (1 << 40).to_bytes(8, "little") + b"{}", plain):
        path.write_bytes(content)
        _refused(path, _empty("lda"))
    path.write_bytes(good)
    head.load(path, _empty("lda"))
    for limit in ("MAX_BYTES", "MAX_HEADER_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(tensors, limit, 100)
            _refused(path, _empty("lda"))


def _refused(path: Path, like: Sums) -> None:
    with pytest.raises(StoreError) as refused:
        head.load(path, like)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and ("delete it" in message or "give another" in message)
    assert "\n" not in message
