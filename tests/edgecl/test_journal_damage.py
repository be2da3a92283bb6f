"""Segments of every version stay readable, and no damage to one makes a reader fail, lie or fill the memory."""

import json
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format

from edgecl import journal, segment
from edgecl.cli import main
from edgecl.errors import EXIT_DATA_LOST, JournalError
from edgecl.journal import Record
from tests.edgecl.test_journal import chunk_ends, one_of_each, predictions, split, written

GOLDEN = Path(__file__).parents[1] / "data" / "journal"
SOAK = bool(os.environ.get("EDGECL_SOAK"))
MUTATED = 12_000 if SOAK else 400
MAX_PEAK_BYTES = 2_000_000
"""Of reading any segment here, however it is damaged; one that is whole takes a fifth."""


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.mcap")))
def test_segments_of_every_version_stay_readable(name: str) -> None:
    found, torn = split(journal.read(GOLDEN / f"{name}.mcap"))
    told = [json.loads(line) for line in (GOLDEN / f"{name}.jsonl").read_text().splitlines()]
    assert torn == []
    for record, expected in zip(found, told, strict=True):
        kind = journal.TOPICS[expected["topic"]]
        assert record == json_format.ParseDict(expected["record"], kind())


def test_there_is_a_golden_segment_of_this_version() -> None:
    """A new version, or topic, gets a segment of its own beside these; what is there is never written again."""
    found, _ = split(journal.read(GOLDEN / f"{journal.VERSION}.mcap"))
    assert {type(record) for record in found} == set(journal.TOPICS.values())


def test_a_journal_of_a_later_version_is_refused_and_not_called_damaged(tmp_path: Path) -> None:
    writer = segment.Writer(tmp_path / "x-1.mcap")
    writer.add(segment.Channel("/prediction", "edgecl.Prediction", b"", journal.VERSION + 1), 0, 0, b"")
    writer.seal()
    with pytest.raises(JournalError, match=r"x-1\.mcap: written in version 2 of the journal.*update edgecl"):
        list(journal.read(tmp_path))


Mutate = Callable[[bytearray, random.Random], None]


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def zeros(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:] = bytes(chance.choice((len(data) - start, 512, 4096)))


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def overwrite(data: bytearray, chance: random.Random) -> None:
    start, count = chance.randrange(len(data)), chance.choice((1, 4, 8, 64, 512))
    data[start : start + count] = chance.randbytes(min(count, len(data) - start))


def sector(data: bytearray, chance: random.Random) -> None:
    """As a card does that mixes up its pages."""
    start = 512 * chance.randrange(len(data) // 512)
    data[start : start + 512] = chance.choice((bytes(512), b"\xff" * 512, chance.randbytes(512), data[:512]))


def insert(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = chance.randbytes(chance.choice((1, 9, 100)))


def remove(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.choice((1, 9, 100, 1000))]


def lengths(data: bytearray, chance: random.Random) -> None:
    """A length, or what could be one, becomes enormous or nothing."""
    start = chance.randrange(len(data) - 8)
    data[start : start + 8] = chance.choice((0, 1, 1 << 24, 1 << 31, 1 << 63, (1 << 64) - 1)).to_bytes(8, "little")


MUTATIONS: list[Mutate] = [cut, zeros, flip, overwrite, sector, insert, remove, lengths]


def test_mutated_segments_give_an_exact_prefix(tmp_path: Path) -> None:
    """12,000 of them with EDGECL_SOAK=1."""
    records: list[Record] = [*one_of_each(), *predictions(60)]
    (path,) = written(tmp_path / "made", records, every=9)
    whole, chance = path.read_bytes(), random.Random(12)
    harmed, peaks, lost = tmp_path / path.name, [0], 0
    tracemalloc.start()
    try:
        for number in range(MUTATED):
            data = bytearray(whole)
            mutate = MUTATIONS[number % len(MUTATIONS)]
            mutate(data, chance)
            harmed.write_bytes(data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            found, torn = split(journal.read(tmp_path))
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            assert found == records[: len(found)], (number, mutate.__name__)
            if len(found) < len(records):
                lost += 1
                assert torn, (number, mutate.__name__)
            if number % 10 == 0:
                (tmp_path / f".{path.name}.new").unlink(missing_ok=True)
                journal.next_seq(tmp_path)
                journal.recover(tmp_path)
                again, _ = split(journal.read(tmp_path))
                assert again == found, (number, mutate.__name__)
    finally:
        tracemalloc.stop()
    assert max(peaks) < MAX_PEAK_BYTES
    assert lost > MUTATED // 3


def test_what_is_lost_is_told_with_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = written(tmp_path / "whole", predictions(30), every=9)
    assert main(["journal", "check", str(path)]) == 0
    data, place = path.read_bytes(), tmp_path / "torn"
    place.mkdir()
    end = chunk_ends(path)[2][0]
    for harm in (data[: end - 9], data[: end - 90] + bytes(4096), data[:500] + b"\0" + data[501:]):
        (place / path.name).write_bytes(harm)
        capsys.readouterr()
        assert main(["journal", "check", str(place), "--json"]) == EXIT_DATA_LOST
        told = json.loads(capsys.readouterr().out)
        assert told["state"] == "torn" and told["bytes_lost"] > 0 and told["reason"]
        if not harm.endswith(data[-8:]):
            assert main(["journal", "recover", str(place), "--json"]) == EXIT_DATA_LOST
            mended = json.loads(capsys.readouterr().out)
            assert (mended["records_kept"], mended["bytes_lost"]) == (told["records"], told["bytes_lost"])
            assert main(["journal", "recover", str(place)]) == 0
            assert main(["journal", "check", str(place)]) == 0


def test_a_segment_that_is_missing_between_two_others_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = written(tmp_path, predictions(600), segment_bytes=3000)
    first.unlink()  # as one that a host has taken
    assert main(["journal", "check", str(tmp_path)]) == 0
    shutil.copy(second, tmp_path / "copy")
    later = sorted(tmp_path.glob("*.mcap"), key=lambda path: int(path.stem.partition("-")[2]))[2]
    gone = sum(1 for _ in journal.read(later))
    later.unlink()
    capsys.readouterr()
    assert main(["journal", "check", str(tmp_path)]) == EXIT_DATA_LOST
    assert f"whole; {gone} records before it are missing" in capsys.readouterr().out
