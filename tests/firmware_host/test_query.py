"""Questions to a host store: the views say what the journals say, and what cannot be asked is told in a line."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.ipc
import pyarrow.parquet
import pytest

from edgecl import journal
from edgecl.cli import main
from edgecl.errors import EXIT_USAGE, StoreError
from edgecl.journal import Domain, Dropped, Gap, Guard, Label, Loss, Prediction, Shift
from firmware_host import query, tables
from firmware_host.host_store import HostStore
from firmware_host.ingest import ingest
from firmware_host.views import TABLES, VIEWS
from tests.firmware_host.pulled import Board, answers, put, run

DOCUMENT = Path(__file__).parents[2] / "docs" / "commands" / "query.md"
QUERIES = re.findall(r"^```sql\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two devices with two lineages, late labels, and everything that can be lost."""
    root = tmp_path_factory.mktemp("store")
    board = Board()
    put(
        root,
        "cam-1",
        [
            journal.Boot(model="Raspberry Pi 5", arch="aarch64", kernel="6.6", cores=4),
            run("door"),
            *answers(160),
            Shift(seq=7, began=True, test="window"),
            Domain(what=Domain.FOUNDED, seq=9, domain=1, name="night"),
            Guard(action=Guard.SKIPPED, reason="busy"),
            Guard(action=Guard.SKIPPED, reason="busy"),
            Guard(action=Guard.ROLLED_BACK, reason="canaries"),
            Label(seq=3, y=1, name="b"),
            Label(seq=5, y=0, name="a"),
            Label(seq=3, y=2, name="c"),
            Gap(records=9, samples=7),
            Dropped(file="x-1.mcap", records=30),
            Loss(file="y-1.mcap", bytes_lost=100),
        ],
        clock=board,
    )
    put(root, "cam-1", [run("gate", bundle="cd" * 32, version=4), *answers(20, first=160)], clock=board)
    put(root, "cam-1", [journal.Sample(seq=150, dtype="uint8", shape=[1], x=b"1")], folder="samples")
    put(root, "cam-2", [run("door"), *answers(40, seed=2)])
    assert [one.lost for one in ingest(HostStore(root))] == [(), ()]
    return root


def ask(root: Path, sql: str) -> list[tuple[Any, ...]]:
    with query.opened(HostStore(root)) as connection:
        return [tuple(row) for row in query.ask(connection, sql).fetchall()]


def predictions(root: Path, device: str) -> list[Prediction]:
    return [one for one in journal.read(root / device / "journal") if isinstance(one, Prediction)]


@pytest.mark.parametrize("sql", QUERIES, ids=range(len(QUERIES)))
def test_the_queries_of_the_document_run(sql: str, store: Path, tmp_path: Path) -> None:
    found = ask(store, sql)
    assert found or "bytes_lost > 0" in sql
    assert ask(tmp_path, sql) == []  # and on a store with nothing in it


def test_the_document_tells_of_every_table_and_view(store: Path) -> None:
    text = DOCUMENT.read_text("utf-8")
    with query.opened(HostStore(store)) as connection:
        names = {name for (name,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
        assert names == {*TABLES, *VIEWS, "segments"} == set(re.findall(r"`(\w+)`", text)) & names
        for name in (*VIEWS, "segments"):
            columns = [row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall()]
            told = re.search(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
            assert told
            if name != "answers":
                assert set(columns) - {"device", "date"} == set(re.findall(r"`(\w+)`", told[1]))


def test_an_empty_store_has_the_columns_of_a_full_one(store: Path, tmp_path: Path) -> None:
    for name in (*TABLES, *VIEWS, "segments"):
        described = [ask(root, f"SELECT column_name, column_type FROM (DESCRIBE {name})") for root in (store, tmp_path)]
        assert described[0] == described[1]
        assert ask(tmp_path, f"SELECT count(*) FROM {name}") == [(0,)]
    assert not (tmp_path / ".tables").exists()


def test_answers_have_the_latest_label_as_their_truth(store: Path) -> None:
    found = dict(ask(store, "SELECT seq, truth FROM answers WHERE device = 'cam-1'"))
    known = {one.seq: one.y if one.HasField("y") else None for one in predictions(store, "cam-1")}
    assert found == known | {3: 2, 5: 0}
    right = dict(ask(store, "SELECT seq, correct FROM answers WHERE device = 'cam-1'"))
    labels = {one.seq: one.label for one in predictions(store, "cam-1")}
    assert right == {seq: None if truth is None else truth == labels[seq] for seq, truth in found.items()}


def test_health_counts_what_there_is(store: Path) -> None:
    with query.opened(HostStore(store)) as connection:
        rows = query.ask(connection, "SELECT * FROM health ORDER BY device").to_arrow_table().to_pylist()
    first, second = rows
    assert (first["device"], first["answers"], second["answers"]) == ("cam-1", 180, 40)
    assert (first["skipped"], first["rolled_back"], first["runs"], first["updates"]) == (2, 1, 2, 11)
    assert (first["bytes_lost"], first["not_journalled"], first["dropped"]) == (100, 9, 30)
    assert (second["skipped"], second["rolled_back"], second["bytes_lost"]) == (0, 0, 0)
    known = [one for one in predictions(store, "cam-2") if one.HasField("y")]
    assert second["labelled"] == len(known)
    assert second["accuracy"] == pytest.approx(sum(one.label == one.y for one in known) / len(known))
    assert 1.4 < first["latency_ms"] < first["latency_p95_ms"] < 2.6


def test_devices_tell_their_last_bundle_and_their_board(store: Path) -> None:
    found = ask(store, "SELECT device, name, version, runs, lineages, model, boots FROM devices ORDER BY 1")
    assert found == [("cam-1", "gate", 4, 2, 2, "Raspberry Pi 5", 1), ("cam-2", "door", 3, 1, 1, None, None)]


# Results


def test_results_are_exported_in_three_forms(store: Path, tmp_path: Path) -> None:
    sql = "SELECT device, seq, label, time, y FROM predictions ORDER BY device, seq"
    expected = ask(store, sql)
    for name in ("out.csv", "out.parquet", "out.arrow"):
        assert main(["query", sql, "--store", str(store), "-o", str(tmp_path / name)]) == 0
    assert [tuple(row.values()) for row in pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()] == expected
    with pyarrow.ipc.open_file(tmp_path / "out.arrow") as file:
        assert [tuple(row.values()) for row in file.read_all().to_pylist()] == expected
    with (tmp_path / "out.csv").open() as text:
        header, *rows = csv.reader(text)
    assert header == ["device", "seq", "label", "time", "y"] and len(rows) == len(expected) == 220
    assert [int(row[1]) for row in rows] == [row[1] for row in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.arrow", "out.csv", "out.parquet"]


def test_a_result_is_printed_for_people_and_for_programs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT device, count(*) AS n, NULL AS nothing, max(time) AS last FROM predictions GROUP BY ALL ORDER BY ALL"
    assert main(["query", sql, "--store", str(store), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["device"], one["n"], one["nothing"]) for one in told] == [("cam-1", 180, None), ("cam-2", 40, None)]
    assert told[0]["last"].startswith("2025-06-15T15:06:4")
    assert main(["query", sql, "--store", str(store)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["cam-1", "180"]
    assert main(["query", "SELECT report FROM updates, predictions", "--store", str(store)]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 201 and "there are more" in shown.err


def test_without_sql_everything_is_listed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "--store", str(store), "--json"]) == 0
    told = {(one := json.loads(line))["name"]: one["columns"] for line in capsys.readouterr().out.splitlines()}
    assert set(told) == {*TABLES, *VIEWS, "segments"}
    assert told["predictions"]["time"] == "TIMESTAMP" and told["updates"]["report"] == "FLOAT[]"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nowhere FROM predictions", "nowhere"),
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("SELECT 1; SELECT 2", "2 statements; give one"),
        ("", "0 statements; give one"),
        ("CREATE TABLE t AS SELECT 1", "asks for nothing; give a SELECT"),
        ("SELECT 'abc'::INT FROM predictions", "Conversion Error"),
        ("SELECT * FROM 'https://example.org/x.parquet'", "query: "),
        ("SELECT '" + "x" * 50, "query: "),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(
    sql: str, words: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", sql, "--store", str(store)]) == EXIT_USAGE
    told = capsys.readouterr().err
    assert words in told and told.startswith("edgecl: query: ") and told.count("\n") == 1


@pytest.mark.parametrize("name", ["out.xlsx", "none/out.csv", "none/out.arrow"])
def test_a_file_that_cannot_be_written_is_told(
    name: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", "SELECT 1", "--store", str(store), "-o", str(tmp_path / name)]) in (1, EXIT_USAGE)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_table_that_is_not_there_any_more_is_told(tmp_path: Path) -> None:
    put(tmp_path, "cam", [run(), *answers(4)])
    list(ingest(HostStore(tmp_path)))
    for path in (tmp_path / ".tables" / "predictions").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(StoreError, match="IO Error: No files found.*make the tables anew: edgecl ingest --again"):
        ask(tmp_path, "SELECT count(label) FROM predictions")


def test_other_programs_read_the_tables_as_they_are(store: Path) -> None:
    """In the way of Hive, without an index."""
    found = pyarrow.parquet.read_table(store / ".tables" / "predictions")
    assert found.num_rows == 220 and {"device", "date", *tables.SCHEMAS["/prediction"].names} == set(found.column_names)
    pattern = store / ".tables" / "*" / "device=cam-1" / "*" / "*.parquet"
    counted = duckdb.sql(f"SELECT count(*) FROM glob('{pattern}')")
    assert counted and counted.fetchall()[0][0] > 8
