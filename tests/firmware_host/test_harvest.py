"""A data set out of a host store: each sample once, with its label and where it is from; what is missing is counted."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecl import state
from edgecl.bundle import open_bundle, read_canaries
from edgecl.cli import main
from edgecl.errors import EXIT_DATA_LOST, EXIT_USAGE
from edgecl.journal import Label, Prediction, Sample, segments
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.sources import Npz
from export import project
from export.build import build
from firmware_host.harvest.choice import moment
from firmware_host.merge.combine import pairs
from firmware_host.merge.states import read as read_states
from tests.edgecl.test_domains import dark, noise
from tests.export import projects
from tests.firmware_host.hosts import Host
from tests.firmware_host.pulled import put, run
from tests.firmware_host.stores import ingested, lived

NAMES = ("cat", "dog", "owl", "yak")
FREELY = ('memory = "200 MB"', 'memory = "0 MB"')
"""This process has torch in it, more than any budget allows."""


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory, looped: Path) -> Path:
    """Two boards: one knows labels from its source and learned some, the other was told labels and a new class."""
    store = tmp_path_factory.mktemp("pulled")

    def told(loop: Loop) -> None:
        loop.operations.add_class("emu")
        loop.operations.label([Given(seq, ("dog", "emu")[seq % 2]) for seq in range(10, 30)])
        loop.operations.label([Given(12, "owl")])

    lived(store, "one", looped, noise(60, 1), [place % 4 for place in range(60)])
    lived(store, "two", looped, [*noise(40, 2), *noise(60, 1)[:5]], [None] * 45, then=told)
    ingested(store)
    return store


@pytest.fixture
def harvest(host: Host, pulled: Path, looped: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Give the command: its exit code, what `dataset.json` says, and what it told on stderr."""

    def do(*words: object, store: Path = pulled) -> tuple[int, dict[str, Any], str]:
        done = host("harvest", store, "-o", tmp_path / "set", "--bundles", looped, "--json", *words)
        about = json.loads((tmp_path / "set" / "dataset.json").read_text()) if done.code in (0, EXIT_DATA_LOST) else {}
        if about:
            assert json.loads(done.out) == about
        return done.code, about, done.err

    return do


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "provenance.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def arrays(folder: Path, part: str) -> tuple[Any, Any]:
    with np.load(folder / f"{part}.npz") as file:
        return file["x"], file["y"] if "y" in file.files else None


def test_every_sample_comes_once_with_its_label_and_its_origin(
    harvest: Callable[..., Any], looped: Path, tmp_path: Path
) -> None:
    code, about, _ = harvest()
    assert code == 0
    assert about["classes"] == [*NAMES, "emu"] and about["added"] == ["emu"]
    assert about["samples"] == {"train": 64, "held_out": 16, "unlabelled": 0}
    assert about["left"]["unlabelled"] == 20 and about["left"]["duplicates"] == 5
    told = rows(tmp_path / "set")
    assert [row["set"] for row in told] == ["held_out"] * 16 + ["train"] * 64
    assert len({row["sha256"] for row in told}) == 80
    with open_bundle(looped) as bundle:
        identity = bundle.id
        for part in ("train", "held_out"):  # what `edgecl run npz:` takes
            assert len(list(Npz(str(tmp_path / "set" / f"{part}.npz"), bundle.manifest.input, about["classes"]))) > 0
    seen = {"one": noise(60, 1), "two": noise(40, 2)}
    for part in ("train", "held_out"):
        x, y = arrays(tmp_path / "set", part)
        mine = [row for row in told if row["set"] == part]
        assert [int(row["place"]) for row in mine] == list(range(len(x)))
        for place, row in enumerate(mine):
            seq = int(row["seq"])
            assert (x[place] == seen[row["device"]][seq]).all()
            assert row["class"] == about["classes"][y[place]]
            assert row["bundle"] == identity and datetime.fromisoformat(row["time"])
            if row["device"] == "one":
                assert (row["labelled_by"], y[place]) == ("source", seq % 4)
            else:
                name = "owl" if seq == 12 else ("dog", "emu")[seq % 2]
                assert (row["labelled_by"], row["class"]) == ("board", name)


def test_the_same_store_gives_the_same_bytes(harvest: Callable[..., Any], tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert harvest()[0] == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()})
    assert made[0] == made[1] and set(made[0]) == {"train.npz", "held_out.npz", "provenance.csv", "dataset.json"}


def test_held_out_are_stretches_and_never_more_than_asked(harvest: Callable[..., Any], tmp_path: Path) -> None:
    _, about, _ = harvest("--held-out", "0.5")
    assert about["samples"]["held_out"] == 40
    seqs = sorted(
        int(row["seq"]) for row in rows(tmp_path / "set") if (row["set"], row["device"]) == ("held_out", "one")
    )
    assert all(seq // 4 * 4 + place in seqs for seq in seqs for place in range(4)), seqs  # stretches of 80 // 20
    assert harvest("--held-out", "0")[1]["samples"]["held_out"] == 0


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--device", "two"], 20),
        (["--device", "one", "--device", "two"], 80),
        (["--labelled", "--query", "SELECT device, seq FROM predictions WHERE device = 'one' AND seq < 7"], 7),
        (["--query", "SELECT 'two' AS device, 3::BIGINT AS seq, 1 AS more"], 1),
        (["--domain", "source", "--labelled"], 80),
        (["--since", "1 d"], 80),
        (["--suggested", "9"], 9),
        (["--balanced"], 5 * 10),
        (["--most", "3"], 15),
        (["--balanced", "--most", "2", "--device", "one"], 8),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else str(value),
)
def test_samples_are_chosen(harvest: Callable[..., Any], words: list[str], count: int, tmp_path: Path) -> None:
    code, about, _ = harvest(*words)
    assert code == 0
    assert sum(about["samples"].values()) == count == len(rows(tmp_path / "set"))


def test_nothing_chosen_is_one_line(harvest: Callable[..., Any], pulled: Path) -> None:
    for words in (["--novel"], ["--domain", "night"], ["--since", "2199-01-01"], ["--device", "three"]):
        code, _, err = harvest(*words)
        assert (code, err.splitlines()[-1][:30]) == (1, "edgecl: no sample that is kept")


def test_suggested_are_unsure_and_unlike_each_other(harvest: Callable[..., Any], looped: Path, tmp_path: Path) -> None:
    assert harvest("--suggested", "6")[1]["samples"] == {"train": 0, "held_out": 0, "unlabelled": 6}
    told = rows(tmp_path / "set")
    x, y = arrays(tmp_path / "set", "unlabelled")
    assert y is None and len(x) == 6
    assert {row["device"] for row in told} == {"two"} and not any(row["class"] for row in told)
    assert harvest("--suggested", "99")[1]["samples"]["unlabelled"] == 20
    every = sorted(float(row["entropy"]) for row in rows(tmp_path / "set"))
    assert np.mean([float(row["entropy"]) for row in told]) > np.mean(every)
    store = tmp_path / "store"
    same = noise(2, 7)
    same[1] = same[0]
    same[1, 0, 0, 0] ^= 1
    lived(store, "one", looped, [*noise(10, 1), *[*same] * 5], [None] * 20)
    ingested(store)
    _, about, _ = harvest("--suggested", "12", store=store)
    assert (
        about["samples"]["unlabelled"] == 11 and about["left"]["duplicates"] == 8
    )  # one bit more is not another thing


def test_labels_of_a_file_stand_above_others(harvest: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "device,seq,class,by\none,0,yak,ann\none,1,dog,ann\ntwo,0,cat,\ntwo,31,bat,bob\n"
        "two,x,cat,\nfour,1,cat,\ntwo,900,cat,\none,2,,\n"
    )
    code, about, err = harvest("--labels", file)
    assert code == EXIT_DATA_LOST
    assert about["left"]["refused_labels"] == 4 and about["left"]["dropped_labels"] == 1
    assert "labels.csv:6: seq 'x' is no number" in err and "device 'four' is none" in err
    assert "no class 'bat' (1 labels); there are cat, dog, owl, yak, emu; or give --new-classes" in err
    told = {(row["device"], row["seq"]): (row["class"], row["labelled_by"]) for row in rows(tmp_path / "set")}
    assert told["one", "0"] == ("yak", "ann") and told["two", "0"] == ("cat", "file")
    assert ("two", "31") not in told
    code, about, _ = harvest("--labels", file, "--new-classes")
    assert about["added"] == ["emu", "bat"]
    assert about["left"]["contradicting"] == 0


def test_equal_samples_of_different_labels_are_left_out(harvest: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("device,seq,class\ntwo,40,yak\n")  # the same image as the first of the other board, a cat there
    _, about, _ = harvest("--labels", file)
    assert about["left"]["contradicting"] == 2 and sum(about["samples"].values()) == 79


def test_images_for_people(harvest: Callable[..., Any], tmp_path: Path) -> None:
    from PIL import Image

    harvest("--images", "--held-out", "0", "--device", "two", "--query", "SELECT device, seq FROM samples")
    made = sorted(str(path.relative_to(tmp_path / "set")) for path in (tmp_path / "set").rglob("*.png"))
    assert "train/emu/two-11.png" in made and "unlabelled/two-30.png" in made and len(made) == 45
    assert (np.asarray(Image.open(tmp_path / "set" / "train/emu/two-11.png")) == noise(40, 2)[11]).all()


def test_labels_of_dropped_samples_are_told(
    harvest: Callable[..., Any], pulled: Path, looped: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    lived(
        store, "one", looped, dark(40, 1), [None] * 40,
        then=lambda loop: loop.operations.label([Given(seq, "cat") for seq in range(30)]),
    )  # fmt: skip
    (kept,) = segments(store / "one" / "samples")
    kept.unlink()
    with open_bundle(looped) as bundle:
        small = [Sample(seq=seq, dtype="uint8", shape=(8, 8, 3), x=bytes([seq]) * 192) for seq in range(25, 30)]
        odd = Sample(seq=30, dtype="uint8", shape=(9, 8, 3), x=bytes(216))
        lying = Sample(seq=31, dtype="uint8", shape=(8, 8, 3), x=bytes(7))
        put(store, "one", [*small, odd, lying], folder="samples", boot="b0")
        put(store, "two", [run("looped", bundle=bundle.id), Prediction(seq=0, label=1, y=3)])
    ingested(store)
    code, about, err = harvest(store=store)
    assert code == EXIT_DATA_LOST
    assert (about["left"]["dropped_labels"], about["left"]["unfit"]) == (25, 2)
    assert "25 labels of samples that are not kept" in err
    assert about["samples"]["train"] + about["samples"]["held_out"] == 5
    put(store, "one", [Label(seq=2, y=1, name="dog")], boot="b2")
    code, _, err = harvest(store=store)
    assert "1 segments are not in the tables yet" in err
    for path in segments(store / "one" / "samples"):
        path.write_bytes(path.read_bytes()[:60])
    code, about, err = harvest("--query", "SELECT device, seq FROM samples", store=store)
    assert (code, about["left"]["missing"], sum(about["samples"].values())) == (EXIT_DATA_LOST, 7, 0)


def test_mixed_lineages_are_refused_until_one_is_chosen(
    harvest: Callable[..., Any], make_bundle: Callable[..., Path], looped: Path, host: Host, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    other = make_bundle(tmp_path / "other.ecl", name="other", lineage="other")
    lived(store, "one", looped, noise(20, 1), [0] * 20)
    lived(store, "two", other, noise(20, 2), [1] * 20)
    ingested(store)
    code, _, err = harvest(store=store)
    assert (code, err) == (
        1,
        "edgecl: these samples are of several lineages, looped, other; choose one with --lineage\n",
    )
    assert harvest("--lineage", "looped", store=store)[1]["devices"] == ["one"]
    shutil.rmtree(store / "two" / "cache")
    gone = host("harvest", store, "-o", tmp_path / "x", "--lineage", "other")
    assert gone.code == 1 and "(other@1), which tells the names of the classes, is not here" in gone.err


def test_what_cannot_be_is_one_line(harvest: Callable[..., Any], host: Host, pulled: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, code, said in (
        (["--query", "SELECT seq FROM predictions"], EXIT_USAGE, "it gives seq; give device and seq"),
        (["--query", "DROP TABLE runs"], EXIT_USAGE, "asks for nothing"),
        (["--query", "SELECT nothing"], EXIT_USAGE, "see edgecl query"),
        (["--query", "SELECT 'x' AS device, 'y' AS seq"], EXIT_USAGE, "query: "),
        (["--since", "tomorrow"], EXIT_USAGE, '"tomorrow" is no time'),
        (["--new-classes"], EXIT_USAGE, "give --labels"),
        (["--labels", tmp_path / "none.csv"], 1, "No such file"),
        (["-o", tmp_path / "mine"], 1, "it is there, and no data set"),
        (["-o", "/proc/nowhere/set"], 1, "give another -o"),
    ):
        found = harvest(*words)
        assert (found[0], said in found[2]) == (code, True), (words, found)
        assert len(found[2].splitlines()) <= 4
    assert "it has no tables yet" in host("harvest", empty, "-o", tmp_path / "x").err
    assert "no such folder" in host("harvest", tmp_path / "gone", "-o", tmp_path / "x").err
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    assert harvest("--labels", tmp_path / "bad.csv")[0] == 1
    (tmp_path / "bad.csv").write_text("seq,name\n1,cat\n")
    assert "no column class, device" in harvest("--labels", tmp_path / "bad.csv")[2]


def test_moments() -> None:
    now = datetime.fromisoformat("2025-06-15T12:00:00+00:00")
    assert moment("3 d", now) == datetime(2025, 6, 12, 12)
    assert moment("90min", now) == datetime(2025, 6, 15, 10, 30)
    assert moment("2025-06-01", now) == datetime(2025, 6, 1)
    assert moment("2025-06-01T02:00+02:00", now) == datetime(2025, 6, 1)


PEAK = """
import resource, sys
from pathlib import Path
from edgecl.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def test_memory_does_not_grow_with_the_samples(tmp_path: Path, make_bundle: Callable[..., Path], looped: Path) -> None:
    peaks = []
    with open_bundle(looped) as bundle:
        identity = bundle.id
    chance = np.random.default_rng(0)
    for count in (200, 3200):  # of 65 kB each
        store = tmp_path / str(count)
        bundle_ = (
            make_bundle(tmp_path / "wide.ecl", canary_count=1)
            if not (tmp_path / "wide.ecl").exists()
            else tmp_path / "wide.ecl"
        )
        with open_bundle(bundle_) as bundle:
            identity = bundle.id
        put(
            store, "one", [run("looped", bundle=identity), *(Prediction(seq=s, label=0, y=s % 4) for s in range(count))]
        )
        put(
            store, "one",
            (
                Sample(seq=s, y=s % 4, dtype="uint8", shape=(8, 8, 3), x=chance.bytes(192), position=s)
                for s in range(count)
            ),
            folder="samples",
        )  # fmt: skip
        ingested(store)
        command = [sys.executable, "-c", PEAK, "harvest", str(store), "-o", str(tmp_path / f"set{count}"), "--bundles"]
        done = subprocess.run([*command, str(bundle_)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 20_000, peaks  # kB


def test_a_harvest_is_built_into_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user would: a bundle, its life on two boards, and the next bundle, with one class more, of what was kept."""
    first = projects.write(tmp_path / "first", *projects.named("norm", FREELY))
    build(project.read(first), tmp_path / "first.ecl").bundle.close()
    x, y = project.read(first).data("model:samples")
    store = tmp_path / "store"
    black = np.random.default_rng(9).integers(0, 40, (24, 8, 8, 3)).astype(np.uint8)

    def told(loop: Loop) -> None:
        loop.operations.add_class("black")
        loop.operations.label([Given(seq, "black") for seq in range(24)])

    lived(store, "one", tmp_path / "first.ecl", x, y.tolist())
    lived(store, "two", tmp_path / "first.ecl", black, [None] * 24, then=told)
    ingested(store)
    command = ["harvest", str(store), "-o", str(tmp_path / "set"), "--bundles", str(tmp_path / "first.ecl")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "120 samples of 2 devices (96 train, 24 held out)" in said
    lines = said.partition("in edgecl.toml:\n\n")[2].splitlines()
    second = projects.write(
        tmp_path / "second",
        *projects.named("norm", FREELY),
        ('classes = ["red", "green", "blue"]', lines[1]),
        ('train = "model:samples"', "\n".join(lines[3:5])),
    )
    model = (second / "model.py").read_text().replace("nn.Linear(16, 3)", "nn.Linear(16, 4)")
    (second / "model.py").write_text(model)
    assert main(["build", str(second), "-o", str(tmp_path / "second.ecl")]) == 0
    with open_bundle(tmp_path / "second.ecl") as bundle:
        assert bundle.manifest.classes == ("red", "green", "blue", "black")
        canaries = read_canaries(bundle)
    with np.load(tmp_path / "set" / "held_out.npz") as file:
        held = {one.tobytes(): int(label) for one, label in zip(file["x"], file["y"], strict=True)}
    assert all(held[one.tobytes()] == label for one, label in zip(canaries.x, canaries.y.tolist(), strict=True))
    _statistics_of_real_boards_are_pooled(store, tmp_path / "first.ecl", tmp_path / "merged.safetensors")


def _statistics_of_real_boards_are_pooled(store: Path, bundle: Path, out: Path) -> None:
    command = ["merge", str(store / "one"), str(store / "two"), "--bundle", str(bundle), "-o", str(out), "--anyway"]
    assert main([*command, "--held-out", str(store)]) == 0
    with open_bundle(bundle) as opened:
        layout = opened.manifest.layout
        one, two = (entry.state for entry in read_states([store / "one", store / "two"], opened, "source"))
        merged = state.load(out, layout)
    found = [*pairs(layout.theta), *pairs(layout.slots)]
    assert len(found) == 4  # two normalisations, as they are used and as they run
    share = one.step / (one.step + two.step)
    for mean, var in found:
        middle = share * one.piece(mean.name) + (1 - share) * two.piece(mean.name)
        within = share * one.piece(var.name) + (1 - share) * two.piece(var.name)
        between = share * (1 - share) * (one.piece(mean.name) - two.piece(mean.name)) ** 2
        assert merged.piece(mean.name) == pytest.approx(middle, rel=1e-5, abs=1e-6)
        assert merged.piece(var.name) == pytest.approx(within + between, rel=1e-4) and between.max() > 0
