"""The quotas of both classes: nothing of the journal goes before a host has it, and answers never wait for that."""

import hashlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from PIL import Image

from edgecl import journal
from edgecl.board import Board
from edgecl.cli import main
from edgecl.clock import STEP_NS, Watch
from edgecl.errors import JournalError, RequestError
from edgecl.handlers import pulling
from edgecl.journal import Boot, ClockSet, Dropped, Gap, Guard, Journal, Prediction, Run, Stamp, Update
from edgecl.loop import Loop
from edgecl.orders import AcknowledgeRequest, Kept
from edgecl.settings import LEAST_JOURNAL_BYTES, SettingError, Settings
from tests.edgecl.test_journal import BOOT, Clock, decoded_by_schema, predictions, split

QUOTA = LEAST_JOURNAL_BYTES
FULL = Settings(sync=True, journal_bytes=QUOTA)


class Hand:
    """A clock that is set by hand."""

    now_ns = 1
    wall = 5
    told: Stamp.Quality.ValueType = Stamp.UNSYNCHRONISED

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.wall + self.now_ns

    def quality(self) -> Stamp.Quality.ValueType:
        return self.told


def noise(count: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def fill(folder: Path, size: int) -> Path:
    """A sealed segment of so many bytes, which no host has taken."""
    with Journal(folder, boot="filler", clock=Clock()) as out:
        out.append(journal.Sample(x=random.Random(1).randbytes(size)))
    return journal.segments(folder)[-1]


def only(kind: type[Any], state: Path) -> list[Any]:
    return [record for record in journal.read(state / "journal") if isinstance(record, kind)]


# The journal by itself


def test_a_segment_is_sealed_when_it_is_old(tmp_path: Path) -> None:
    clock = Hand()
    with Journal(tmp_path, boot=BOOT, clock=clock) as out:
        for minute in (0, 14, 15, 29, 30, 200):
            clock.now_ns = 1 + minute * 60 * 10**9
            out.append(Prediction(seq=minute))
        found = [[record.seq for record in split(journal.read(path))[0]] for path in journal.segments(tmp_path)]  # type: ignore[union-attr]
    assert found[:2] == [[0, 14], [15, 29]]


def test_beyond_its_quota_a_journal_takes_nothing_and_keeps_everything(tmp_path: Path) -> None:
    clock = Hand()
    taken = predictions(400)
    with Journal(tmp_path, boot=BOOT, clock=clock, segment_bytes=4000, quota_bytes=16_000) as out:
        assert out.new_boot
        count = 0
        with pytest.raises(JournalError, match="no host has taken the 16000 bytes that a journal may have; pull them"):
            for record in taken:
                was_full = out.full
                out.append(record)
                count += 1
        assert was_full
        kept = journal.segments(tmp_path)
        assert sum(path.stat().st_size for path in kept) < 16_000
        for path in kept[:-1]:
            path.unlink()  # as when a host has acknowledged them
        with pytest.raises(JournalError):
            out.append(taken[count])
        clock.now_ns += journal.LOOK_NS
        assert not out.full
        out.append(taken[count])
    found, torn = split(journal.read(tmp_path))
    assert torn == []
    assert found[-1] == taken[count]
    with Journal(tmp_path, boot=BOOT, clock=clock) as out:
        assert not out.new_boot


# The loop


def test_a_full_journal_stops_learning_and_not_answers(looped: Path, tmp_path: Path) -> None:
    seen: list[journal.Record] = []
    images = noise(100)
    with Loop(looped, tmp_path, FULL, on_record=seen.append) as loop:
        for x in images[:20]:
            loop.predict(x)
        assert loop.state.step == 5
        loop.cut()
        filler = fill(tmp_path / "journal", QUOTA)
        loop._journal._sealed_bytes += filler.stat().st_size  # known when it has written them itself
        learned = loop.state
        answers = [loop.predict(x) for x in images[20:60]]
        assert [answer.seq for answer in answers] == list(range(20, 60))
        assert loop.state is learned
        with pytest.raises(RequestError, match="the journal is full.*pull it first"):
            loop.learn(images[0], 1)
        with pytest.raises(RequestError, match="the journal is full"):
            loop.operations.add_class("emu")
        filler.unlink()
        loop._journal._looked_ns = 0
        for x in images[60:80]:
            loop.predict(x)
        assert loop.state.step > learned.step
    (gap,) = only(Gap, tmp_path)
    assert (gap.samples, gap.first_seq, gap.last_seq, gap.records) == (40, 20, 59, 50)
    assert [one.seq for one in only(Prediction, tmp_path)] == [*range(20), *range(60, 80)]
    assert {one.reason for one in seen if isinstance(one, Guard)} == {"journal"}
    assert sum(isinstance(one, Prediction) for one in seen) == 80  # whoever looks on sees all of them
    told = [one.step for one in only(Update, tmp_path)]
    assert told == list(range(1, len(told) + 1))


def test_a_loop_that_ends_with_a_full_journal_tells_what_is_missing(looped: Path, tmp_path: Path) -> None:
    fill(tmp_path / "journal", QUOTA - QUOTA // journal.RESERVE)
    with Loop(looped, tmp_path, FULL) as loop:
        for x in noise(12):
            loop.predict(x)
    (gap,) = only(Gap, tmp_path)
    assert (gap.samples, gap.first_seq, gap.last_seq) == (12, 1, 12)  # behind the filler's sample
    with Loop(looped, tmp_path, FULL) as loop:
        assert loop.predict(noise(1)[0]).seq == 13


def test_without_any_room_nothing_is_opened(looped: Path, tmp_path: Path) -> None:
    fill(tmp_path / "journal", QUOTA)
    with pytest.raises(JournalError, match="pull them"):
        Loop(looped, tmp_path, FULL)


@pytest.mark.parametrize("size", [-1, 1, LEAST_JOURNAL_BYTES - 1])
def test_a_quota_that_holds_nothing_is_refused(size: int) -> None:
    with pytest.raises(SettingError, match="journal_bytes"):
        Settings(journal_bytes=size)


def test_samples_that_a_ring_drops_are_counted(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, keep_bytes=1 << 16)) as loop:
        for x in noise(1200):
            loop.predict(x)
    kept = [record.seq for record in journal.read(tmp_path / "samples") if isinstance(record, journal.Sample)]
    dropped = only(Dropped, tmp_path)
    assert sum(one.records for one in dropped) == 1200 - len(kept) == kept[0]
    assert all(one.bytes > 0 and not (tmp_path / "samples" / one.file).exists() for one in dropped)
    assert len(only(Prediction, tmp_path)) == 1200


def test_a_board_tells_once_a_boot_what_it_is(looped: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with Loop(looped, tmp_path, Settings(sync=True)) as loop:
            loop.predict(noise(1)[0])
    (boot,) = only(Boot, tmp_path)
    assert boot.kernel and boot.arch and boot.cores > 0
    assert len(only(ClockSet, tmp_path)) == len(only(Run, tmp_path)) == 2


def test_a_clock_that_is_set_is_told() -> None:
    clock = Hand()
    watch = Watch(clock)
    first = watch.look()
    assert first and (first.offset_ns, first.moved_ns) == (5, 0)
    clock.now_ns += 10**15
    assert watch.look() is None
    clock.wall += STEP_NS // 2
    assert watch.look() is None
    clock.wall += STEP_NS // 2
    moved = watch.look()
    assert moved and moved.moved_ns == STEP_NS
    clock.told = Stamp.SYNCHRONISED
    same = watch.look()
    assert same and same.moved_ns == 0
    assert watch.look() is None


# Acknowledgement


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def acknowledged(store: Path, *names: str) -> int:
    files = tuple(Kept(name=name, sha256=digest(store / name)) for name in names)
    return pulling.acknowledge(Board(store), AcknowledgeRequest(files=files)).deleted


@pytest.mark.parametrize("folder", ["journal", "samples"])
def test_no_name_is_given_twice_though_everything_is_acknowledged(folder: str, tmp_path: Path) -> None:
    names = set[str]()
    for run in range(3):
        with Journal(tmp_path / folder, boot=BOOT, clock=Clock(), segment_bytes=3000) as out:
            for record in predictions(100, seed=run):
                out.append(record)
                out.sync()
        there = {path.name for path in journal.segments(tmp_path / folder)}
        before = {path.name for path in journal.segments(tmp_path / folder)[:1]} if run else set()
        assert there & names == before
        names |= there
        told = sorted(there)
        assert acknowledged(tmp_path, *(f"{folder}/{name}" for name in told)) == len(told) - 1
        assert len(journal.segments(tmp_path / folder)) == 1


def test_what_the_host_does_not_have_byte_for_byte_stays(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", boot=BOOT, clock=Clock(), segment_bytes=3000) as out:
        for record in predictions(300):
            out.append(record)
            out.sync()
    first, second, *_ = journal.segments(tmp_path / "journal")
    wrong = AcknowledgeRequest(files=(Kept(name=f"journal/{first.name}", sha256=digest(second)),))
    assert pulling.acknowledge(Board(tmp_path), wrong).deleted == 0
    assert acknowledged(tmp_path, f"journal/{first.name}") == 1
    assert not first.exists() and second.exists()


# Commands


def test_cut_seals_what_was_left_open_where_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Journal(tmp_path / "journal", boot=BOOT, clock=Clock())
    out.append(Prediction(seq=1))
    out.sync()
    (path,) = journal.segments(tmp_path / "journal")
    data = path.read_bytes()
    out.close()
    path.write_bytes(data)
    assert main(["journal", "cut", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"journal: sealed up to {path.name}\n"
    assert split(journal.read(path))[1] == []


def test_stat_counts_what_there_is(looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, keep_bytes=1 << 16)) as loop:
        for x in noise(40):
            loop.predict(x)
    assert main(["journal", "stat", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    rows = dict(line.split(None, 1) for line in shown.splitlines() if " " in line)
    assert rows["prediction"] == rows["sample"] == "40" and rows["samples"] == "0 to 39"


def test_a_loss_that_is_mended_by_hand_is_journalled(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, Settings(sync=True)) as loop:
        for x in noise(8):
            loop.predict(x)
    (path,) = journal.segments(tmp_path / "journal")
    path.write_bytes(path.read_bytes()[:-3000])
    assert main(["journal", "recover", str(tmp_path)]) in (0, 3)
    (loss,) = only(journal.Loss, tmp_path)
    assert loss.file == path.name


def test_a_copy_for_viewers_has_the_samples_as_images_without_a_loss(
    looped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(12)
    with Loop(looped, tmp_path / "state", Settings(sync=True, keep_bytes=1 << 20)) as loop:
        for x in images:
            loop.predict(x)
    with Journal(tmp_path / "state" / "samples", boot="other", clock=Clock()) as out:
        out.append(journal.Sample(seq=99, dtype="float32", shape=[3], x=bytes(12)))
    assert main(["journal", "view", str(tmp_path / "state"), "-o", str(tmp_path / "seen.mcap")]) == 0
    assert capsys.readouterr().out.endswith("records, 12 images\n")
    before = sum(1 for part in ("journal", "samples") for _ in journal.read(tmp_path / "state" / part))
    assert sum(1 for _ in journal.read(tmp_path / "seen.mcap")) == before
    found = []
    with (tmp_path / "seen.mcap").open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages(topics=["/image"]):
            assert schema and (schema.name, schema.encoding) == ("foxglove.CompressedImage", "protobuf")
            assert channel.message_encoding == "protobuf"
            image: Any = decoded_by_schema(schema.name, schema.data, message.data)
            assert image.format == "png" and image.timestamp.seconds == message.log_time // 10**9
            found.append(np.asarray(Image.open(io.BytesIO(image.data))))
    assert np.array_equal(found, images)
