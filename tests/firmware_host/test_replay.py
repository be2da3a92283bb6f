"""A journal run again with the board's own code: equal to the bit, or different at the record that was changed."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl import deployer, journal, recovery, segment, state
from edgecl.bundle import open_bundle, read_state
from edgecl.cli import main
from edgecl.journal import Domain, Prediction, Record, Run, Sample, Setting, Update
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import Guard
from edgecl.requests import Label as GiveLabels
from edgecl.service import Service
from edgecl.settings import Settings
from firmware_host import cache
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.compare import Comparison, DivergenceError
from firmware_host.replay.device import Replay, Verdict
from firmware_host.replay.recording import recordings
from tests.conftest import MakeBundle
from tests.edgecl import stores
from tests.edgecl.test_domains import Pixels, bright, dark, noise, only

LIVED = Path(__file__).parent / "lived_runs.py"
SYNC = Settings(sync=True, wait=True, keep_bytes=1 << 24, checkpoint_every=5)
WAIT = replace(SYNC, sync=False)
MODES = pytest.mark.parametrize("settings", [SYNC, WAIT], ids=["sync", "background"])


def verified(state: Path, *given: Path) -> Verdict:
    (recording,) = recordings([state])
    with Bundles(given, [state]) as bundles:
        return Replay(recording, bundles).verify()


def rewrite(directory: Path, change: Callable[[Record], Record | None]) -> None:
    """Write the segments of a journal again, each record as `change` has it, or without it."""
    for path in journal.segments(directory):
        with path.open("rb") as file:
            found = [message for part in recovery.scan(file) if isinstance(part, recovery.Chunk) for message in part[1]]
        path.unlink()
        writer = segment.Writer(path)
        for message in found:
            record = change(journal.TOPICS[message.channel.topic].FromString(message.data))
            if record:
                writer.add(message[0], message[1], record.stamp.sequence, record.SerializeToString())
        writer.seal()


def run(bundle: Path, state: Path, settings: Settings, images: Pixels, **more: Any) -> None:
    with Loop(bundle, state, settings, source="images", **more) as loop:
        for position in range(loop.place.position, len(images)):
            loop.predict(images[position], position=position, y=position % 4)


@MODES
def test_a_run_is_the_same_again(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        for x in noise(203, 1):
            loop.predict(x)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.runs, found.answers, found.updates) == ("bit-equal", [], 1, 203, 50)


@MODES
def test_domains_come_and_go_the_same_way(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, replace(settings, domains=3)) as loop:
        for stretch in (noise(100, 1), dark(200, 2), noise(50, 3), bright(200, 4), dark(50, 5)):
            for x in stretch:
                loop.predict(x)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.answers) == ("bit-equal", [], 600)


@MODES
def test_labels_and_operations_are_the_same(looped: Path, tmp_path: Path, settings: Settings) -> None:
    with Loop(looped, tmp_path, replace(settings, domains=3)) as loop:
        ask = loop.operations
        for x in (*dark(200, 2), *bright(60, 3)):
            loop.predict(x)
        ask.add_class("emu")
        ask.label([Given(seq, ("cat", "emu")[seq % 2]) for seq in range(100, 130)])
        ask.rename("domain-1", "night")
        for x in bright(150, 3):
            loop.predict(x)
        loop.learn(noise(6, 8), np.arange(6) % 4)
        ask.label([Given(seq, "dog") for seq in range(110, 140)])
        ask.snapshot()
        ask.merge("night", "domain-2")
        for x in dark(40, 2):
            loop.predict(x)
        ask.drop("night")
        ask.held = True
        for x in dark(40, 2):
            loop.predict(x)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.answers) == ("bit-equal", [], 490)


def test_a_bank_that_changed_just_before_a_power_cut_is_the_one_gone_on_with(looped: Path, tmp_path: Path) -> None:
    """A domain that was founded in a full bank became one with another: no state tells that, as nothing was learned,
    and the record of that checkpoint is lost.
    """
    settings = replace(SYNC, domains=3)
    merged: list[Record] = []

    def note(record: Record) -> None:
        if isinstance(record, Domain) and record.what == Domain.MERGED:
            merged.append(record)

    loop = Loop(looped, tmp_path, settings, on_record=note)
    loop.operations.held = True
    for x in (*dark(200, 2), *bright(200, 3), *noise(300, 4, 90, 140)):
        loop.predict(x)
        if merged:
            break
    loop.abandon()
    run(looped, tmp_path, settings, np.concatenate([dark(60, 4), noise(60, 5, 90, 140)]), again=True)
    found = verified(tmp_path)
    assert (found.outcome, found.gaps, found.runs) == ("bit-equal", [], 2)


GUARDED = Guard(canary_every=6, canary_floor=0.2, entropy_floor=0.6, window=32)
"""Which goes back now and then."""
SOAK = os.environ.get("EDGECL_SOAK") == "1"


@pytest.fixture(scope="module")
def guarded(make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("guarded") / "guarded.ecl", guard=GUARDED)


@pytest.mark.parametrize("seed", range(20 if SOAK else 2))
def test_a_life_of_runs_that_were_killed_is_the_same_again(guarded: Path, tmp_path: Path, seed: int) -> None:
    samples = 8000 if SOAK else 500
    command = [sys.executable, str(LIVED), str(guarded), str(tmp_path), str(seed), str(samples), "cat", "dog"]
    lived = subprocess.run(command, capture_output=True, text=True)
    assert lived.returncode == 0, lived.stderr
    found = verified(tmp_path)
    assert (found.outcome, found.gaps) == ("bit-equal", []), found
    assert found.runs == int(lived.stdout.split()[0])


@MODES
def test_one_bit_of_one_sample_is_told_at_its_answer(looped: Path, tmp_path: Path, settings: Settings) -> None:
    run(looped, tmp_path, settings, noise(80, 1))

    def flip(record: Record) -> Record:
        if isinstance(record, Sample) and record.seq == 41:
            record.x = bytes((record.x[0] ^ 64,)) + record.x[1:]
        return record

    rewrite(tmp_path / "samples", flip)
    found = verified(tmp_path)
    assert (found.outcome, found.answers) == ("diverged", 41)
    assert found.difference and isinstance(found.difference.recorded, Prediction)
    assert found.difference.seq == 41
    assert "confidence" in found.difference.fields()


@MODES
@pytest.mark.parametrize("what", ["hyper", "seed"])
def test_another_setting_is_told_at_the_first_update(
    looped: Path, tmp_path: Path, settings: Settings, what: str
) -> None:
    run(looped, tmp_path, settings, noise(40, 1))

    def other(record: Record) -> Record:
        if isinstance(record, Run) and what == "seed":
            record.seed += 1
        elif isinstance(record, Run):
            kept = [one for one in record.settings if one.name != "hyper.rate"]
            del record.settings[:]
            record.settings.extend([*kept, Setting(name="hyper.rate", value="0.0010001")])
        return record

    rewrite(tmp_path / "journal", other)
    found = verified(tmp_path)
    assert found.outcome == "diverged" and found.difference
    assert isinstance(found.difference.recorded, Update) and found.difference.step == 1
    assert "digest" in found.difference.fields()


def test_a_changed_record_is_told_with_what_it_should_be(
    looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(looped, tmp_path, SYNC, noise(80, 1))

    def lie(record: Record) -> Record:
        if isinstance(record, Update) and record.step == 12:
            record.committed = False
        return record

    rewrite(tmp_path / "journal", lie)
    assert main(["replay", str(tmp_path), "--verify"]) == 1
    out = capsys.readouterr().out
    assert "diverged at step 12, sample 47, in run 1" in out
    assert re.search(r"^  update +the board +the replay$", out, re.MULTILINE)
    assert re.search(r"^  committed +- +True$", out, re.MULTILINE)


def test_a_record_that_is_missing_is_a_gap(looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(looped, tmp_path, SYNC, noise(40, 1))
    run(looped, tmp_path, SYNC, noise(80, 1))
    rewrite(tmp_path / "journal", lambda record: None if isinstance(record, Update) and record.step == 5 else record)
    assert main(["replay", str(tmp_path)]) == 3
    out = capsys.readouterr().out
    assert "bit-equal" in out and "are missing before" in out


def test_answers_that_were_not_journalled_are_a_gap(looped: Path, tmp_path: Path) -> None:
    """As where a quota of the journal left them out: the records count on without them."""
    run(looped, tmp_path, SYNC, noise(40, 1))
    count = 0

    def without(record: Record) -> Record | None:
        nonlocal count
        if isinstance(record, Prediction) and 20 <= record.seq < 24:
            return None
        record.stamp.sequence, count = count, count + 1
        return record

    rewrite(tmp_path / "journal", without)
    found = verified(tmp_path)
    assert (found.outcome, found.answers) == ("bit-equal", 20)
    assert found.gaps == ["run 1: the answers to samples 20 to 23 are not in the journal"]


def test_samples_that_the_quota_dropped_are_told(looped: Path, tmp_path: Path) -> None:
    """The first run cannot be replayed; the second goes on from a checkpoint that the state directory still has."""
    small = replace(SYNC, keep_bytes=1 << 16)
    run(looped, tmp_path, small, noise(900, 1))
    run(looped, tmp_path, small, noise(960, 1))
    found = verified(tmp_path)
    assert found.outcome == "bit-equal" and found.runs == 2
    assert found.answers == 60
    (gap,) = found.gaps
    assert gap.startswith("run 1: sample 0 is not kept: the quota dropped those before ")


def test_without_samples_nothing_is_replayed(looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(looped, tmp_path, Settings(sync=True), noise(9, 1))
    assert main(["replay", str(tmp_path)]) == 1
    assert "not replayable" in (out := capsys.readouterr().out) and "no samples were kept" in out


def test_a_missing_bundle_is_named_with_where_it_was(
    looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    board = tmp_path / "board-7"
    run(looped, board, SYNC, noise(20, 1), told={"deployed_by": "ann@desk"})
    (identity,) = (path.name for path in (board / "cache").iterdir())
    shutil.rmtree(board / "cache")
    assert main(["replay", str(board)]) == 1
    out = capsys.readouterr().out
    assert f"bundle {identity} (looped) is not here; it was deployed to board-7, by ann@desk" in out
    assert main(["replay", str(board), "--bundles", str(looped.parent)]) == 0
    with open_bundle(looped) as opened:
        for name in ("manifest.json", *(file.path for file in opened.manifest.files)):
            content = opened.directory / name
            cache.keep(hashlib.sha256(content.read_bytes()).hexdigest(), content)
    assert main(["replay", str(board)]) == 0, "what was deployed from here is found by its id"


def test_on_another_processor_only_numbers_may_differ() -> None:
    tolerant = Comparison(tolerant=True)
    tolerant.check(Prediction(seq=1, y=0, entropy=1.0), Prediction(seq=1, y=0, entropy=1.0005))
    assert not tolerant.exact
    assert tolerant.apart == pytest.approx(0.0005, rel=1e-2)
    for other in (Prediction(seq=1), Prediction(seq=1, y=1), Prediction(seq=2, y=0), Update(step=1)):
        with pytest.raises(DivergenceError):
            tolerant.check(Prediction(seq=1, y=0), other)
    for number in (1.01, float("inf"), float("nan")):
        with pytest.raises(DivergenceError):
            tolerant.check(Prediction(entropy=1.0), Prediction(entropy=number))


def test_a_run_on_another_processor_is_within_tolerance_or_diverges(looped: Path, tmp_path: Path) -> None:
    run(looped, tmp_path, SYNC, noise(40, 1))
    moved = 1e-5

    def elsewhere(record: Record) -> Record:
        if isinstance(record, Run):
            record.processor = "aarch64 Cortex-A53"
        if isinstance(record, Prediction):
            record.confidence += moved
        return record

    rewrite(tmp_path / "journal", elsewhere)
    found = verified(tmp_path)
    assert found.outcome == "within tolerance"
    assert "aarch64 Cortex-A53" in found.notes[0] and "0.001" in found.notes[1]
    assert 0.9 * moved < found.apart < 1.1 * moved
    moved = 0.1
    rewrite(tmp_path / "journal", elsewhere)
    assert verified(tmp_path).outcome == "diverged"


@MODES
def test_any_state_the_board_had_is_found_again(looped: Path, tmp_path: Path, settings: Settings) -> None:
    run(looped, tmp_path / "board", settings, noise(203, 1))
    told = {update.step: update.digest for update in only(Update, tmp_path / "board")}
    with open_bundle(looped) as opened:
        layout = opened.manifest.layout
        built = read_state(opened).digest
    for step in (1, 17, 50):
        file = tmp_path / str(step)
        assert main(["replay", str(tmp_path / "board"), "--to", str(step), "--dump-state", str(file)]) == 0
        assert state.load(file, layout).digest == told[step]
    assert main(["replay", str(tmp_path / "board"), "--to", "0", "--dump-state", str(tmp_path / "0")]) == 0
    assert state.load(tmp_path / "0", layout).digest == built
    assert main(["replay", str(tmp_path / "board"), "--to", "51", "--dump-state", str(tmp_path / "51")]) == 1


def test_segments_alone_are_enough(looped: Path, tmp_path: Path) -> None:
    run(looped, tmp_path, SYNC, noise(40, 1))
    parts = [str(path) for folder in ("samples", "journal") for path in journal.segments(tmp_path / folder)]
    assert main(["replay", *parts, "--bundles", str(looped)]) == 0


def test_what_is_no_journal_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (tmp_path, tmp_path / "none"):
        assert main(["replay", str(given)]) == 1
        assert "give a state directory" in capsys.readouterr().err
    (tmp_path / "text.mcap").write_text("no journal")
    assert main(["replay", str(tmp_path / "text.mcap")]) == 1


@pytest.mark.parametrize("policy", ["carry", "rebase", *(["discard"] if SOAK else [])])
def test_what_a_bundle_takes_over_from_another_is_taken_over_again(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path, policy: Any
) -> None:
    store = stores.made(tmp_path / "store")
    np.savez(tmp_path / "images.npz", x=noise(200, 1))
    (store / "service.toml").write_text(f'source = "npz:{tmp_path}/images.npz"\ncheckpoint_every = 4\n')
    for number, bundle in enumerate((looped, make_bundle(tmp_path / "next.ecl", version=2), looped)):
        stores.begun(store, bundle, learned=policy, back=number == 2)
        deployer.carry_on(store)
        for part in range(2):
            answered: list[int] = []

            def note(record: Record, answered: list[int] = answered) -> None:
                if isinstance(record, Prediction):
                    answered.append(record.seq)

            service = Service(store, say=lambda line: None, on_record=note)
            for item in service.items():
                if item:
                    service.take(item)
                if len(answered) == 25:
                    break
            if part == 0:
                service.perform(GiveLabels(tuple(Given(seq, "cat") for seq in answered[:20])))
            service.close("restart")
    found = verified(store)
    assert (found.outcome, found.gaps, found.runs, found.answers) == ("bit-equal", [], 6, 150)
