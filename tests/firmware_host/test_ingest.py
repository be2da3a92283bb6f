"""Tables of what was pulled: every record once, whatever is interrupted, late, damaged or of a wrong time."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgecl import journal
from edgecl.cli import main
from edgecl.errors import EXIT_DATA_LOST, StoreError
from edgecl.journal import Gap, Stamp
from firmware_host import query, tables
from firmware_host.host_store import HostStore, Part
from firmware_host.ingest import FAN, Ingested, ingest, news, watched
from tests.edgecl.test_journal import one_of_each
from tests.firmware_host.pulled import JUNE_NS, Board, answers, put, run

GOLDEN = Path(__file__).parents[1] / "data" / "journal"
CAM = "cam"


def taken(root: Path, **settings: Any) -> list[Ingested]:
    return list(ingest(HostStore(root), **settings))


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with query.opened(HostStore(root)) as connection:
        return [tuple(row) for row in query.ask(connection, sql).fetchall()]


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in (root / ".tables").rglob("*.parquet*")}


def seqs(root: Path) -> list[int]:
    return [seq for (seq,) in rows(root, "SELECT seq FROM predictions ORDER BY seq")]


# What comes in


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.mcap")))
def test_every_kind_of_record_becomes_a_row_with_all_its_fields(name: str, tmp_path: Path) -> None:
    place = tmp_path / CAM / "journal"
    place.mkdir(parents=True)
    shutil.copy(GOLDEN / f"{name}.mcap", place / "x-1.mcap")
    told = [json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text().splitlines()]
    (one,) = taken(tmp_path)
    assert (one.records, one.lost) == (len(told), ())
    for topic, table in tables.NAMES.items():
        expected = [record["record"] for record in told if record["topic"] == topic]
        with query.opened(HostStore(tmp_path)) as connection:
            found = query.ask(connection, f"SELECT * FROM {table}").to_arrow_table().to_pylist()
        assert len(found) == len(expected)
        for row, record in zip(found, expected, strict=True):
            assert row["boot"] == record["stamp"]["boot"] and row["device"] == CAM
            for field, value in record.items():
                if field == "stamp":
                    continue
                if field in ("settings", "domains", "scores", "x"):
                    assert row["bytes" if field == "x" else field]
                elif isinstance(row[field], float):
                    assert row[field] == pytest.approx(float(value), rel=1e-6)
                elif isinstance(row[field], list):
                    assert [str(one) for one in row[field]] == [str(one) for one in value]
                else:
                    assert str(row[field]).lower() == str(value).lower(), field


def test_an_absent_value_is_null_and_not_0(tmp_path: Path) -> None:
    put(tmp_path, CAM, [journal.Prediction(seq=1, y=0), journal.Prediction(seq=2)])
    taken(tmp_path)
    assert rows(tmp_path, "SELECT seq, y, similarity FROM predictions ORDER BY seq") == [(1, 0, None), (2, None, None)]


def test_records_belong_to_their_run_and_its_bundle(tmp_path: Path) -> None:
    """Over segments and ingests, and of two lineages on one device."""
    board = Board()
    put(tmp_path, CAM, [run("door"), *answers(200)], clock=board, segment_bytes=4000)
    taken(tmp_path)
    put(tmp_path, CAM, [journal.Loss(file="x"), run("gate", bundle="cd" * 32), *answers(50, first=200)], clock=board)
    put(tmp_path, "other", [run("door"), *answers(10)])
    taken(tmp_path)
    found = rows(
        tmp_path,
        "SELECT device, lineage, count(*) FROM predictions JOIN runs USING (device, boot, run) "
        "GROUP BY ALL ORDER BY ALL",
    )
    assert found == [(CAM, "door", 200), (CAM, "gate", 50), ("other", "door", 10)]
    assert rows(tmp_path, "SELECT bundle[:2], count(*) FROM updates GROUP BY ALL ORDER BY ALL") == [
        ("ab", 12),
        ("cd", 3),
    ]
    assert rows(tmp_path, "SELECT bundle, run FROM losses")[0][0] == ""
    assert rows(tmp_path, "SELECT lineages, name, runs FROM devices WHERE device = 'cam'") == [(2, "gate", 2)]


def test_only_what_is_new_is_taken(tmp_path: Path) -> None:
    put(tmp_path, CAM, [run(), *answers(300)], segment_bytes=4000)
    (first,) = taken(tmp_path)
    before = files(tmp_path)
    assert first.segments > 2 and first.records == 301 + 18
    (again,) = taken(tmp_path)
    assert (again.segments, again.records, again.there) == (0, 0, first.segments)
    assert files(tmp_path) == before and not news(HostStore(tmp_path))
    put(tmp_path, CAM, [run(), *answers(20, first=300)])
    assert news(HostStore(tmp_path))
    (more,) = taken(tmp_path)
    assert (more.segments, more.records, more.there) == (1, 23, first.segments)
    assert before.items() <= files(tmp_path).items()
    assert seqs(tmp_path) == list(range(320))


def test_all_tables_can_be_made_anew(tmp_path: Path) -> None:
    put(tmp_path, CAM, [run(), *answers(50)])
    taken(tmp_path)
    (tmp_path / ".tables" / f"{CAM}.json").write_text("{")
    with pytest.raises(StoreError, match="not an index of tables; make them anew: edgecl ingest --again"):
        taken(tmp_path)
    taken(tmp_path, again=True)
    assert seqs(tmp_path) == list(range(50))


def test_many_small_parts_become_one(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path, CAM, [run(), *answers(30, first=30 * number)])
        taken(tmp_path)
    store = HostStore(tmp_path)
    index = store.index(CAM)
    assert len(index.parts) < FAN
    assert {tmp_path / ".tables" / file for part in index.parts for file in part.files} == set(files(tmp_path))
    assert seqs(tmp_path) == list(range(600))
    assert rows(tmp_path, "SELECT count(*) FROM runs") == [(20,)]
    (nothing,) = taken(tmp_path)
    assert nothing.segments == 0


def test_what_was_made_by_another_edgecl_is_made_again_or_converted(tmp_path: Path) -> None:
    put(tmp_path, CAM, [run(), *answers(50)])
    (gone, *_) = put(tmp_path, "gone", [run(), *answers(50)])
    taken(tmp_path)
    store = HostStore(tmp_path)
    for index in store.indexes():
        old = tuple(msgspec.structs.replace(part, schema="another") for part in index.parts)
        store.write(msgspec.structs.replace(index, parts=old))
    gone.unlink()
    with pytest.raises(StoreError, match="made by another edgecl"):
        seqs(tmp_path)
    assert news(store)
    taken(tmp_path)
    found = rows(tmp_path, "SELECT device, count(*) FROM predictions GROUP BY ALL ORDER BY ALL")
    assert found == [("cam", 50), ("gone", 50)]


def test_a_store_is_watched(tmp_path: Path) -> None:
    put(tmp_path, CAM, [run(), *answers(10)])
    left = [30, 20]

    def wait() -> bool:
        if not left:
            return False
        count = left.pop()
        put(tmp_path, CAM, [run(), *answers(count, first=10 if left else 30)])
        return True

    found = [one.records for one in watched(HostStore(tmp_path), wait)]
    assert found == [11, 22, 33]


def test_devices_may_have_any_name(tmp_path: Path) -> None:
    store = tmp_path / "a [strange] 'place' %20*"
    for name in ("cam 1", "käfer", "x=y", "100%", "a'b"):
        put(store, name, [run(), *answers(3)])
    taken(store)
    found = rows(store, "SELECT DISTINCT device FROM predictions ORDER BY 1")
    assert [name for (name,) in found] == sorted(("cam 1", "käfer", "x=y", "100%", "a'b"), key=str.encode)


# What is harmed, late or interrupted


def test_of_a_torn_segment_the_records_before_the_damage_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = put(tmp_path, CAM, [run(), *answers(200)], every=10)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    expected = sum(isinstance(one, journal.Prediction) for one in journal.read(path))
    assert main(["ingest", str(tmp_path)]) == EXIT_DATA_LOST
    assert "b1-1.mcap: the last record is cut off" in capsys.readouterr().err
    assert seqs(tmp_path) == list(range(expected)) and expected > 10
    ((lost, reason),) = rows(tmp_path, "SELECT bytes_lost, reason FROM segments")
    assert lost > 0 and reason
    assert main(["ingest", str(tmp_path)]) == 0  # it was told
    path.write_bytes(data)  # the whole of it comes after all
    assert main(["ingest", str(tmp_path)]) == 0
    assert seqs(tmp_path) == list(range(200))


def test_mutated_segments_are_taken_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    (path,) = put(tmp_path, CAM, [*one_of_each(), *answers(60)], every=9)
    whole, chance = path.read_bytes(), random.Random(5)
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data[: chance.choice((len(data), chance.randrange(9, len(data))))])
        expected = sum(not isinstance(one, journal.Torn) for one in journal.read(path))
        (one,) = taken(tmp_path)
        assert one.records == expected
        assert rows(tmp_path, "SELECT sum(records) FROM segments") == [(expected,)]


def test_a_record_that_does_not_follow_its_schema_ends_a_segment(tmp_path: Path) -> None:
    from edgecl import segment

    place = tmp_path / CAM / "journal"
    place.mkdir(parents=True)
    writer = segment.Writer(place / "x-1.mcap")
    channel = segment.Channel("/prediction", "edgecl.Prediction", b"")
    for seq in range(5):
        writer.add(channel, 0, seq, journal.Prediction(seq=seq).SerializeToString())
    writer.flush()
    writer.add(channel, 0, 5, journal.Prediction(seq=5).SerializeToString())
    writer.add(channel, 0, 6, b"\xff\xff\xff")
    writer.seal()
    (one,) = taken(tmp_path)
    assert one.records == 5
    assert [segment.reason for segment in one.lost] == ["a record that does not follow its schema"]
    assert seqs(tmp_path) == list(range(5))


def test_a_segment_that_comes_late_finds_its_place(tmp_path: Path) -> None:
    segments = put(tmp_path, CAM, [run(), *answers(300)], segment_bytes=3000)
    early, late = segments[1], tmp_path / "late"
    shutil.move(early, late)
    taken(tmp_path)
    assert len(seqs(tmp_path)) < 300
    shutil.move(late, early)
    taken(tmp_path)
    assert seqs(tmp_path) == list(range(300))
    assert rows(tmp_path, "SELECT count(DISTINCT run), count(DISTINCT bundle) FROM predictions") == [(1, 1)]


def test_what_has_gone_from_the_store_stays_in_the_tables(tmp_path: Path) -> None:
    (path,) = put(tmp_path, CAM, [run(), *answers(40)])
    taken(tmp_path)
    shutil.rmtree(path.parent)
    (one,) = taken(tmp_path)
    assert (one.records, one.there) == (0, 0)
    assert seqs(tmp_path) == list(range(40))


KILLED = "import sys; from edgecl.cli import main; print('up', flush=True); sys.exit(main(['ingest', sys.argv[1]]))"


def test_an_ingest_that_is_killed_at_any_moment_goes_on(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path, f"cam{number}", [run(), *answers(1500)], segment_bytes=20_000)
    chance = random.Random(2)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as child:
            assert child.stdout and child.stdout.readline() == b"up\n"
            time.sleep(chance.uniform(0.05, 0.9))
            child.send_signal(signal.SIGKILL)
    taken(tmp_path)
    assert rows(
        tmp_path, "SELECT device, count(*), count(DISTINCT seq) FROM predictions GROUP BY ALL ORDER BY ALL"
    ) == [(f"cam{number}", 1500, 1500) for number in range(3)]
    store = HostStore(tmp_path)
    valid = {tmp_path / ".tables" / file for index in store.indexes() for part in index.parts for file in part.files}
    assert set(files(tmp_path)) == valid


# Clocks


def test_a_clock_that_is_set_later_gives_the_time_of_what_was_before(tmp_path: Path) -> None:
    """A board without a battery: 1970 until the network is up."""
    board = Board(wall=0, told=Stamp.UNKNOWN)

    def records() -> Any:
        yield run()
        for number, record in enumerate(answers(80)):
            if number == 40:
                board.wall, board.told = JUNE_NS, Stamp.SYNCHRONISED
            yield record

    put(tmp_path, CAM, records(), clock=board)
    taken(tmp_path)
    found = rows(tmp_path, "SELECT date, count(*), min(time), max(clock) FROM predictions GROUP BY ALL")
    assert found == [(date(2025, 6, 15), 80, datetime(2025, 6, 15, 15, 6, 41, 20_000), "unknown")]
    assert rows(tmp_path, "SELECT count(*) FROM predictions WHERE wall_ns < 1e18") == [(38,)]


def test_a_clock_that_a_later_segment_tells_moves_what_was_taken_before(tmp_path: Path) -> None:
    board = Board(wall=0, told=Stamp.UNSYNCHRONISED)
    put(tmp_path, CAM, [run(), *answers(40)], clock=board)
    taken(tmp_path)
    assert rows(tmp_path, "SELECT DISTINCT date FROM predictions") == [(date(1970, 1, 1),)]
    board.wall, board.told = JUNE_NS, Stamp.SYNCHRONISED
    put(tmp_path, CAM, [run(), *answers(40, first=40)], clock=board)
    taken(tmp_path)
    assert rows(tmp_path, "SELECT DISTINCT date FROM predictions") == [(date(2025, 6, 15),)]
    assert seqs(tmp_path) == list(range(80))


def test_a_device_with_two_clocks(tmp_path: Path) -> None:
    """Two boots: one never learned the time, the other did. Nothing is taken from the one for the other."""
    put(tmp_path, CAM, [run(), *answers(10)], boot="one", clock=Board(wall=0, told=Stamp.UNKNOWN))
    put(tmp_path, CAM, [run(), *answers(10, first=10)], boot="two")
    taken(tmp_path)
    found = rows(tmp_path, "SELECT boot, date, count(*) FROM predictions GROUP BY ALL ORDER BY ALL")
    assert found == [("one", date(1970, 1, 1), 10), ("two", date(2025, 6, 15), 10)]
    ordered = rows(tmp_path, "SELECT seq FROM predictions ORDER BY boot, monotonic_ns")
    assert [seq for (seq,) in ordered] == list(range(20))


@pytest.mark.parametrize("wall", [0, (1 << 63) - 10**15, (1 << 64) - 10**15])
def test_a_clock_that_is_far_off_harms_nothing(wall: int, tmp_path: Path) -> None:
    put(tmp_path, CAM, [run(), *answers(10)], clock=Board(wall=wall, told=Stamp.SYNCHRONISED))
    taken(tmp_path)
    assert seqs(tmp_path) == list(range(10))


# What is asked for and cannot be


def test_a_store_that_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, CAM, [run()])
    for place, words in (
        (tmp_path / "none", "no such folder; give the folder that edgecl pull filled"),
        (tmp_path / CAM, "the folder of one device; give the one above it"),
    ):
        assert main(["ingest", str(place)]) == 1
        told = capsys.readouterr().err
        assert words in told and told.count("\n") == 1
    with pytest.raises(StoreError, match="no device cem; there are cam"):
        taken(tmp_path, devices=["cem"])


def test_two_do_not_ingest_at_once(tmp_path: Path) -> None:
    store = HostStore(tmp_path)
    with store.ingesting(), pytest.raises(StoreError, match="another edgecl ingest is at work"):
        taken(tmp_path)


def test_the_command_tells_each_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, CAM, [run(), *answers(16), Gap(records=3)])
    assert main(["ingest", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["device"], told["segments"], told["records"], told["lost"]) == (CAM, 1, 19, [])
    assert main(["ingest", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "cam: 0 records of 0 segments, 1 known before\n"


def test_samples_are_told_without_their_bytes(tmp_path: Path) -> None:
    sample = journal.Sample(seq=4, dtype="uint8", shape=[2, 2, 3], x=bytes(12), y=1)
    put(tmp_path, CAM, [sample], folder="samples")
    put(tmp_path, CAM, [run()])
    taken(tmp_path)
    assert rows(tmp_path, "SELECT seq, y, dtype, shape, bytes FROM samples") == [(4, 1, "uint8", [2, 2, 3], 12)]


def test_a_part_knows_how_much_it_has(tmp_path: Path) -> None:
    put(tmp_path, CAM, [run(), *answers(32)])
    taken(tmp_path)
    (part,) = HostStore(tmp_path).index(CAM).parts
    assert isinstance(part, Part) and part.rows == 35 and part.records == {"runs": 1, "predictions": 32, "updates": 2}
