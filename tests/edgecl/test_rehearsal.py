"""Stored samples: never more than the budget, even over classes, by chance within them, and the same when replayed."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import rehearsal, tensors
from edgecl.errors import StoreError
from edgecl.rehearsal import OVERHEAD, Header, Rehearsal, Stored

SIZE = 4 + OVERHEAD
"""Of `_sample`, in the budget."""


def _sample(seq: int, label: int = 0, domain: int = 0) -> Stored:
    return Stored(seq, label, domain, np.array([seq, label, domain, 0]).astype(np.uint8))


def _filled(groups: Sequence[tuple[int, int]], room: int, seed: int = 0) -> Rehearsal:
    """A buffer that was given one sample after another of these domains and labels."""
    kept = Rehearsal(room * SIZE, seed)
    for seq, (domain, label) in enumerate(groups):
        kept.add(_sample(seq, label, domain))
    return kept


def _uneven(count: int, seed: int) -> list[tuple[int, int]]:
    """A class of half the stream, one of a quarter, and so on, in two domains one after the other."""
    labels = np.minimum(np.random.default_rng(seed).geometric(0.5, count) - 1, 5)
    return [(0 if i < count // 2 else 1, int(label)) for i, label in enumerate(labels)]


def _sizes(kept: Rehearsal) -> Counter[tuple[int, int]]:
    return Counter(stored.group for stored in kept)


# Which samples stay.


@pytest.mark.parametrize("seed", range(5))
def test_there_is_never_more_than_the_budget(seed: int) -> None:
    kept, random = Rehearsal(20 * SIZE + 100, seed), np.random.default_rng(seed)
    most = 0
    for seq, (domain, label) in enumerate(_uneven(400, seed)):
        answer = kept.add(_sample(seq, label, domain))
        assert answer == (kept.get(seq) is not None) == (seq in kept.seqs)
        if seq % 7 == 6:
            kept.remove(int(random.choice(kept.seqs)))
        if seq % 11 == 10:
            kept.relabel(int(random.choice(kept.seqs)), int(random.integers(6)))
        if seq % 101 == 100:
            kept.move(0, 1)
        assert kept.nbytes == sum(stored.nbytes for stored in kept) == SIZE * len(kept) <= kept.budget_bytes
        most = max(most, len(kept))
    assert most == 20, "the budget is used, too"


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_even_where_their_samples_last(seed: int) -> None:
    stream = _uneven(600, seed)
    kept, there = _sizes(_filled(stream, 60, seed)), Counter(stream)
    most = max(kept.values())
    assert sum(kept.values()) == 60 and len(kept) == len(there)
    for group, seen in there.items():
        assert kept[group] == seen or most - 1 <= kept[group] <= most


def test_the_largest_group_gives_way_and_the_lowest_of_equals() -> None:
    kept = _filled([(0, 1)] * 3 + [(0, 2)] * 4, 7)
    kept.add(_sample(100, 3))
    assert _sizes(kept) == {(0, 1): 3, (0, 2): 3, (0, 3): 1}
    kept.add(_sample(101, 3))
    assert _sizes(kept) == {(0, 1): 2, (0, 2): 3, (0, 3): 2}
    kept.add(_sample(102, 0, 1))
    assert _sizes(kept) == {(0, 1): 2, (0, 2): 2, (0, 3): 2, (1, 0): 1}


def test_what_does_not_fit_alone_is_refused() -> None:
    for budget in (0, SIZE - 1):
        kept = Rehearsal(budget, 0)
        assert not kept.add(_sample(0)) and len(kept) == kept.nbytes == 0
    kept = Rehearsal(SIZE, 0)
    assert kept.add(_sample(0)) and len(kept) == 1


SEEN, ROOM, RUNS = 40, 24, 400


def _chi_square(keep: Callable[[int], Sequence[int]]) -> float:
    """How far from equally likely it is that each of SEEN samples is kept, over RUNS runs.

    With m of N kept in every run, (N - 1) / N sum (O - E)^2 / (E (1 - m / N)) has the distribution chi-square of N - 1
    degrees of freedom; given here in its standard deviations from its mean.
    """
    kept = np.zeros(SEEN)
    for run in range(RUNS):
        kept[list(keep(run))] += 1
    expected = kept.mean()
    share = expected / RUNS
    statistic = (SEEN - 1) / SEEN * ((kept - expected) ** 2).sum() / (expected * (1 - share))
    return float((statistic - (SEEN - 1)) / np.sqrt(2 * (SEEN - 1)))


def _of_one_class(run: int) -> list[int]:
    """The samples kept of the SEEN of class 1, among as many of each of three others, each class at its own pace."""
    order = np.random.default_rng(7).permutation(np.repeat(np.arange(4), SEEN))
    seqs = iter(range(1000))
    kept = Rehearsal(ROOM * SIZE, run)
    for place, label in enumerate(order):
        # The samples of class 1 have the numbers 0, 1, ...; those of others are out of their way.
        kept.add(_sample(next(seqs) if label == 1 else 2000 + place, int(label)))
    return [stored.seq for stored in kept if stored.label == 1]


def test_every_sample_of_a_group_is_equally_likely_kept() -> None:
    """Within four deviations of chi-square, above and below."""
    assert len(_of_one_class(0)) == ROOM // 4
    assert abs(_chi_square(_of_one_class)) < 4


def test_that_bound_tells_other_buffers() -> None:
    """The last ones win; the first ones stay; and each newcomer replaces one at random."""

    def replaced(run: int) -> list[int]:
        random, kept = np.random.default_rng(run), list(range(ROOM // 4))
        for seq in range(ROOM // 4, SEEN):
            kept[random.integers(len(kept))] = seq
        return kept

    last = range(SEEN - ROOM // 4, SEEN)
    for keep in (lambda run: last, lambda run: range(ROOM // 4), replaced):
        assert _chi_square(keep) > 40


def test_what_is_kept_together_is_left_to_chance_too() -> None:
    """Two given samples of N are both among m with probability m (m - 1) / N (N - 1)."""
    m = ROOM // 4
    both = sum({0, 1} <= set(_of_one_class(run)) for run in range(RUNS))
    expected = RUNS * m * (m - 1) / (SEEN * (SEEN - 1))
    assert abs(both - expected) < 4 * np.sqrt(expected)


def test_a_replay_keeps_the_same_and_another_seed_does_not() -> None:
    stream = _uneven(300, 1)
    assert (one := _filled(stream, 20, 5).seqs) == _filled(stream, 20, 5).seqs and one != _filled(stream, 20, 6).seqs


def test_a_rank_is_the_same_everywhere() -> None:
    """Made once; another processor or numpy must give it too."""
    assert rehearsal.rank(3, 5) == RANK
    assert len({rehearsal.rank(seed, seq) for seed in range(20) for seq in range(20)}) == 400


RANK = 11130551364424282826


# One sample at a time.


def test_a_sample_is_kept_as_it_was_given() -> None:
    given = _sample(3, 1, 2)
    kept = Rehearsal(1 << 20, 0)
    kept.add(given)
    given.x[:] = 0
    found = kept.get(3)
    assert found and np.array_equal(found.x, [3, 1, 2, 0]) and (found.label, found.domain) == (1, 2)
    assert found.x.base is None and not found.x.flags.writeable
    assert kept.get(4) is None


def test_a_sample_is_taken_out_once() -> None:
    kept = _filled([(0, 0)] * 3, 3)
    taken = kept.remove(1)
    assert taken and taken.seq == 1 and list(kept.seqs) == [0, 2] and kept.nbytes == 2 * SIZE
    assert kept.remove(1) is None and kept.relabel(1, 2) is None and len(kept) == 2
    assert kept.add(_sample(1)) and list(kept.seqs) == [0, 1, 2]


def test_a_new_label_puts_a_sample_in_another_group() -> None:
    kept = _filled([(0, 0)] * 3 + [(0, 1)], 4)
    changed = kept.relabel(0, 1)
    assert changed is kept.get(0) and changed and changed.label == 1
    assert _sizes(kept) == {(0, 0): 2, (0, 1): 2} and kept.nbytes == 4 * SIZE
    kept.add(_sample(9, 2))
    assert _sizes(kept) == {(0, 0): 1, (0, 1): 2, (0, 2): 1}
    with pytest.raises(ValueError, match="class -1"):
        kept.relabel(1, -1)


def test_what_is_no_sample_is_refused() -> None:
    kept = _filled([(0, 0)], 9)
    x = np.zeros(4, np.uint8)
    for stored, message in (
        (_sample(0), "already"),
        (Stored(-1, 0, 0, x), "sample -1"),
        (Stored(1, -1, 0, x), "class -1"),
        (Stored(1, 0, -1, x), "domain -1"),
        (Stored(1, 0, 0, x.astype(np.float64)), "float64"),
        (Stored(1, 0, 0, np.full(4, np.nan, np.float32)), "not finite"),
        (Stored(1, 0, 0, x.astype(np.float32)), "among samples of uint8"),
        (Stored(1, 0, 0, x[:3]), "among samples of uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            kept.add(stored)
    assert kept.seqs == (0,) and kept.nbytes == SIZE


# Domains.


def test_domains_are_listed_moved_and_dropped() -> None:
    kept = _filled([(2, 0), (0, 1), (1, 1), (2, 1), (0, 0)], 9)
    assert [stored.seq for stored in kept.of(2)] == [0, 3] and kept.of(7) == ()
    kept.move(2, 0)
    assert [stored.seq for stored in kept.of(0)] == [0, 1, 3, 4] and kept.of(2) == ()
    assert _sizes(kept) == {(0, 0): 2, (0, 1): 2, (1, 1): 1} and kept.nbytes == 5 * SIZE
    kept.drop(0)
    assert kept.seqs == (2,) and kept.nbytes == SIZE
    kept.move(1, 1)
    kept.drop(0)
    assert kept.seqs == (2,)


def test_room_that_was_made_is_used() -> None:
    kept = _filled([(0, 0)] * 50 + [(1, 0)] * 50, 10)
    kept.drop(0)
    for seq in range(100, 105):
        assert kept.add(_sample(seq, 0, 1))
    assert len(kept) == 10


# Draws.


def test_a_draw_is_even_over_classes_and_has_nothing_twice() -> None:
    kept = _filled([(0, 0)] * 30 + [(0, 1)] * 9 + [(0, 2)] * 2 + [(1, 0)] * 9, 50)
    for key in range(20):
        drawn = kept.batch(0, 12, key)
        assert len({stored.seq for stored in drawn}) == 12 and {stored.domain for stored in drawn} == {0}
        assert Counter(stored.label for stored in drawn) == {0: 5, 1: 5, 2: 2}
    assert kept.batch(0, 0, 0) == kept.batch(5, 9, 0) == kept.batch(0, -1, 0) == []
    assert sorted(stored.seq for stored in kept.batch(0, 100, 0)) == list(range(41))


def test_a_draw_follows_its_key() -> None:
    stream = [(0, label) for label in (0, 1, 2)] * 20
    one, other = _filled(stream, 60, 4), Rehearsal(60 * SIZE, 4)
    for seq, (domain, label) in reversed(list(enumerate(stream))):
        other.add(_sample(seq, label, domain))

    def drawn(kept: Rehearsal, key: int) -> list[int]:
        return [stored.seq for stored in kept.batch(0, 10, key)]

    assert all(drawn(one, key) == drawn(other, key) for key in range(20)), "whatever order they came in"
    assert len({tuple(drawn(one, key)) for key in range(20)}) == 20


def test_all_samples_and_classes_have_their_turn() -> None:
    """10 of 15 + 5 + 5: four of one class, three of the others. Each number is binomial at most."""
    kept = _filled([(0, 0)] * 15 + [(0, 1)] * 5 + [(0, 2)] * 5, 25)
    runs = 900
    draws = [kept.batch(0, 10, key) for key in range(runs)]
    more = Counter(max(Counter(s.label for s in drawn).items(), key=lambda item: item[1])[0] for drawn in draws)
    assert all(abs(more[label] - runs / 3) < 4 * np.sqrt(runs * 2 / 9) for label in range(3))
    times = Counter(stored.seq for drawn in draws for stored in drawn)
    for seq in range(25):
        share = 10 / 3 / (15 if seq < 15 else 5)
        assert abs(times[seq] - runs * share) < 4 * np.sqrt(runs * share * (1 - share))


# Files.


def _written(kept: Rehearsal, path: Path) -> Path:
    path.write_bytes(rehearsal.dump(kept))
    return path


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_samples_are_read_as_they_were_written(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kept = Rehearsal(1 << 20, 2**64 - 1)
    for seq in (5, 2, 9):
        x = random.integers(0, 256, (4, 3, 3)).astype(np.uint8) if kind == "image" else random.random(7, np.float32)
        kept.add(Stored(seq, seq % 3, seq % 2, x))
    found = rehearsal.load(_written(kept, tmp_path / "kept"), 1 << 20)
    assert found.seqs == (2, 5, 9) and (found.seed, found.nbytes) == (kept.seed, kept.nbytes)
    for one, other in zip(kept, found, strict=True):
        assert one.group == other.group and np.array_equal(one.x, other.x) and one.x.dtype == other.x.dtype
        assert other.x.base is None
    assert rehearsal.dump(found) == rehearsal.dump(kept)


def test_a_run_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    stream = _uneven(300, 2)
    half = rehearsal.load(_written(_filled(stream[:150], 20, 3), tmp_path / "kept"), 20 * SIZE)
    for seq, (domain, label) in list(enumerate(stream))[150:]:
        half.add(_sample(seq, label, domain))
    whole = _filled(stream, 20, 3)
    assert rehearsal.dump(half) == rehearsal.dump(whole) and half.nbytes == whole.nbytes


def test_the_order_that_samples_came_in_leaves_no_trace() -> None:
    kept, other = Rehearsal(9 * SIZE, 0), Rehearsal(9 * SIZE, 0)
    for seq in range(9):
        kept.add(_sample(seq, seq % 2))
        other.add(_sample(8 - seq, (8 - seq) % 2))
    assert rehearsal.dump(kept) == rehearsal.dump(other)


def test_a_smaller_budget_takes_the_largest_groups(tmp_path: Path) -> None:
    path = _written(_filled([(0, 0)] * 9 + [(0, 1)] * 2, 11), tmp_path / "kept")
    assert _sizes(rehearsal.load(path, 5 * SIZE)) == {(0, 0): 3, (0, 1): 2}
    assert len(rehearsal.load(path, 0)) == 0


def test_nothing_is_read_as_nothing(tmp_path: Path) -> None:
    found = rehearsal.load(_written(Rehearsal(SIZE, 4), tmp_path / "kept"), SIZE)
    assert len(found) == 0 and found.seed == 4 and found.add(_sample(0))


Change = Callable[[dict[str, npt.NDArray[Any]]], object]

HOSTILE: dict[str, Change] = {
    "a tensor too few": lambda t: t.pop("label"),
    "a tensor too many": lambda t: t.update(more=np.zeros(1)),
    "a sample less": lambda t: t.update(x=t["x"][:-1]),
    "a label less": lambda t: t.update(label=t["label"][:-1]),
    "a number twice": lambda t: t["seq"].__setitem__(1, 0),
    "numbers that fall": lambda t: t.update(seq=t["seq"][::-1]),
    "a number below zero": lambda t: t["seq"].__setitem__(0, -1),
    "a label below zero": lambda t: t["label"].__setitem__(0, -1),
    "a domain below zero": lambda t: t["domain"].__setitem__(0, -1),
    "labels that are floats": lambda t: t.update(label=t["label"].astype(np.float64)),
    "numbers of two axes": lambda t: t.update(seq=t["seq"][:, None]),
    "no axis": lambda t: t.update(x=np.array(1, np.uint8)),
    "samples of another kind": lambda t: t.update(x=t["x"].astype(np.int64)),
    "samples of no known kind": lambda t: t.update(x=t["x"].astype(np.float16)),
    "a sample that is not finite": lambda t: t.update(x=np.full(t["x"].shape, np.inf, np.float32)),
}


@pytest.mark.parametrize("change", HOSTILE)
def test_a_file_of_no_samples_is_refused(change: str, tmp_path: Path) -> None:
    """Its digest is right: someone made it so."""
    kept = _filled([(0, 0), (0, 1), (1, 1)], 3)
    arrays: dict[str, npt.NDArray[Any]] = {
        "seq": np.arange(3),
        "label": np.array([0, 1, 1]),
        "domain": np.array([0, 0, 1]),
        "x": np.stack([stored.x for stored in kept]),
    }
    path = tmp_path / "kept"
    path.write_bytes(tensors.dump(Header(rehearsal.FORMAT, 0), arrays))
    assert path.read_bytes() == rehearsal.dump(kept)
    HOSTILE[change](arrays)
    path.write_bytes(tensors.dump(Header(rehearsal.FORMAT, 0), arrays))
    _refused(path)


@pytest.mark.parametrize("header", [Header("edgecl-head-1", 0), Header(rehearsal.FORMAT, -1)])
def test_a_header_of_something_else_is_refused(header: Header, tmp_path: Path) -> None:
    none = np.zeros(0, np.int64)
    path = tmp_path / "kept"
    path.write_bytes(tensors.dump(header, {"seq": none, "label": none, "domain": none, "x": none.astype(np.uint8)}))
    _refused(path)


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    """One bit of every byte, and every length."""
    path = tmp_path / "kept"
    content = _written(_filled([(0, 0), (0, 1), (1, 1)], 3), path).read_bytes()
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 1 << i % 8
        for bad in (bytes(damaged), content[:i]):
            path.write_bytes(bad)
            _refused(path)


def _refused(path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        rehearsal.load(path, 1 << 20)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and "delete it" in message and "\n" not in message
