"""What `edgecl evaluate` says of journals that real loops have written, and of those that it cannot make sense of."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import journal
from edgecl.bundle import open_bundle, read_state
from edgecl.cli import main
from edgecl.journal import Guard, Label, Prediction, Record, Shift, Update
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.preprocess import Preprocess
from edgecl.programs import Programs
from edgecl.settings import Settings
from firmware_host.evaluate.answers import Answers
from firmware_host.evaluate.device import Options, evaluate
from firmware_host.evaluate.evaluation import Evaluation
from firmware_host.evaluate.fleet import evaluate_fleet
from firmware_host.evaluate.given import Phases
from firmware_host.evaluate.shifts import Change, joined, recoveries
from firmware_host.host_store import HostStore
from firmware_host.ingest import ingest
from firmware_host.replay.bundles import Bundles
from tests.edgecl.test_domains import bright, dark, noise
from tests.firmware_host.pulled import JUNE_NS, Board, answers, put, run

SYNC = Settings(sync=True, wait=True, keep_bytes=1 << 24)
LENGTH = 600


@pytest.fixture(scope="module")
def lived(looped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a board that met the dark and the bright, and was told its labels for every second answer."""
    root = tmp_path_factory.mktemp("lived")
    with Loop(looped, root / "cam", replace(SYNC, domains=3), source="images") as loop:
        for position, x in enumerate((*noise(200, 1), *dark(200, 2), *noise(100, 3), *bright(100, 4))):
            loop.predict(x, position=position, y=position % 4 if position % 2 else None)
        loop.operations.label([Given(seq, ("cat", "dog")[seq % 4 // 2]) for seq in range(0, 40, 2)])
    tables(root)
    return root


@pytest.fixture(scope="module")
def found(lived: Path) -> Evaluation:
    (found,) = figures(lived, "cam")
    return found


def tables(root: Path) -> None:
    """Make the tables of a store."""
    for _ in ingest(HostStore(root)):
        pass


def figures(root: Path, device: str, options: Options | None = None) -> tuple[Evaluation, ...]:
    with Bundles([], [root / device]) as bundles:
        return evaluate(HostStore(root), device, bundles, options)


def of(root: Path, device: str, kind: type[Any]) -> list[Any]:
    return [record for record in journal.read(root / device / "journal") if isinstance(record, kind)]


def test_figures_are_those_of_the_journal(lived: Path, found: Evaluation) -> None:
    predictions, updates = of(lived, "cam", Prediction), of(lived, "cam", Update)
    truth = {one.seq: one.y for one in predictions if one.HasField("y")}
    truth |= {one.seq: one.y for one in of(lived, "cam", Label)}
    right = [one.label == truth[one.seq] for one in predictions if one.seq in truth]
    assert (found.answers, found.labelled) == (LENGTH, len(truth)) == (LENGTH, 320)
    assert found.accuracy and found.accuracy.value == pytest.approx(np.mean(right))
    assert found.accuracy.low is not None and found.accuracy.low < found.accuracy.value
    assert found.updates == sum(one.committed for one in updates)
    assert found.cpu_seconds == pytest.approx(
        sum(one.latency_ns for one in predictions) / 1e9 + sum(one.duration_ns for one in updates) / 1e9, rel=1e-4
    )
    assert found.latency.p95_ms == pytest.approx(
        np.percentile([one.latency_ns / 1e6 for one in predictions], 95), rel=1e-4
    )
    assert found.behaviour.entropy.value == pytest.approx(np.mean([one.entropy for one in predictions]), rel=1e-5)
    assert {count.reason: count.times for count in found.guard} == _counted(of(lived, "cam", Guard))
    shares = np.bincount([one.label for one in predictions], minlength=4) / LENGTH
    assert found.behaviour.classes == pytest.approx(
        {name: share for name, share in zip(("cat", "dog", "owl", "yak"), shares, strict=True) if share}
    )


def _counted(guards: list[Guard]) -> dict[str, int]:
    reasons = [one.reason for one in guards]
    return {reason: reasons.count(reason) for reason in reasons}


def test_windows_make_up_the_whole(found: Evaluation) -> None:
    windows = found.over_time
    assert sum(window.answers for window in windows) == LENGTH and len(windows) == LENGTH // 50
    assert [window.first_seq for window in windows] == [50 * place for place in range(len(windows))]
    labelled = sum(window.labelled for window in windows)
    right = sum((window.accuracy or 0) * window.labelled for window in windows)
    assert found.accuracy and right / labelled == pytest.approx(found.accuracy.value)


def test_domains_are_those_that_the_board_routed_to(lived: Path, found: Evaluation) -> None:
    predictions = of(lived, "cam", Prediction)
    assert found.matrix and found.matrix.by == "domains"
    assert {one.name for one in found.domains} == {"source", "domain-1", "domain-2"}
    for one in found.domains:
        assert abs(one.answers - sum(p.domain == one.number for p in predictions)) <= 16, "but for blips"
    assert [phase.domain for phase in found.matrix.phases][:3] == ["source", "domain-1", "source"]
    assert found.matrix.backward == pytest.approx(-(found.matrix.forgetting or 0)), "the source came back once"
    assert any(one.what == "domain-1" for one in found.recoveries)


def test_before_learning_is_what_the_bundle_says_as_built(lived: Path, looped: Path, found: Evaluation) -> None:
    predictions = of(lived, "cam", Prediction)
    samples = {s.seq: s for s in journal.read(lived / "cam" / "samples") if isinstance(s, journal.Sample)}
    with open_bundle(looped) as bundle, Programs(bundle) as programs:
        preprocess, state = Preprocess(bundle.manifest.input), read_state(bundle)
        method = bundle.manifest.method("infer", 1)
        said = {}
        for seq, sample in samples.items():
            x = np.frombuffer(sample.x, np.uint8).reshape(tuple(sample.shape))
            said[seq] = int(programs.call(method, theta=state.theta, x=preprocess.batch([x]))["logits"][0].argmax())
    truth = {one.seq: one.y for one in predictions if one.HasField("y")}
    truth |= {one.seq: one.y for one in of(lived, "cam", Label)}
    assert found.against and found.against.answers == found.against.labelled == len(truth)
    before = np.mean([said[seq] == y for seq, y in truth.items()])
    assert found.against.before and found.against.before.value == pytest.approx(before)
    assert found.against.gain and found.accuracy
    assert found.against.gain.value == pytest.approx(found.accuracy.value - before)
    assert found.before == found.against.before
    (fewer,) = figures(lived, "cam", Options(before=100))
    assert fewer.against and fewer.against.answers == 100
    (none,) = figures(lived, "cam", Options(before=0))
    assert none.against is None


def test_phases_of_a_file_take_the_place_of_domains(lived: Path) -> None:
    phases = Phases({"cam": {0: "day", 200: "night", 400: "day", 500: "snow"}})
    (found,) = figures(lived, "cam", Options(phases=phases))
    assert found.matrix and found.matrix.by == "phases" and found.matrix.domains == ("day", "night", "snow")
    assert [phase.answers for phase in found.matrix.phases] == [200, 200, 100, 100]
    assert [(one.name, one.answers, one.visits) for one in found.domains] == [
        ("day", 300, 2), ("night", 200, 1), ("snow", 100, 1),
    ]  # fmt: skip
    assert found.novelty and found.novelty.by == "phases" and found.novelty.inside == 300
    assert [one.what for one in found.recoveries] == ["night", "day", "snow"]


def test_a_sheet_and_lines_of_json(lived: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(lived)]) == 0
    out = capsys.readouterr().out
    for word in ("cam: looped", "accuracy", "learning was", "calibration", "forgetting", "domain-1", "latency", "cpu"):
        assert word in out
    assert all(len(line) <= 140 for line in out.splitlines() if not line.startswith("note"))
    assert main(["evaluate", str(lived), "--json", "--before", "0"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    fields = json.loads(line)
    assert fields["answers"] == LENGTH and len(fields["over_time"]) == 12 and fields["cpu_seconds"] > 0


def labels(path: Path, rows: dict[int, str]) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("seq", "class"))
        out.writerows(rows.items())
    return path


def test_labels_that_came_later_count(looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of samples that the ring has dropped, which is told; what means nothing is counted, too."""
    with Loop(looped, tmp_path / "store" / "cam", replace(SYNC, keep_bytes=1 << 16), source="x") as loop:
        said = [loop.predict(x) for x in noise(900, 1)]
    tables(tmp_path / "store")
    kept = [s.seq for s in journal.read(tmp_path / "store" / "cam" / "samples") if isinstance(s, journal.Sample)]
    assert 0 < kept[0] < 800 and len(kept) == 900 - kept[0]
    given = {one.seq: one.label for one in said[:100]} | {one.seq: "yak" for one in said[800:]}
    file = labels(tmp_path / "labels.csv", given | {5000: "cat", 5001: "dog", 300: "emu"})
    assert main(["evaluate", str(tmp_path / "store"), "--labels", str(file), "--before", "0"]) == 0
    out = capsys.readouterr().out
    right = 100 + sum(one.label == "yak" for one in said[800:])
    assert "900, 200 with labels" in out and f"accuracy     {right / 200:.3f}" in out
    assert "note: 1 labels name classes that are not known (emu); known are cat, dog, owl, yak" in out
    assert "note: 2 of the labels given are of samples that have no answer here" in out
    assert (
        f"note: {sum(seq < kept[0] for seq in (*given, 300))} of the labels given are of samples that were dropped"
        in out
    )


def test_a_queue_of_what_to_label_is_taken_by_edgecl_label(
    looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    images = np.concatenate([noise(100, 1), dark(100, 2), dark(100, 2)])  # the dark ones come twice
    with Loop(looped, root / "cam", SYNC, source="x") as loop:
        for x in images:
            loop.predict(x)
        loop.operations.label([Given(seq, "cat") for seq in range(0, 100, 2)])
    tables(root)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(root), "--suggest-labels", "40", "-o", "queue.csv"]) == 0
    assert "queue.csv: 40 samples" in capsys.readouterr().out
    first = Path("queue.csv").read_bytes()
    assert main(["evaluate", str(root), "--suggest-labels", "40"]) == 0
    printed = capsys.readouterr()
    assert printed.out.encode() == first, "the same store gives the same queue"
    assert "samples are left out that are like another one" in printed.err
    rows = list(csv.DictReader(first.decode().splitlines()))
    seqs = [int(row["seq"]) for row in rows]
    assert len(set(seqs)) == 40 and not set(seqs) & set(range(0, 100, 2)), "those with labels are known"
    same = [images[seq].tobytes() for seq in seqs]
    assert len(set(same)) == 40, "nothing twice"
    with Path("filled.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows({**row, "class": "dog"} for row in rows)
    assert main(["label", str(root / "cam"), "--csv", "filled.csv"]) == 0
    assert "40 learned" in capsys.readouterr().out
    assert main(["evaluate", str(root), "--labels", "filled.csv", "--before", "0"]) == 0
    assert "300, 90 with labels" in capsys.readouterr().out


def test_the_queue_says_what_is_unsure_first(looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Loop(looped, tmp_path / "cam", SYNC, source="x") as loop:
        said = {one.seq: one for one in map(loop.predict, noise(400, 1))}
    tables(tmp_path)
    assert main(["evaluate", str(tmp_path), "--suggest-labels", "20", "--json"]) == 0
    queue = json.loads(capsys.readouterr().out)
    entropy = [said[one["seq"]].entropy for one in queue["suggestions"]]
    assert np.mean(entropy) > np.quantile([one.entropy for one in said.values()], 0.6)
    assert [one["entropy"] for one in queue["suggestions"]] == pytest.approx(entropy)


def test_lineages_are_evaluated_each_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = Board()
    put(tmp_path, "cam", [run("door"), *answers(160)], clock=board)
    put(tmp_path, "cam", [run("gate", bundle="cd" * 32), *answers(40, first=160)], clock=board)
    tables(tmp_path)
    door, gate = figures(tmp_path, "cam")
    assert (door.lineage, door.answers, gate.lineage, gate.answers) == ("door", 160, "gate", 40)
    assert door.notes[0] == "2 lineages ran on this device, each is evaluated alone: door, gate"
    assert main(["evaluate", str(tmp_path), "--lineage", "gate"]) == 0
    out = capsys.readouterr().out
    assert "cam: gate" in out and "cam: door" not in out
    assert main(["evaluate", str(tmp_path), "--lineage", "shed"]) == 1
    assert "no lineage shed ran there; it has door, gate" in capsys.readouterr().err


def test_a_missing_bundle_is_named_with_where_it_was(tmp_path: Path) -> None:
    put(tmp_path, "cam", [run("door"), *answers(60)])
    tables(tmp_path)
    (found,) = figures(tmp_path, "cam")
    (note,) = [note for note in found.notes if "before learning" in note]
    assert f"bundle {'ab' * 32} (door) is not here; it was deployed to cam; give --bundles DIR" in note
    assert found.against is None and found.accuracy


def test_two_clocks_do_not_disturb_the_order(tmp_path: Path) -> None:
    """The second boot wakes up in the past: the order is that of the numbers."""
    put(tmp_path, "cam", [run("door"), *answers(100)], boot="b1")
    early = Board(wall=JUNE_NS - 3 * 86400 * 10**9, told=journal.Stamp.UNSYNCHRONISED)
    put(tmp_path, "cam", [run("door"), *answers(100, first=100)], boot="b2", clock=early)
    tables(tmp_path)
    (found,) = figures(tmp_path, "cam")
    assert [window.first_seq for window in found.over_time] == [0, 50, 100, 150]
    assert any("two clocks: boot b2 says that it ran 3 days before the end of boot b1" in note for note in found.notes)
    assert any("the clock was not known to be right for 100 answers, of boot b2" in note for note in found.notes)


def test_two_boards_under_one_name_are_told(tmp_path: Path) -> None:
    put(tmp_path, "cam", [run("door"), *answers(100)], boot="b1")
    put(tmp_path, "cam", [run("door"), *answers(60, seed=2)], boot="b2", clock=Board(wall=JUNE_NS + 10**13))
    tables(tmp_path)
    (found,) = figures(tmp_path, "cam")
    assert found.answers == 100
    assert any("60 numbers between 0 and 59 were given to two answers" in note for note in found.notes)


def test_without_labels_there_is_still_something_to_say(tmp_path: Path) -> None:
    quiet: list[Record] = []
    for record in answers(200):
        if isinstance(record, Prediction):
            record.ClearField("y")
        quiet.append(record)
    put(tmp_path, "cam", [run("door"), *quiet, Shift(seq=150, began=True, test="window")])
    tables(tmp_path)
    (found,) = figures(tmp_path, "cam")
    assert [found.accuracy, found.matrix, found.novelty, found.calibration.ece] == [None] * 4
    assert found.behaviour.entropy.low is not None and 0 < found.behaviour.steady < 1
    assert [one.by for one in found.recoveries] == ["entropy"]
    assert any(note.startswith("no labels: bring some with --labels FILE") for note in found.notes)


def test_what_is_not_in_the_tables_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "no tables yet; edgecl ingest" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err
    put(tmp_path, "cam", [run("door"), *answers(20)])
    put(tmp_path, "idle", [run("door")])
    tables(tmp_path)
    assert main(["evaluate", str(tmp_path), "--device", "shed"]) == 1
    assert "shed: not in the tables" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--device", "idle"]) == 1
    assert "idle: it has answered nothing" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--json"]) == 7, "one of two could be evaluated"
    assert json.loads(capsys.readouterr().out)["device"] == "cam"
    assert main(["evaluate", str(tmp_path), "--device", "cam", "--suggest-labels", "5"]) == 1
    assert "no samples are here to be labelled" in capsys.readouterr().err
    put(tmp_path, "cam", answers(20, first=20), boot="b2")
    assert main(["evaluate", str(tmp_path), "--device", "cam"]) == 0
    assert "1 segments that were pulled are not in the tables" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("number,class\n1,cat\n", "no columns seq and class"),
        ("seq,class\nfirst,cat\n", "labels.csv:2: seq 'first' is no number of a sample"),
        ("seq,class\n\x00\xff", "labels.csv"),
    ],
)
def test_a_file_of_labels_that_is_none_is_refused(
    content: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "store", "cam", [run("door"), *answers(20)])
    tables(tmp_path / "store")
    (tmp_path / "labels.csv").write_bytes(content.encode("latin-1"))
    assert main(["evaluate", str(tmp_path / "store"), "--labels", str(tmp_path / "labels.csv")]) == 1
    assert says in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_the_device_that_is_unlike_the_others_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        records = answers(160, seed=number)
        for record in records:
            if isinstance(record, Prediction) and number == 4:
                record.entropy += 3
        put(tmp_path, f"cam-{number}", [run("door"), *records])
    tables(tmp_path)
    fleet = evaluate_fleet(HostStore(tmp_path))
    assert (fleet.devices[0].device, fleet.devices[0].odd) == ("cam-4", "entropy")
    assert fleet.devices[0].distance > 5 and fleet.notes == ()
    assert main(["evaluate", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("cam-4")
    shutil.rmtree(tmp_path / "cam-4")
    tables(tmp_path)
    assert evaluate_fleet(HostStore(tmp_path)).devices[0].device == "cam-4", "its tables are still there"


def stream(correct: npt.NDArray[Any], entropy: npt.NDArray[Any] | None = None) -> Answers:
    """Answers, ten a second, that are right where it says."""
    count = len(correct)
    none = np.zeros(count, np.int64)
    return Answers(
        seq=np.arange(count), time_us=np.arange(count) * 100_000, label=correct.astype(int), truth=none + 1,
        confidence=none + 0.5, entropy=none + 0.5 if entropy is None else entropy, similarity=none + np.nan,
        novel=none > 0, domain=none, latency_ms=none + 1.0, bundle=none,
    )  # fmt: skip


def test_the_time_until_answers_are_good_again() -> None:
    """Right for 500, wrong for 100, right again: the mean over 64 is within 0.05 again 61 answers after that."""
    correct = np.ones(1000, bool)
    correct[500:600] = False
    (one,) = recoveries(stream(correct), [Change(500, "night", told_late=False)])
    assert (one.by, one.before, one.worst, one.answers) == ("accuracy", 1.0, 0.0, 160)
    assert one.seconds == pytest.approx(16.0)
    (late,) = recoveries(stream(correct), [Change(530, "shift")])
    assert late.answers == 160 - 3, "it began where the level fell, three answers in"
    correct[600:] = False
    (never,) = recoveries(stream(correct), [Change(500, "night", told_late=False)])
    assert (never.answers, never.seconds) == (None, None)
    (calm,) = recoveries(stream(np.ones(1000, bool)), [Change(500, "night", told_late=False)])
    assert calm.answers == 0


def test_without_labels_the_entropy_tells_of_recovery() -> None:
    entropy = np.full(1000, 0.2)
    entropy[500:550] = 1.0
    answers_ = stream(np.ones(1000, bool), entropy)
    (one,) = recoveries(replace(answers_, truth=answers_.truth * 0 - 1), [Change(500, "night", told_late=False)])
    assert one.by == "entropy" and one.before == pytest.approx(0.2) and one.worst > 0.8
    assert one.answers is not None and 50 < one.answers < 50 + 64


def test_changes_that_are_told_twice_are_one() -> None:
    found = joined([Change(100, "shift"), Change(130, "domain-1"), Change(400, "source"), Change(410, "shift")])
    assert found == [Change(100, "domain-1"), Change(400, "source")]
