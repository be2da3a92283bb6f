"""The router: new domains are found and founded, known ones recognised, and nothing happens to those left alone."""

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import hypervectors, shift
from edgecl.bank import KEPT, SOURCE, Bank, Domain, found, source_bank
from edgecl.hypervectors import Bits
from edgecl.manifest import Router as Record
from edgecl.router import Router, Turn
from edgecl.signature import Signatures, together
from edgecl.whitening import Whitening

FEATURES, DIMENSIONS = 32, 1024
SIGNATURES = Signatures(
    Whitening(np.zeros(FEATURES, np.float32), (np.eye(FEATURES, dtype=np.float32),)), DIMENSIONS, seed=5
)


def samples(place: int, count: int, seed: int) -> Bits:
    """Signatures of samples around one of the places; place 0 is the source."""
    centre = 1.5 * np.random.default_rng(1000 + place).standard_normal(FEATURES) * bool(place)
    away = np.random.default_rng(seed).standard_normal((count, FEATURES))
    return SIGNATURES((centre + away).astype(np.float32))


WHITE = np.array([0.5, -1.0], np.float32)
SOURCE_SAMPLES = samples(0, 2000, 1)
PROTOTYPE = together(SOURCE_SAMPLES[:1000])
CALIBRATION = shift.calibrate(hypervectors.bit_similarity(SOURCE_SAMPLES[1000:], PROTOTYPE[None])[:, 0])


def record(domains: int = 8, full: str = "merge") -> Record:
    return Record(dimensions=DIMENSIONS, seed=5, domains=domains, full=full, calibration=CALIBRATION)  # type: ignore[arg-type]


def router(domains: int = 8, full: str = "merge", hysteresis: int = 8, bank: Bank | None = None) -> Router:
    return Router(record(domains, full), bank or source_bank(CALIBRATION, PROTOTYPE, 2), hysteresis=hysteresis)


def follow(one: Router, places: Sequence[int], each: int, seed: int = 2) -> tuple[list[Turn], list[list[int]]]:
    """Samples of each place in turn: everything that turned, and where the samples of each went."""
    turns, went = [], []
    for number, place in enumerate(places):
        routes = [one.note(signature, WHITE) for signature in samples(place, each, seed * 100 + number)]
        turns += [turn for route in routes for turn in route.turns]
        went.append([route.domain for route in routes])
    return turns, went


def events(turns: Sequence[Turn]) -> list[tuple[str, int]]:
    return [(turn.event, turn.domain) for turn in turns]


def same(one: Domain, other: Domain) -> bool:
    return (
        (one.number, one.name, one.calibration) == (other.number, other.name, other.calibration)
        and np.array_equal(one.prototype, other.prototype)
        and np.array_equal(one.founders, other.founders)
        and np.array_equal(one.mean, other.mean)
    )


def test_the_source_is_hardly_ever_left() -> None:
    turns, _ = follow(router(), [SOURCE] * 10, 2000)
    assert len([turn for turn in turns if turn.event == "began"]) <= 1


def test_a_new_domain_is_found_founded_and_recognised() -> None:
    one = router()
    turns, went = follow(one, [0, 1, 0, 2, 1, 2, 0], 300)
    assert events(turns) == [
        ("began", 1),
        ("founded", 1),
        ("entered", 0),
        ("began", 2),
        ("founded", 2),
        ("entered", 1),
        ("entered", 2),
        ("entered", 0),
    ]
    for domain, visits in zip([0, 1, 0, 2, 1, 2, 0], went, strict=True):
        assert visits.count(domain) >= 300 - shift.WINDOW // 2
        assert set(visits[shift.WINDOW // 2 :]) == {domain}
    assert [domain.name for domain in one.bank.domains] == ["source", "domain-1", "domain-2"]
    assert one.bank.following == 3


def test_each_sample_of_a_mixed_stream_goes_to_its_own_domain() -> None:
    one = router(hysteresis=1)
    follow(one, [0, 1, 2], 300)
    known = np.concatenate([samples(place, 200, 77 + place) for place in (0, 1, 2)])
    order = np.random.default_rng(9).permutation(len(known))
    went = [one.note(known[i], WHITE).domain for i in order]
    assert np.mean([domain == i // 200 for domain, i in zip(went, order, strict=True)]) > 0.95
    assert len(one.bank.domains) == 3


def test_hysteresis_keeps_a_stream_on_the_border_from_flapping() -> None:
    def turned(hysteresis: int) -> int:
        one = router(hysteresis=hysteresis)
        follow(one, [0, 1], 300)
        both = [samples(0, 200, 7), samples(1, 200, 8)]
        return sum(len(one.note(both[i % 2][i // 2], WHITE).turns) for i in range(400))

    assert turned(8) < turned(1) / 10


def test_a_stream_that_goes_back_before_a_domain_is_founded_leaves_no_trace() -> None:
    one = router()
    before = one.bank
    follow(one, [0], 200)
    turns, _ = follow(one, [1], 40)
    assert events(turns) == [("began", 1)] and one.founding
    turns, went = follow(one, [0], 100)
    assert events(turns) == [("returned", 1), ("entered", 0)]
    assert one.bank is before and not one.founding and went[0][-1] == SOURCE
    turns, _ = follow(one, [1], 300)
    assert events(turns) == [("began", 2), ("founded", 2)], "in a run, no number means two domains"


def test_growing_leaves_every_other_domain_as_it_is() -> None:
    one = router()
    follow(one, [0, 1, 0], 300)
    before = one.bank
    follow(one, [2, 1, 3, 0, 2], 300)
    assert len(one.bank.domains) == 4
    for domain in before.domains:
        assert same(domain, one.bank[domain.number])


def test_a_full_bank_refuses_and_serves_the_new_domain_all_the_same() -> None:
    one = router(domains=2, full="refuse")
    turns, went = follow(one, [0, 1, 2, 1, 2], 300)
    assert [event for event in events(turns) if event[0] != "entered"] == [
        ("began", 1),
        ("founded", 1),
        ("began", 2),
        ("refused", 2),
        ("returned", 2),
        ("began", 3),
        ("refused", 3),
    ]
    assert went[2][-1] == 2 and 2 not in one.bank and went[3][-1] == 1


def test_a_full_bank_merges_the_two_most_alike() -> None:
    one = router(domains=3)
    turns, _ = follow(one, [0, 1, 2, 3], 300)
    merged = [turn for turn in turns if turn.event == "merged"]
    assert len(merged) == 1 and len(one.bank.domains) == 3
    assert merged[0].other is not None and merged[0].other < merged[0].domain
    assert merged[0].bank is one.bank
    turns, went = follow(one, [1, 2, 3], 300)
    instead = {merged[0].domain: merged[0].other}
    assert not [turn for turn in turns if turn.event == "began"], "all three are known still"
    for place, visits in zip((1, 2, 3), went, strict=True):
        assert visits[-1] == instead.get(place, place)


def test_the_source_is_never_merged() -> None:
    one = router(domains=2)
    follow(one, [0, 1, 2, 3, 4], 300)
    assert [domain.number for domain in one.bank.domains] == [0, 1]
    assert same(one.bank[SOURCE], source_bank(CALIBRATION, PROTOTYPE, 2)[SOURCE])


def test_any_sequence_of_operations_touches_what_it_names_alone() -> None:
    chance = random.Random(4)
    bank = source_bank(CALIBRATION, PROTOTYPE, 2)
    names = iter(range(10_000))
    for step in range(400):
        others = [domain.number for domain in bank.domains if domain.number != SOURCE]
        choice = chance.choice(["grow", "merge", "drop", "rename"])
        touched: set[int] = set()
        before = bank
        if choice == "grow" and len(others) < 12:
            bank = bank.grown(
                found(bank.following, f"d{next(names)}", samples(chance.randrange(1, 50), 16, step), WHITE[None])
            )
        elif choice == "merge" and len(others) >= 2:
            one, other = chance.sample(others, 2)
            touched, bank = {one, other}, bank.merged(one, other)
            assert max(one, other) not in bank and len(bank[min(one, other)].founders) <= KEPT
        elif choice == "drop" and others:
            touched = {chance.choice(others)}
            bank = bank.without(min(touched))
        elif choice == "rename" and others:
            touched = {chance.choice(others)}
            bank = bank.renamed(min(touched), f"d{next(names)}")
        for domain in before.domains:
            if domain.number not in touched:
                assert same(domain, bank[domain.number])
        assert bank.following >= before.following


def test_a_router_goes_on_with_another_bank() -> None:
    one = router()
    follow(one, [0, 1, 2], 300)
    assert one.active == 2
    one.replace(one.bank.merged(1, 2), {2: 1})
    assert one.active == 1
    one.replace(one.bank.without(1), {})
    assert one.active == SOURCE
    turns, _ = follow(one, [2], 300)
    assert events(turns) == [("began", 3), ("founded", 3)], "what was dropped is new again, under a new number"


def test_a_bank_finds_domains_by_name_and_number() -> None:
    bank = source_bank(CALIBRATION, PROTOTYPE, 2).grown(found(1, "night", samples(1, 32, 3), WHITE[None]))
    assert bank.named("night").number == bank.named("1").number == 1
    assert 1 in bank and 2 not in bank
    for missing in ("day", "2"):
        with pytest.raises(KeyError):
            bank.named(missing)
    with pytest.raises(ValueError, match="no two"):
        bank.closest()


def test_a_signature_sees_distance_and_not_the_direction_alone() -> None:
    """Two places in one direction from the source, one twice as far."""
    direction = np.random.default_rng(3).standard_normal(FEATURES)
    near, far = ((k * direction).astype(np.float32) for k in (1, 2))
    noise = np.random.default_rng(4).standard_normal((200, FEATURES)).astype(np.float32)
    prototypes = np.stack([together(SIGNATURES(place + noise[:100])) for place in (near, far)])
    for place, centre in enumerate((near, far)):
        alike = hypervectors.bit_similarity(SIGNATURES(centre + noise[100:]), prototypes)
        assert (alike.argmax(1) == place).mean() > 0.9


def test_most_of_no_more_than_half_is_not_most() -> None:
    rows: npt.NDArray[np.uint8] = np.packbits([[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 0]], axis=1)
    assert np.unpackbits(together(rows)).tolist() == [1, 0, 1, 0, 0, 0, 0, 0]


def test_signatures_are_the_same_everywhere() -> None:
    v = (np.arange(FEATURES, dtype=np.float32) - 16) / 8
    bits = SIGNATURES(np.stack([v, v * 3, -v]))
    assert hashlib.sha256(bits.tobytes()).hexdigest()[:16] == DIGEST


DIGEST = "58b946470c20ef44"
