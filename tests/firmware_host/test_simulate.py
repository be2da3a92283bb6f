"""Simulated fleets: the same seed makes the same bytes, and everything that reads a host store reads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecl import journal, sources
from edgecl.bundle import open_bundle
from edgecl.cli import main
from edgecl.journal import Label, Prediction, Run
from firmware_host.simulate import schedule
from firmware_host.simulate.data_set import DataError, DataSet, unpack
from firmware_host.simulate.drifts import DRIFTS
from firmware_host.simulate.fleet import PLAN
from tests.edgecl.test_domains import noise

OPTIONS = ("--devices", "4", "--samples", "150", "--labels", "0.1", "--power-cuts", "1", "--checkpoint-every", "5")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, x=noise(300, 1), y=np.arange(300) % 4)
    return path


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def cached(cache_home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache_home)


def simulated(bundle: Path, data: Path, store: Path, *options: str) -> int:
    return main(["simulate", str(bundle), "--source", f"npz:{data}", "--out", str(store), *OPTIONS, *options])


@pytest.fixture(scope="module")
def fleet(looped: Path, data: Path, cache_home: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four boards, made in this process."""
    store = tmp_path_factory.mktemp("fleet") / "store"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", cache_home)
        assert simulated(looped, data, store) == 0
    return store


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_makes_the_same_bytes_whatever_the_workers(
    looped: Path, data: Path, fleet: Path, tmp_path: Path
) -> None:
    assert simulated(looped, data, tmp_path / "two", "--workers", "2") == 0
    assert contents(tmp_path / "two") == contents(fleet)
    assert simulated(looped, data, tmp_path / "other", "--seed", "1", "--devices", "1") == 0
    assert contents(tmp_path / "other" / "sim-0001") != contents(fleet / "sim-0001")


def test_boards_differ_and_have_lived(fleet: Path) -> None:
    runs = answers = labels = 0
    for device in ("sim-0001", "sim-0002", "sim-0003", "sim-0004"):
        records = list(journal.read(fleet / device / "journal"))
        runs += sum(isinstance(record, Run) for record in records)
        labels += sum(isinstance(record, Label) for record in records)
        mine = [record for record in records if isinstance(record, Prediction)]
        answers += len(mine)
        assert {record.position for record in mine} == set(range(150))
        days = {record.stamp.wall_ns // (86_400 * 10**9) for record in mine}
        assert len(days) == 4
        assert all(record.HasField("y") and record.latency_ns > 0 for record in mine)
    assert runs > 4, "some had a power cut"
    assert labels > 20


def test_a_simulated_fleet_is_replayed_and_asked(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(fleet, store)
    capsys.readouterr()
    assert main(["replay", str(store), "--json"]) == 0, "the bundle is found, as if it had been deployed from here"
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["outcome"] for one in found] == ["bit-equal"] * 4
    assert main(["ingest", str(store)]) == 0
    capsys.readouterr()
    assert main(["query", "SELECT count(DISTINCT device) AS devices FROM predictions", "--store", str(store)]) == 0
    assert "4" in capsys.readouterr().out


def test_a_simulation_goes_on_where_it_was(
    looped: Path, data: Path, fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(fleet, store)
    shutil.rmtree(store / "sim-0003")
    (store / ".simulating" / "sim-0003" / "journal").mkdir(parents=True)
    capsys.readouterr()
    assert simulated(looped, data, store, "--json") == 0
    assert [json.loads(line)["device"] for line in capsys.readouterr().out.splitlines()] == ["sim-0003"]
    assert contents(store) == contents(fleet)
    assert simulated(looped, data, store, "--devices", "5") == 0, "a fleet may grow"
    assert simulated(looped, data, store, "--labels", "0.2") == 1
    assert "was simulated with other options" in capsys.readouterr().err
    (store / PLAN).unlink()
    assert simulated(looped, data, store) == 1
    assert "was not simulated" in capsys.readouterr().err


def test_what_cannot_be_simulated_is_refused(
    looped: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulated(looped, data, tmp_path / "store", "--drift", "rain") == 2
    assert "drift rain: unknown" in capsys.readouterr().err
    assert not list(tmp_path.rglob("sim-*")) and not (tmp_path / "store" / ".simulating").exists()
    assert main(["simulate", str(looped), "--source", "stdin", "--out", str(tmp_path)]) == 2
    assert main(["simulate", str(looped), "--source", f"npz:{tmp_path / 'none.npz'}", "--out", str(tmp_path)]) == 1


def test_what_was_learned_is_kept_and_truths_are_not_told_where_asked(looped: Path, data: Path, tmp_path: Path) -> None:
    assert simulated(looped, data, tmp_path, "--devices", "1", "--learned", "--blind", "--drift", "none") == 0
    assert list((tmp_path / "sim-0001" / "learned" / "looped").glob("*.json"))
    records = list(journal.read(tmp_path / "sim-0001" / "journal"))
    assert not any(record.HasField("y") for record in records if isinstance(record, Prediction))


@pytest.mark.parametrize("name", DRIFTS["image"])
@pytest.mark.parametrize("shape", [(8, 8, 3), (32, 24, 1)], ids=str)
def test_drifts_of_images(name: str, shape: tuple[int, ...]) -> None:
    drift, x = DRIFTS["image"][name], np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    x.flags.writeable = False
    once, again = (drift(x, 0.7, np.random.default_rng(4)) for _ in range(2))
    assert once.dtype == x.dtype and once.shape == x.shape
    assert np.array_equal(once, again)
    far = [np.abs(drift(x, one, np.random.default_rng(4)).astype(int) - x).mean() for one in (0.0, 0.3, 1.0)]
    assert far[0] == 0 and 0 < far[1] <= far[2]


@pytest.mark.parametrize("name", DRIFTS["vector"])
def test_drifts_of_vectors(name: str) -> None:
    drift, x = DRIFTS["vector"][name], np.random.default_rng(3).standard_normal((2, 30)).astype(np.float32)
    once, again = (drift(x, 0.7, np.random.default_rng(4)) for _ in range(2))
    assert once.dtype == x.dtype and once.shape == x.shape and np.isfinite(once).all()
    assert np.array_equal(once, again)
    far = [np.abs(drift(x, one, np.random.default_rng(4)) - x).mean() for one in (0.0, 0.3, 1.0)]
    assert far[0] == 0 and 0 < far[1] <= far[2]


def test_schedules_are_within_a_life() -> None:
    patterns = set()
    for seed in range(200):
        drawn = schedule.draw(np.random.default_rng(seed), 100, list(DRIFTS["image"]))
        patterns.add(drawn.pattern)
        for position in range(100):
            assert all(0 < severity <= 1 for _, severity in drawn.at(position))
        assert not drawn.at(100)
        assert bool(drawn.stretches) == (drawn.pattern != "steady")
    assert patterns == set(schedule.PATTERNS)
    assert schedule.draw(np.random.default_rng(1), 100, []).pattern == "steady"


def test_a_folder_of_images_is_a_data_set(looped: Path, tmp_path: Path) -> None:
    images, into = noise(5, 2), tmp_path / "into"
    into.mkdir()
    for name, image in zip("abcd", images, strict=False):
        (tmp_path / "x" / "dog").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "x" / "dog" / f"{name}.png")
    (tmp_path / "x" / "dog" / "c.png").write_bytes(b"no image")
    with open_bundle(looped) as opened:
        unpack(f"folder:{tmp_path / 'x'}", opened.manifest, into)
        found = DataSet(into)
        assert np.array_equal(found.x, images[[0, 1, 3]]) and found.y.tolist() == [1, 1, 1]
        with pytest.raises(DataError, match="cannot be had again"):
            unpack("stdin", opened.manifest, into)
        for path in (tmp_path / "x" / "dog").iterdir():
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match="no sample in it"):
            unpack(f"folder:{tmp_path / 'x'}", opened.manifest, into)
        with pytest.raises(sources.SourceError):
            unpack(f"npz:{tmp_path / 'none.npz'}", opened.manifest, into)
