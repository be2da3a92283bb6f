"""The loop: it answers before it learns, journals before it commits, and goes on where it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import edgecl
from edgecl import journal
from edgecl.bundle import open_bundle, read_detector, read_state
from edgecl.engine import open_program
from edgecl.errors import BundleError, EdgeclError, ProgramError, StoreError
from edgecl.journal import Checkpoint, Damaged, End, Guard, Prediction, Record, Run, Update
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import Guard as GuardSettings
from edgecl.settings import MAX_SEED, SettingError, Settings
from edgecl.state import State

Pixels = npt.NDArray[np.uint8]
MakeBundle = Callable[..., Path]
Kind = TypeVar("Kind", bound=Record)

SYNC = Settings(sync=True, wait=True)
WAIT = Settings(wait=True)
MODES = pytest.mark.parametrize("settings", [SYNC, WAIT], ids=["sync", "background"])


@pytest.fixture(scope="module")
def images() -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (203, 8, 8, 3), dtype=np.uint8)


def only(kind: type[Kind], state: Path) -> list[Kind]:
    """The records of a kind in a journal, which must be whole."""
    found = list(journal.read(state / "journal"))
    assert not any(isinstance(record, journal.Torn) for record in found)
    return [record for record in found if isinstance(record, kind)]


def predict(loop: Loop, images: Pixels) -> list[edgecl.Answer]:
    return [loop.predict(x) for x in images]


def planar(images: Pixels) -> npt.NDArray[np.float32]:
    scaled = images.astype(np.float32) * np.float32(0.02) + np.float32(-2.5)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def by_hand(bundle: Path, images: Pixels, *, seed: int = 0) -> tuple[list[npt.NDArray[Any]], State]:
    """What the loop should do, with nothing but the engine: logits of every sample, and the last state."""
    with open_bundle(bundle) as opened:
        state = read_state(opened)
        program = open_program(opened.path("program.pte"), methods=["adapt_b4", "infer_b1"])
        theta, slots, logits = state.theta, state.slots, []
        hyper = np.array([hyper.value for hyper in opened.manifest.learner.hyper], np.float32)
        for count, x in enumerate(planar(images), 1):
            logits.append(program.execute("infer_b1", [theta, x[None]])[0][0])
            if count % 4 == 0:
                noise = np.random.Generator(np.random.Philox(key=[seed, count // 4 - 1])).random(32, np.float32)
                batch = planar(images[count - 4 : count])
                theta, slots = program.execute("adapt_b4", [theta, slots, batch, noise, hyper])[2:4]
        program.close()
        return logits, State(state.layout, theta, slots)


def test_each_sample_is_answered_before_it_is_learned_from(looped: Path, tmp_path: Path, images: Pixels) -> None:
    logits, state = by_hand(looped, images, seed=5)
    with Loop(looped, tmp_path, Settings(sync=True, seed=5)) as loop:
        answers = predict(loop, images)
        assert loop.state.digest == state.digest
        assert (loop.state.step, loop.state.seen) == (50, 200)
    assert [answer.logits.tobytes() for answer in answers] == [each.tobytes() for each in logits]
    assert [answer.seq for answer in answers] == list(range(203))
    for answer in answers:
        odds = np.exp(answer.logits.astype(np.float64))
        shares = odds / odds.sum()
        assert answer.index == shares.argmax()
        assert answer.label == ("cat", "dog", "owl", "yak")[answer.index]
        assert answer.confidence == pytest.approx(shares.max())
        assert answer.entropy == pytest.approx(-(shares * np.log(shares)).sum())


def test_every_answer_tells_how_like_the_source_its_sample_is(
    looped: Path, make_bundle: MakeBundle, tmp_path: Path, images: Pixels
) -> None:
    with open_bundle(looped) as opened:
        state, record = read_state(opened), opened.manifest.detector
        detector = read_detector(opened)
        assert detector and record
        program = open_program(opened.path("program.pte"), methods=["infer_b1"])
        seen = [detector(program.execute("infer_b1", [state.theta, x[None]])[1][0]) for x in planar(images[:40])]
        program.close()
    cut = sorted(one.similarity for one in seen)[20]
    passes = msgspec.structs.replace(record.calibration, threshold=cut)
    changed = msgspec.structs.replace(record, calibration=passes)
    half = make_bundle(tmp_path / "half.ecl", detector=changed, methods=("infer_b1",), canary_count=0)
    with Loop(half, tmp_path / "state", SYNC) as loop:
        answers = predict(loop, images[:40])
    assert [answer.similarity for answer in answers] == [one.similarity for one in seen]
    assert [answer.novel for answer in answers] == [one.similarity < cut for one in seen]
    assert sum(answer.novel for answer in answers) > 0
    journalled = only(Prediction, tmp_path / "state")
    assert [each.similarity for each in journalled] == [np.float32(one.similarity) for one in seen]
    assert [each.novel for each in journalled] == [answer.novel for answer in answers]


def test_without_a_detector_nothing_is_novel(make_bundle: MakeBundle, tmp_path: Path, images: Pixels) -> None:
    with Loop(make_bundle(tmp_path / "a.ecl", detector=None), tmp_path / "state", SYNC) as loop:
        (answer,) = predict(loop, images[:1])
    assert (answer.similarity, answer.novel) == (None, False)
    (journalled,) = only(Prediction, tmp_path / "state")
    assert not journalled.HasField("similarity") and not journalled.novel


def test_learning_in_the_background_ends_in_the_same_state(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, WAIT) as loop:
        predict(loop, images)
    assert loop.state.digest == by_hand(looped, images)[1].digest
    assert loop.state.step == 50


@MODES
def test_the_journal_tells_of_a_state_before_it_answers(
    looped: Path, tmp_path: Path, images: Pixels, settings: Settings
) -> None:
    with Loop(looped, tmp_path, settings) as loop:
        answers = predict(loop, images)
    step, seqs = 0, []
    for record in journal.read(tmp_path / "journal"):
        if isinstance(record, Update):
            assert record.committed
            assert record.step == step + 1
            assert record.last_seq - record.first_seq == 3
            assert record.last_seq in seqs, "learned from samples that had not been answered"
            step = record.step
        elif isinstance(record, Prediction):
            assert record.step <= step
            seqs.append(record.seq)
    assert step == 50
    assert seqs == [answer.seq for answer in answers]


def test_the_journal_names_the_run_and_its_end(looped: Path, tmp_path: Path, images: Pixels) -> None:
    told: list[Record] = []
    with Loop(looped, tmp_path, WAIT, source="npz:a.npz", on_record=told.append) as loop:
        for position, x in enumerate(images[:9]):
            loop.predict(x, position=2 * position, y=position % 4)
        loop.damaged(18, "cut off")
    (run,), predictions = only(Run, tmp_path), only(Prediction, tmp_path)
    with open_bundle(looped) as bundle:
        assert (run.bundle, run.digest) == (bundle.id, read_state(bundle).digest)
    assert (run.name, run.learner, run.source, run.seen, run.step) == ("looped", "faulty", "npz:a.npz", 0, 0)
    settings = {setting.name: setting.value for setting in run.settings}
    assert {"hyper.rate": "0.001", "sync": "False", "wait": "True"}.items() <= settings.items()
    assert [(p.position, p.y) for p in predictions] == [(2 * i, i % 4) for i in range(9)]
    assert [(d.position, d.reason) for d in only(Damaged, tmp_path)] == [(18, "cut off")]
    (checkpoint,) = only(Checkpoint, tmp_path)
    assert (checkpoint.digest, checkpoint.step, checkpoint.seen) == (loop.state.digest, 2, 8)
    (end,) = only(End, tmp_path)
    assert (end.reason, end.samples, end.damaged, end.updates, end.refused) == ("", 9, 1, 2, 0)
    assert told == list(journal.read(tmp_path / "journal"))


@MODES
@pytest.mark.parametrize("stops", [(1,), (4, 40, 41), (6, 13, 150), tuple(range(3, 200, 29))], ids=str)
def test_a_run_that_was_stopped_learns_what_it_would_have_learned(
    looped: Path, tmp_path: Path, images: Pixels, settings: Settings, stops: tuple[int, ...]
) -> None:
    for stop in stops:
        with Loop(looped, tmp_path, settings, source="images") as loop:
            for position in range(loop.place.position, stop):
                loop.predict(images[position], position=position)
            loop.close("stopped")
            assert loop.place.position == stop - stop % 4, "the rest of a batch is answered again"
    with Loop(looped, tmp_path, settings, source="images") as loop:
        for position in range(loop.place.position, len(images)):
            loop.predict(images[position], position=position)
    assert loop.place.position == len(images), "a source at its end is not gone back in"
    assert loop.state.digest == by_hand(looped, images)[1].digest
    seqs = [record.seq for record in only(Prediction, tmp_path)]
    assert seqs == list(range(len(seqs)))
    assert len(seqs) == len(images) + sum(stop % 4 for stop in stops)


def test_another_source_or_again_begins_at_the_start(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, SYNC, source="a") as loop:
        predict(loop, images[:8])
    learned = loop.state
    for source, again, position in (("b", False, 0), ("a", True, 0), ("a", False, 8)):
        with Loop(looped, tmp_path, SYNC, source=source, again=again) as loop:
            assert loop.place.position == position
            assert (loop.state.digest, loop.state.step) == (learned.digest, 2)
            loop.close("stopped")


def test_checkpoints_are_written_as_often_as_set(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, checkpoint_every=7)) as loop:
        predict(loop, images)
    assert [checkpoint.step for checkpoint in only(Checkpoint, tmp_path)] == [7, 14, 21, 28, 35, 42, 49, 50]
    digests = {update.step: update.digest for update in only(Update, tmp_path)}
    assert all(checkpoint.digest == digests[checkpoint.step] for checkpoint in only(Checkpoint, tmp_path))
    kept = sorted(path.name for path in (tmp_path / "learned" / "looped").glob("*.json"))
    assert kept == [f"{number:08d}.json" for number in range(4, 9)]
    assert loop.checkpoint == tmp_path / "learned" / "looped" / kept[-1]


def test_a_loop_that_saw_nothing_writes_no_checkpoint(looped: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with Loop(looped, tmp_path, WAIT) as loop:
            assert loop.resumed is None
    assert not list((tmp_path / "learned").iterdir())
    assert len(only(End, tmp_path)) == 2


@MODES
def test_an_update_that_is_not_finite_is_dropped(
    looped: Path, tmp_path: Path, images: Pixels, settings: Settings
) -> None:
    poisoned = Settings(hyper={"poison": 1.0}, sync=settings.sync, wait=True)
    with Loop(looped, tmp_path, poisoned) as loop:
        before = loop.state
        answers = predict(loop, images[:12])
    assert loop.state is before
    assert all(np.isfinite(answer.logits).all() for answer in answers)
    assert [update.committed for update in only(Update, tmp_path)] == [False] * 3
    acted = [(guard.action, guard.reason, guard.digest) for guard in only(Guard, tmp_path)]
    assert acted == [(Guard.SKIPPED, "not-finite", before.digest)] * 3
    assert only(End, tmp_path)[0].refused == 3


@MODES
def test_a_collapsed_learner_goes_back_to_what_was_built(
    make_bundle: MakeBundle, tmp_path: Path, images: Pixels, settings: Settings
) -> None:
    watched = GuardSettings(canary_every=0, canary_floor=0.0, entropy_floor=0.2, window=8)
    bundle = make_bundle(tmp_path / "b.ecl", guard=watched, trained=())
    collapsing = Settings(hyper={"shrink": 1.0}, sync=settings.sync, wait=True)
    with Loop(bundle, tmp_path / "state", collapsing) as loop:
        built = loop.state.digest
        predict(loop, images[:12])
        loop.close("stopped")
    # The first update makes theta zero; batches two and three then answer one class only.
    first, _, third = only(Update, tmp_path / "state")
    assert (first.committed, third.committed) == (True, False)
    (back,) = only(Guard, tmp_path / "state")
    assert back.reason == "collapse"
    assert back.action == Guard.RESET
    assert loop.state.digest == back.digest == built, "without canaries nobody can vouch for any other state"
    assert only(Checkpoint, tmp_path / "state")[0].digest == back.digest, "no crash may bring the bad state back"


def test_a_state_that_fails_its_canaries_is_reset(make_bundle: MakeBundle, tmp_path: Path, images: Pixels) -> None:
    strict = GuardSettings(canary_every=3, canary_floor=1.1, entropy_floor=0.0, window=64)
    bundle = make_bundle(tmp_path / "b.ecl", guard=strict)
    with Loop(bundle, tmp_path / "state", SYNC) as loop:
        built = loop.state.digest
        predict(loop, images[:28])
    assert [update.committed for update in only(Update, tmp_path / "state")] == [True, True, False] * 2 + [True]
    acted = [(guard.action, guard.reason, guard.digest, guard.step) for guard in only(Guard, tmp_path / "state")]
    assert acted == [(Guard.RESET, "canaries", built, 3), (Guard.RESET, "canaries", built, 6)]
    assert loop.state.step == 7
    assert [checkpoint.step for checkpoint in only(Checkpoint, tmp_path / "state")] == [3, 6, 7]


def test_no_update_is_taken_above_the_memory_budget(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, Settings(wait=True, budget_bytes=1 << 20)) as loop:
        built = loop.state
        assert len(predict(loop, images[:12])) == 12
    assert loop.state is built
    assert not only(Update, tmp_path)
    assert [guard.reason for guard in only(Guard, tmp_path)] == ["memory"] * 3
    assert "the budget is 1048576" in only(Guard, tmp_path)[0].detail


def test_the_bundles_own_budget_holds_unless_another_is_set(
    make_bundle: MakeBundle, tmp_path: Path, images: Pixels
) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", memory_budget_bytes=1 << 20)
    for budget, skipped in ((None, 1), (1 << 40, 0), (0, 0)):
        state = tmp_path / str(budget)
        with Loop(bundle, state, Settings(sync=True, budget_bytes=budget)) as loop:
            predict(loop, images[:4])
        assert len(only(Guard, state)) == skipped


def test_a_live_source_leaves_batches_out_when_learning_is_behind(
    make_bundle: MakeBundle, tmp_path: Path, images: Pixels
) -> None:
    # Canaries after every update make it some hundred times as long as an answer.
    slow = GuardSettings(canary_every=1, canary_floor=0.0, entropy_floor=0.0, window=64)
    bundle = make_bundle(tmp_path / "b.ecl", guard=slow, canary_count=4000)
    with Loop(bundle, tmp_path / "state", Settings()) as loop:
        answers = predict(loop, np.concatenate([images[:200]] * 3))
    assert len(answers) == 600, "every sample is answered"
    updates, left_out = only(Update, tmp_path / "state"), only(Guard, tmp_path / "state")
    assert {guard.reason for guard in left_out} == {"busy"}
    assert len(updates) + len(left_out) == 150
    assert len(updates) >= 2, "one at once, one that waited"
    told = {guard.first_seq for guard in left_out}
    assert all(guard.last_seq == guard.first_seq + 3 for guard in left_out)
    assert told | {update.first_seq for update in updates} == set(range(0, 600, 4))


@MODES
def test_an_answer_says_how_much_learning_it_had_seen(
    looped: Path, tmp_path: Path, images: Pixels, settings: Settings
) -> None:
    """The count of changes stands for one state: answers that have the same one have the same step."""
    with Loop(looped, tmp_path, settings) as loop:
        predict(loop, images[:120])
    answers = only(Prediction, tmp_path)
    assert [one.changes for one in answers] == sorted(one.changes for one in answers)
    first = answers[0].changes
    assert all(one.step == one.changes - first for one in answers)
    assert answers[-1].step > 20


def test_samples_learned_with_labels_at_hand_are_kept_for_replay_alone(
    looped: Path, tmp_path: Path, images: Pixels
) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, keep_bytes=1 << 20)) as loop:
        predict(loop, images[:2])
        loop.learn(images[2:5], [1, 2, 3])
        refused = loop.operations.label([Given(3, "cat")]).refused
        assert [one.seq for one in refused] == [3]
    kept = [record for record in journal.read(tmp_path / "samples") if isinstance(record, journal.Sample)]
    assert [(one.seq, one.learned, one.y) for one in kept] == [(0, 0, 0), (1, 0, 0), (2, 1, 1), (3, 1, 2), (4, 1, 3)]


@MODES
def test_labels_are_learned_from_at_once(looped: Path, tmp_path: Path, images: Pixels, settings: Settings) -> None:
    x, y = images[:11], np.arange(11) % 4
    with Loop(looped, tmp_path, settings) as loop:
        theta = loop.state.theta.astype(np.float64).reshape(8, 4)
        taps = _taps(looped, x)
        for _ in range(40):
            assert loop.learn(x, y) == 3
            for part in (slice(0, 4), slice(4, 8), slice(8, 11)):
                odds = np.exp(taps[part] @ theta)
                theta -= taps[part].T @ (odds / odds.sum(1, keepdims=True) - np.eye(4)[y[part]])
        np.testing.assert_allclose(loop.state.theta, theta.ravel(), rtol=1e-3, atol=1e-4)
        assert loop.learn(x[0], 1) == 1
        assert loop.learn(x[:0], []) == 0
        assert loop.predict(x[0]).seq == 40 * 11 + 1
    assert {update.kind for update in only(Update, tmp_path)} == {Update.LEARN}
    assert [(u.first_seq, u.last_seq) for u in only(Update, tmp_path)][:4] == [(0, 3), (4, 7), (8, 10), (11, 14)]


def _taps(bundle: Path, images: Pixels) -> npt.NDArray[np.float64]:
    with open_bundle(bundle) as opened:
        program = open_program(opened.path("program.pte"), methods=["infer_b1"])
        theta = read_state(opened).theta
        taps = [program.execute("infer_b1", [theta, x[None]])[1][0] for x in planar(images)]
        program.close()
    return np.array(taps, np.float64)


@MODES
def test_labels_and_answers_take_turns(looped: Path, tmp_path: Path, images: Pixels, settings: Settings) -> None:
    with Loop(looped, tmp_path, settings, source="images") as loop:
        for position in range(40):
            loop.predict(images[position], position=position)
            if position % 10 == 9:
                loop.learn(images[position], position % 4)
        loop.close("stopped")
        assert loop.place.position == 40
    updates = only(Update, tmp_path)
    assert [update.step for update in updates] == list(range(1, 15))
    assert sum(update.kind == Update.LEARN for update in updates) == 4
    with Loop(looped, tmp_path, settings) as loop:
        assert loop.predict(images[0]).seq == 44


def test_numbers_go_on_after_samples_that_only_labels_taught(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, checkpoint_every=100)) as loop:
        loop.predict(images[0])
        loop.learn(images[:6], [0] * 6)
    for path in (tmp_path / "learned" / "looped").glob("*.json"):
        path.unlink()
    with Loop(looped, tmp_path, SYNC) as loop:
        assert loop.predict(images[0]).seq == 7


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), [1], r"labels: int64\[1\], not 2 integers"),
        (np.zeros((2, 8, 8, 3), np.uint8), [1, 4], "labels: 1 to 4, the bundle has 4 classes"),
        (np.zeros((2, 8, 8, 3), np.uint8), [1, -1], "labels: -1 to 1, the bundle has 4 classes"),
        (np.zeros((1, 8, 8, 3), np.uint8), [0.5], r"labels: float64\[1\], not 1 integers"),
        (np.zeros((8, 8, 3), np.float32), 1, r"sample: float32\[8, 8, 3\], the bundle takes uint8\[8, 8, 3\]"),
        (np.zeros((2, 8, 3, 8), np.uint8), [1, 1], r"sample: uint8\[8, 3, 8\]"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    looped: Path, tmp_path: Path, x: npt.NDArray[Any], y: Any, problem: str
) -> None:
    with Loop(looped, tmp_path, SYNC) as loop, pytest.raises(ProgramError, match=problem):
        loop.learn(x, y)
    assert not only(Update, tmp_path)


def test_a_bundle_that_cannot_learn_says_so(make_bundle: MakeBundle, tmp_path: Path, images: Pixels) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", methods=("infer_b1", "adapt_b4"))
    with Loop(bundle, tmp_path / "state", WAIT) as loop, pytest.raises(BundleError, match="no method learn"):
        loop.learn(images[0], 1)


def test_a_bundle_without_a_learner_only_answers(make_bundle: MakeBundle, tmp_path: Path, images: Pixels) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", methods=("infer_b1",))
    for start in (0, 10):
        with Loop(bundle, tmp_path / "state", Settings(), source="images") as loop:
            assert loop.place.position == start
            predict(loop, images[:10])
    assert not only(Update, tmp_path / "state")
    assert len(only(Prediction, tmp_path / "state")) == 20


def test_what_only_answers_keeps_its_place_when_it_is_stopped(
    make_bundle: MakeBundle, tmp_path: Path, images: Pixels
) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", methods=("infer_b1",))
    with Loop(bundle, tmp_path / "state", Settings(), source="images") as loop:
        predict(loop, images[:10])
        loop.close("stopped")
    with Loop(bundle, tmp_path / "state", Settings(), source="images") as loop:
        assert loop.place.position == 10


def test_a_sample_of_another_form_is_refused_and_not_counted(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, SYNC) as loop:
        with pytest.raises(ProgramError, match=r"sample: uint8\[8, 8\], the bundle takes uint8\[8, 8, 3\]"):
            loop.predict(images[0, :, :, 0])
        assert loop.predict(images[0]).seq == 0


def test_a_buffer_may_be_used_again(looped: Path, tmp_path: Path, images: Pixels) -> None:
    buffer = np.empty((8, 8, 3), np.uint8)
    with Loop(looped, tmp_path, WAIT) as loop:
        for x in images:
            buffer[:] = x
            loop.predict(buffer)
    assert loop.state.digest == by_hand(looped, images)[1].digest


def test_what_fails_in_the_background_is_raised_by_the_next_call(looped: Path, tmp_path: Path, images: Pixels) -> None:
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "looped").write_text("where a directory belongs")
    loop = Loop(looped, tmp_path, Settings(wait=True, checkpoint_every=1))
    with pytest.raises(StoreError, match="give another --state"):
        predict(loop, images)  # the second batch waits until the first has failed
    with pytest.raises(StoreError, match="give another --state"):
        loop.predict(images[0])
    with pytest.raises(StoreError, match="give another --state"):
        loop.close()
    loop.close()
    (tmp_path / "learned" / "looped").unlink()
    with Loop(looped, tmp_path, WAIT) as loop:  # and nothing was left open
        predict(loop, images[:4])


def test_two_loops_cannot_have_one_state_directory(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, SYNC) as first:
        with pytest.raises(StoreError, match="another process is using it"):
            Loop(looped, tmp_path, SYNC)
        first.predict(images[0])


def test_a_closed_loop_refuses_everything(looped: Path, tmp_path: Path, images: Pixels) -> None:
    loop = Loop(looped, tmp_path, WAIT)
    loop.close()
    loop.close()
    for call in (lambda: loop.predict(images[0]), lambda: loop.learn(images[0], 0), lambda: loop.damaged(0, "")):
        with pytest.raises(ProgramError, match="the loop is closed"):
            call()


def test_the_state_of_another_bundle_is_refused(make_bundle: MakeBundle, looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path / "state", SYNC) as loop:
        loop.predict(np.zeros((8, 8, 3), np.uint8))
    with open_bundle(looped) as opened:
        layout = opened.manifest.layout
    piece = msgspec.structs.replace(layout.theta[0], name="other")
    other = make_bundle(tmp_path / "b.ecl", layout=msgspec.structs.replace(layout, theta=(piece,)))
    with pytest.raises(BundleError, match="this state belongs to another bundle"):
        Loop(other, tmp_path / "state", SYNC)
    with Loop(looped, tmp_path / "state", SYNC) as loop:
        assert loop.resumed


def test_a_damaged_checkpoint_is_passed_over(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, checkpoint_every=1)) as loop:
        predict(loop, images[:12])
    newest = loop.checkpoint
    assert newest
    newest.write_bytes(newest.read_bytes().replace(b'"position": 12', b'"position": 13'))
    older = only(Checkpoint, tmp_path)[-2]
    with Loop(looped, tmp_path, SYNC) as loop:
        assert loop.resumed
        assert (loop.state.digest, loop.state.step) == (older.digest, 2)
        assert newest.name in loop.resumed.passed_over[0]
        assert loop.predict(images[0]).seq == 12, "numbers come from the journal"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hyper": {"rat": 1.0}}, "hyper-parameter rat: faulty does not have it; it has rate, shrink, poison, step"),
        ({"hyper": {"rate": float("nan")}}, "hyper-parameter rate: nan is not finite"),
        ({"threads": 0}, "threads 0: give 1 or more"),
        ({"seed": -1}, "seed -1: give 0 to"),
        ({"seed": MAX_SEED + 1}, "seed 18446744073709551616"),
        ({"checkpoint_every": 0}, "checkpoint_every 0"),
        ({"budget_bytes": -1}, "budget_bytes -1"),
        ({"engine": "abacus"}, "engine abacus: unknown; give executorch or onnxruntime"),
        ({"trace": True}, "set sync as well"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    looped: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingError, match=problem):
        edgecl.open(looped, state=tmp_path, **changes)
    with edgecl.open(looped, state=tmp_path, seed=MAX_SEED, sync=True) as loop:
        loop.learn(np.zeros((8, 8, 3), np.uint8), 0)


def test_a_trace_tells_what_the_program_did(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with edgecl.open(looped, state=tmp_path, sync=True, trace=True) as loop:
        predict(loop, images[:4])
        assert b"ED00" in loop.trace()[:16], "the identifier of an ETDump"


@pytest.mark.parametrize(
    ("requires", "problem"),
    [
        ({"engine": "executorch 2.0.0"}, "made for ExecuTorch executorch 2.0.0, this is"),
        ({"engine": "executorch 0.9.0"}, "made for ExecuTorch executorch 0.9.0, this is"),
        ({"edgecl": "7.0.0"}, "made for edgecl 7.0.0, this is"),
        ({"arch": ("mips",)}, "made for mips, this is"),
        ({"memory_bytes": 1 << 45}, "needs 35184372088832 bytes of memory"),
    ],
)
def test_a_bundle_for_something_else_is_refused(
    make_bundle: MakeBundle, looped: Path, tmp_path: Path, requires: dict[str, Any], problem: str
) -> None:
    with open_bundle(looped) as opened:
        changed = msgspec.structs.replace(opened.manifest.requires, **requires)
    bundle = make_bundle(tmp_path / "b.ecl", requires=changed)
    with pytest.raises(BundleError, match=problem):
        Loop(bundle, tmp_path / "state", SYNC)


def test_a_program_that_computes_something_else_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", expected={"adapt_b4/out/theta": lambda theta: theta + 0.01})
    with pytest.raises(BundleError, match=r"adapt_b4: theta is [\d.]+ off on this machine"):
        Loop(bundle, tmp_path / "state", SYNC)
    assert not (tmp_path / "state" / "tested").exists()


def test_the_cache_holds_the_bundle_in_use_alone(make_bundle: MakeBundle, looped: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "b.ecl", version=2)
    for bundle in (looped, other, looped):
        with Loop(bundle, tmp_path / "state", SYNC) as loop:
            pass
        assert [path.name for path in (tmp_path / "state" / "cache").iterdir()] == [loop.bundle.id]


def test_an_error_in_the_block_still_keeps_what_was_learned(looped: Path, tmp_path: Path, images: Pixels) -> None:
    with pytest.raises(ZeroDivisionError), Loop(looped, tmp_path, WAIT, source="images") as loop:
        predict(loop, images[:10])
        _ = 1 / 0
    assert only(End, tmp_path)[0].reason == "ZeroDivisionError: division by zero"
    with Loop(looped, tmp_path, WAIT, source="images") as loop:
        assert (loop.state.step, loop.place.position) == (2, 8)


def test_a_loop_that_cannot_be_opened_lets_go_of_everything(looped: Path, tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("where a directory belongs")
    with pytest.raises(EdgeclError, match="journal"):
        Loop(looped, tmp_path, WAIT)
    (tmp_path / "journal").unlink()
    Loop(looped, tmp_path, WAIT).close()
