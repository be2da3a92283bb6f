"""A loop that routes: new domains adapt on their own, known ones are reused as they were, the source stays as built."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from edgecl import journal
from edgecl.bank import SOURCE
from edgecl.bundle import open_bundle, read_state
from edgecl.checkpoints import Checkpoints, Learned
from edgecl.errors import BundleError
from edgecl.journal import Checkpoint, Domain, Prediction, Record, Run, Update
from edgecl.loop import Loop
from edgecl.router import FOUNDERS
from edgecl.settings import SettingError, Settings

Pixels = npt.NDArray[np.uint8]
MakeBundle = Callable[..., Path]
Kind = TypeVar("Kind", bound=Record)

SYNC = Settings(sync=True, wait=True, domains=8)
WAIT = Settings(wait=True, domains=8)
MODES = pytest.mark.parametrize("settings", [SYNC, WAIT], ids=["sync", "background"])


def noise(count: int, seed: int, low: int = 0, high: int = 256) -> Pixels:
    """Images of noise: in all grey levels, they are the source of `looped`."""
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3)).astype(np.uint8)


def dark(count: int, seed: int) -> Pixels:
    return noise(count, seed, 0, 60)


def bright(count: int, seed: int) -> Pixels:
    return noise(count, seed, 200, 256)


def only(kind: type[Kind], state: Path) -> list[Kind]:
    return [record for record in journal.read(state / "journal") if isinstance(record, kind)]


def newest(bundle: Path, state: Path) -> Learned:
    with open_bundle(bundle) as opened:
        found = Checkpoints(state / "learned" / "looped").newest(opened.manifest.layout)
    assert found
    return found.learned


def domains(state: Path) -> list[tuple[int, int]]:
    return [(record.what, record.domain) for record in only(Domain, state)]


@MODES
def test_each_domain_learns_from_its_own_samples_alone(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        for stretch in (noise(100, 1), dark(200, 2), noise(50, 3), bright(200, 4), dark(50, 5)):
            for x in stretch:
                loop.predict(x)
        assert loop.domain == "domain-1"
    assert domains(tmp_path) == [
        (Domain.BEGAN, 1),
        (Domain.FOUNDED, 1),
        (Domain.ENTERED, 0),
        (Domain.BEGAN, 2),
        (Domain.FOUNDED, 2),
        (Domain.ENTERED, 1),
    ]
    answered = {record.seq: record.domain for record in only(Prediction, tmp_path)}
    updates = only(Update, tmp_path)
    assert {record.domain for record in updates} == {1, 2}
    for record in updates:
        assert answered[record.first_seq] == answered[record.last_seq] == record.domain
    learned = newest(looped, tmp_path)
    with open_bundle(looped) as opened:
        assert learned.states[SOURCE].digest == read_state(opened).digest
    for number in (1, 2):
        last = [record for record in updates if record.domain == number][-1]
        assert (learned.states[number].digest, learned.states[number].step) == (last.digest, last.step)
        assert last.step == sum(record.domain == number for record in updates)


@MODES
def test_a_known_domain_is_answered_with_its_state_as_it_was(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        for x in (*dark(300, 2), *noise(200, 3)):
            loop.predict(x)
    left = newest(looped, tmp_path).states[1]
    with Loop(looped, tmp_path, settings) as loop:
        assert loop.domain == "source"
        for x in dark(30, 6):
            loop.predict(x)
        assert loop.domain == "domain-1"
    came = [record for record in only(Prediction, tmp_path) if record.seq >= 500 and record.domain == 1]
    assert came[0].step == left.step > 0
    first = next(record for record in only(Update, tmp_path) if record.first_seq >= 500)
    assert first.step == left.step + 1


def test_growing_and_adapting_leave_the_files_of_other_domains_as_they_are(looped: Path, tmp_path: Path) -> None:
    """What a checkpoint names by its sha256 is the same bytes."""
    with Loop(looped, tmp_path, Settings(sync=True, domains=8, checkpoint_every=1000)) as loop:
        for x in dark(200, 2):
            loop.predict(x)
        before = loop.checkpoint
        assert before
        kept = before.read_text()
        for x in (*noise(30, 1), *bright(200, 3), *noise(30, 4)):
            loop.predict(x)
    learned = newest(looped, tmp_path)
    assert [domain.number for domain in learned.bank.domains] == [0, 1, 2]
    assert learned.states[1].step > 0
    assert loop.checkpoint != before
    names = [line for line in kept.splitlines() if '"signature"' in line]
    after = [line for line in (loop.checkpoint or Path()).read_text().splitlines() if '"signature"' in line]
    assert after[: len(names)] == names and len(after) == 3


def test_a_domain_that_was_not_founded_is_forgotten(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        for x in (*noise(100, 1), *dark(FOUNDERS // 2, 2), *noise(100, 3)):
            loop.predict(x)
    assert domains(tmp_path) == [(Domain.BEGAN, 1), (Domain.RETURNED, 1), (Domain.ENTERED, 0)]
    assert [record.domain for record in only(Update, tmp_path)], "it adapted while it lasted"
    with open_bundle(looped) as opened:
        built = read_state(opened).digest
    assert {kept.digest for kept in newest(looped, tmp_path).states.values()} == {built}


@MODES
def test_a_full_bank_merges(looped: Path, tmp_path: Path, settings: Settings) -> None:
    stretches = (dark(200, 2), bright(200, 3))
    with Loop(looped, tmp_path, Settings(sync=settings.sync, wait=True, domains=2)) as loop:
        for x in np.concatenate(stretches):
            loop.predict(x)
    assert (Domain.MERGED, 2) in domains(tmp_path)
    learned = newest(looped, tmp_path)
    assert [domain.number for domain in learned.bank.domains] == [0, 1] and set(learned.states) == {0, 1}
    kept = only(Checkpoint, tmp_path)[-1].domains
    assert [(one.domain, one.digest) for one in kept] == [(n, learned.states[n].digest) for n in (0, 1)]


def test_a_run_begins_in_the_domain_it_was_left_in(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        for x in dark(200, 2):
            loop.predict(x)
        left = loop.state
    with Loop(looped, tmp_path, SYNC) as loop:
        assert (loop.domain, loop.state.digest) == ("domain-1", left.digest)
        assert loop.predict(dark(1, 9)[0]).domain == "domain-1"
    run = only(Run, tmp_path)[-1]
    assert (run.domain, run.digest, run.step) == (1, left.digest, left.step)


def test_without_routing_the_bank_is_kept_and_not_used(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        for x in dark(200, 2):
            loop.predict(x)
    before = newest(looped, tmp_path)
    with Loop(looped, tmp_path, Settings(sync=True)) as loop:
        assert {loop.predict(x).domain for x in dark(40, 3)} == {"source"}
    after = newest(looped, tmp_path)
    assert after.states[1].digest == before.states[1].digest
    assert after.states[SOURCE].step == before.states[SOURCE].step + 10


def test_no_taps_no_routing(make_bundle: MakeBundle, tmp_path: Path) -> None:
    plain = make_bundle(tmp_path / "plain.ecl", router=None, head=None)
    with pytest.raises(SettingError, match="domains 2: looped names no taps to tell them by; give 1"):
        Loop(plain, tmp_path / "state", Settings(domains=2))
    with Loop(plain, tmp_path / "state", Settings(sync=True)) as loop:
        assert loop.predict(dark(1, 2)[0]).domain == "source"
    with Loop(plain, tmp_path / "state", Settings(sync=True)) as loop:
        assert not loop.resumed or [domain.number for domain in loop.resumed.learned.bank.domains] == [0]


@MODES
def test_the_place_goes_on_where_nothing_waits_to_be_learned(looped: Path, tmp_path: Path, settings: Settings) -> None:
    """The source does not adapt while samples are routed, and its samples need not be answered again."""
    with Loop(looped, tmp_path, settings, source="a") as loop:
        for x in noise(50, 1):
            loop.predict(x)
        loop.close("stopped")
    with Loop(looped, tmp_path, settings, source="a") as loop:
        assert loop.place.position == 50


def test_numbers_of_kept_samples_are_not_given_again(looped: Path, tmp_path: Path) -> None:
    """A power cut may lose the end of the journal, and not that of the ring."""
    with Loop(looped, tmp_path, Settings(sync=True, keep_bytes=1 << 20)) as loop:
        for x in noise(50, 1):
            loop.predict(x)
    for segment in (tmp_path / "journal").iterdir():
        segment.unlink()
    for checkpoint in (tmp_path / "learned").rglob("*.json"):
        checkpoint.unlink()
    with Loop(looped, tmp_path, Settings(sync=True)) as loop:
        assert loop.predict(noise(1, 2)[0]).seq == 50


def test_domains_that_were_told_by_other_taps_are_refused(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    with open_bundle(looped) as opened:
        record = opened.manifest.router
    assert record
    other = make_bundle(tmp_path / "other.ecl", router=msgspec.structs.replace(record, seed=9))
    with Loop(looped, tmp_path / "state", SYNC) as loop:
        for x in noise(20, 1):
            loop.predict(x)
    with Loop(other, tmp_path / "state", SYNC) as loop:  # it knows the source alone, which is the bundle's own
        for x in dark(200, 2):
            loop.predict(x)
        assert loop.domain == "domain-1"
    before = sorted(path.name for path in (tmp_path / "state" / "learned").rglob("*"))
    with pytest.raises(BundleError, match="told by the taps of another bundle; give another --state"):
        Loop(looped, tmp_path / "state", SYNC)
    assert sorted(path.name for path in (tmp_path / "state" / "learned").rglob("*")) == before
