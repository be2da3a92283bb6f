"""The journal: what was appended is read back, and damage costs what it must and no more."""

import io
import os
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from mcap.data_stream import ReadDataStream
from mcap.reader import make_reader
from mcap.records import Chunk as McapChunk
from mcap.records import Message as McapMessage
from mcap.records import MessageIndex
from mcap.stream_reader import StreamReader, breakup_chunk

from edgecl import journal, segment
from edgecl.errors import JournalError
from edgecl.journal import Journal, Prediction, Record, Stamp, Torn, Update

BOOT = "4f2c0a9be2b14b7f8d3a5c6e7f809102"
ROOT = Path(__file__).parents[2]


@dataclass
class Clock:
    """Ticks by a microsecond a record; the wall clock is set after three records."""

    ticks: int = 0

    def monotonic_ns(self) -> int:
        self.ticks += 1
        return self.ticks * 1000

    def wall_ns(self) -> int:
        return (0 if self.ticks < 3 else 1_700_000_000_000_000_000) + self.ticks * 1000

    def quality(self) -> Stamp.Quality.ValueType:
        return Stamp.UNSYNCHRONISED if self.ticks < 3 else Stamp.SYNCHRONISED


def one_of_each() -> list[Record]:
    return [
        journal.Run(
            bundle="ab" * 32,
            name="tiny",
            learner="ecotta",
            settings=[journal.Setting(name="rate", value="0.001"), journal.Setting(name="batch", value="16")],
            seed=7,
            threads=1,
            edgecl="0.1.0",
            executorch="1.5.1",
            arch="aarch64",
            digest="cd" * 32,
            step=4,
            seen=64,
            source="npz:stream.npz",
            lineage="tiny",
            version=3,
        ),
        Prediction(seq=64, label=3, confidence=0.75, entropy=0.5, step=4, position=0, y=0, latency_ns=1_600_000),
        Prediction(seq=65, label=2, position=1),
        journal.Damaged(position=2, reason="img_2.png: cut off"),
        journal.Shift(seq=65, began=True, test="window", share=0.25, similarity=-0.5),
        Update(
            kind=Update.ADAPT, step=5, first_seq=64, last_seq=65, report=[0.5, -1.25], digest="ef" * 32, committed=True
        ),
        journal.Guard(action=journal.Guard.ROLLED_BACK, step=5, reason="canary", detail="0.4 < 0.5", digest="cd" * 32),
        journal.Domain(what=journal.Domain.MERGED, seq=66, domain=3, name="domain-3", other=1),
        journal.Label(seq=64, y=4, name="emu", domain=1, before=2),
        journal.Class(index=4, name="emu"),
        journal.Checkpoint(
            number=3,
            step=4,
            seen=66,
            digest="cd" * 32,
            file="3.json",
            domains=[journal.Kept(domain=0, name="source", step=4, digest="cd" * 32)],
        ),
        journal.Loss(file="x-1.mcap", bytes_lost=17, records_kept=90),
        journal.Sample(seq=64, position=0, y=1, dtype="uint8", shape=[2, 2, 3], x=bytes(range(12))),
        journal.End(reason="interrupted", samples=2, damaged=1, updates=0, refused=1),
        journal.Boot(model="Raspberry Pi 5 Model B Rev 1.0", arch="aarch64", kernel="6.6.51+rpt-rpi-2712", cores=4),
        journal.ClockSet(offset_ns=-5, moved_ns=1_700_000_000_000_000_000),
        journal.Gap(records=9, samples=8, first_seq=66, last_seq=73, since_ns=17_000, dropped=5),
        journal.Dropped(file="x-2.mcap", bytes=1 << 20, records=300),
    ]


def predictions(count: int, seed: int = 1) -> list[Record]:
    chance = random.Random(seed)
    return [
        Prediction(seq=n, label=chance.randrange(10), confidence=chance.random(), entropy=chance.random(), position=n)
        for n in range(count)
    ]


def written(
    directory: Path, records: list[Record], *, every: int = 7, close: bool = True, **settings: int
) -> list[Path]:
    """Journal these records, synced every few; the segments."""
    out = Journal(directory, boot=BOOT, clock=Clock(), **settings)
    for number, record in enumerate(records, 1):
        out.append(record)
        if number % every == 0:
            out.sync()
    if close:
        out.close()
    else:
        out.sync()
    return sorted(directory.glob("*.mcap"), key=lambda path: int(path.stem.partition("-")[2]))


def split(found: Iterator[Record | Torn]) -> tuple[list[Record], list[Torn]]:
    entries = list(found)
    return [e for e in entries if not isinstance(e, Torn)], [e for e in entries if isinstance(e, Torn)]


def chunk_ends(path: Path) -> list[tuple[int, int]]:
    """Where each chunk of a sealed segment ends, and how many records stand before that: told by the mcap package."""
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None
    with path.open("rb") as file:
        chunks = [record for record in StreamReader(file, emit_chunks=True).records if isinstance(record, McapChunk)]
    ends, records = [], 0
    for index, chunk in zip(summary.chunk_indexes, chunks, strict=True):
        records += sum(isinstance(record, McapMessage) for record in breakup_chunk(chunk, validate_crc=True))
        ends.append((index.chunk_start_offset + index.chunk_length, records))
    assert records == summary.statistics.message_count
    return ends


def whole(ends: list[tuple[int, int]], length: int) -> int:
    """Records in the chunks that end within the first so many bytes."""
    return max((records for end, records in ends if end <= length), default=0)


# What is written


def test_every_kind_of_record_is_read_back_as_it_was_appended(tmp_path: Path) -> None:
    records = one_of_each()
    assert {type(record) for record in records} == set(journal.TOPICS.values())
    written(tmp_path, records)
    found, torn = split(journal.read(tmp_path))
    assert found == records
    assert torn == []


def test_every_record_is_stamped(tmp_path: Path) -> None:
    written(tmp_path, one_of_each())
    stamps = [record.stamp for record in split(journal.read(tmp_path))[0]]
    assert [stamp.sequence for stamp in stamps] == list(range(18))
    assert [stamp.monotonic_ns for stamp in stamps] == [1000 * n for n in range(1, 19)]
    assert {stamp.boot for stamp in stamps} == {BOOT}
    assert [stamp.quality for stamp in stamps[:3]] == [Stamp.UNSYNCHRONISED, Stamp.UNSYNCHRONISED, Stamp.SYNCHRONISED]
    assert [stamp.wall_ns > 1_600_000_000_000_000_000 for stamp in stamps[:3]] == [False, False, True]


def test_an_absent_label_is_told_from_label_0(tmp_path: Path) -> None:
    written(tmp_path, [Prediction(seq=0, y=0), Prediction(seq=1)])
    known, unknown = split(journal.read(tmp_path))[0]
    assert isinstance(known, Prediction) and known.HasField("y")
    assert isinstance(unknown, Prediction) and not unknown.HasField("y")


def test_a_full_segment_is_sealed_and_the_next_one_begun(tmp_path: Path) -> None:
    records = predictions(600)
    segments = written(tmp_path, records, segment_bytes=3000)
    assert [path.name for path in segments] == [f"{BOOT}-{n}.mcap" for n in range(1, len(segments) + 1)]
    assert len(segments) > 3
    for path in segments:
        assert split(journal.read(path))[1] == []
        assert path.stat().st_size < 3000 + 4000  # what one chunk and the summary add
    assert split(journal.read(tmp_path)) == (records, [])


def test_runs_continue_the_numbers_of_segments_and_keep_their_order(tmp_path: Path) -> None:
    first, second = predictions(12, seed=1), predictions(12, seed=2)
    written(tmp_path, first)
    with Journal(tmp_path, boot="0000", clock=Clock()) as later:
        for record in second:
            later.append(record)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000-2.mcap", f"{BOOT}-1.mcap"]
    assert split(journal.read(tmp_path)) == (first + second, [])
    assert second[0].stamp.sequence == 0


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    written(tmp_path, predictions(3))
    for name in ("notes.txt", f".{BOOT}-1.mcap.new", "a b-1.mcap", "x-1.mcap.bak"):
        (tmp_path / name).write_bytes(b"mine")
    assert journal.recover(tmp_path) == []
    assert len(split(journal.read(tmp_path))[0]) == 3
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


def test_a_run_without_records_writes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "new", boot=BOOT, clock=Clock()) as out:
        out.sync()
    assert list((tmp_path / "new").iterdir()) == []
    assert list(journal.read(tmp_path / "new")) == []


def test_what_was_synced_is_there_while_the_journal_is_still_open(tmp_path: Path) -> None:
    records = predictions(20)
    written(tmp_path, records, every=20, close=False)
    found, torn = split(journal.read(tmp_path))
    assert found == records
    assert [(t.bytes_lost, t.reason[:10]) for t in torn] == [(0, "not sealed")]


def test_a_record_that_is_too_large_is_refused_and_the_next_one_is_not(tmp_path: Path) -> None:
    with Journal(tmp_path, boot=BOOT, clock=Clock()) as out:
        with pytest.raises(JournalError, match=r"a Sample of 167772\d\d bytes.*limit of 16777216"):
            out.append(journal.Sample(x=bytes(16 << 20)))
        large = journal.Sample(x=random.Random(1).randbytes(3 << 20))
        out.append(large)
        out.append(Prediction(seq=1))
    found, torn = split(journal.read(tmp_path))
    assert [type(record).__name__ for record in found] == ["Sample", "Prediction"]
    assert found[0] == large
    assert torn == []


@pytest.mark.parametrize("boot", ["", "a/b", "..", "a-b", "x" * 65, "é"])
def test_a_boot_that_cannot_be_part_of_a_file_name_is_refused(boot: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot name a boot"):
        Journal(tmp_path, boot=boot, clock=Clock())


def test_a_journal_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file.*give a directory"):
        Journal(tmp_path / "file", boot=BOOT, clock=Clock())


def test_reading_takes_one_chunk_of_memory(tmp_path: Path) -> None:
    chance = random.Random(5)
    written(tmp_path, [journal.Sample(seq=n, x=chance.randbytes(50_000)) for n in range(160)], every=1000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 8_000_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in journal.read(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 160
    assert peak < 1_000_000


# What others can read


def test_the_mcap_package_reads_a_sealed_segment_by_its_embedded_schemas(tmp_path: Path) -> None:
    records = one_of_each() + predictions(40)
    (path,) = written(tmp_path, records)
    topics = {kind: topic for topic, kind in journal.TOPICS.items()}
    expected = sorted((topics[type(r)], r.stamp.sequence, r.stamp.wall_ns, r.SerializeToString()) for r in records)
    with path.open("rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        assert summary.statistics.message_count == len(records)
        assert summary.statistics.chunk_count == len(summary.chunk_indexes) == (len(records) + 6) // 7
        assert {summary.channels[n].topic for n in summary.statistics.channel_message_counts} == set(journal.TOPICS)
        found = []
        for schema, channel, message in reader.iter_messages():
            assert schema is not None and (schema.encoding, channel.message_encoding) == ("protobuf", "protobuf")
            decoded = decoded_by_schema(schema.name, schema.data, message.data)
            found.append((channel.topic, message.sequence, message.log_time, decoded.SerializeToString()))
    assert sorted(found) == expected
    with path.open("rb") as file:
        streamed = [r.data for r in StreamReader(file, validate_crcs=True).records if isinstance(r, McapMessage)]
    assert streamed == [record.SerializeToString() for record in records]


def decoded_by_schema(name: str, schema: bytes, data: bytes) -> Message:
    """A record, by nothing but what stands in the file."""
    files = descriptor_pb2.FileDescriptorSet.FromString(schema)
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name)).FromString(data)


def test_the_mcap_package_reads_one_topic_of_a_segment_by_its_index(tmp_path: Path) -> None:
    (path,) = written(tmp_path, one_of_each() + predictions(40))
    with path.open("rb") as file:
        found = [channel.topic for _, channel, _ in make_reader(file).iter_messages(topics=["/update", "/guard"])]
    assert sorted(found) == ["/guard", "/update"]


def test_every_index_points_at_what_it_names(tmp_path: Path) -> None:
    (path,) = written(tmp_path, one_of_each() + predictions(40))
    data = path.read_bytes()
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    for index in summary.chunk_indexes:
        start, end = index.chunk_start_offset, index.chunk_start_offset + index.chunk_length
        assert data[start] == segment.CHUNK
        raw = zstandard.decompress(data[end - index.compressed_size : end])
        times, after = [], end
        for channel, offset in sorted(index.message_index_offsets.items(), key=lambda item: item[1]):
            assert offset == after and data[offset] == segment.MESSAGE_INDEX
            stream = ReadDataStream(io.BytesIO(data[offset + 9 :]))
            found = MessageIndex.read(stream)
            after = offset + 9 + stream.count
            assert found.channel_id == channel
            for time, place in found.records:
                assert raw[place] == segment.MESSAGE
                assert struct.unpack_from("<HIQ", raw, place + 9)[::2] == (channel, time)
                times.append(time)
        assert after - end == index.message_index_length
        assert (index.message_start_time, index.message_end_time) == (min(times), max(times))


def test_the_generated_module_is_that_of_the_proto_file(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    arguments = ["", f"-I{ROOT}", f"--plugin={plugin}", f"--python_out={tmp_path}", f"--mypy_out={tmp_path}"]
    assert protoc.main([*arguments, str(ROOT / "edgecl" / "journal.proto")]) == 0
    for name in ("journal_pb2.py", "journal_pb2.pyi"):  # edgecl/journal.py tells how they are generated
        assert (tmp_path / "edgecl" / name).read_bytes() == (ROOT / "edgecl" / name).read_bytes()


# Damage


def test_a_segment_cut_off_at_any_byte_gives_exactly_its_whole_chunks(tmp_path: Path) -> None:
    records = predictions(20)
    (path,) = written(tmp_path, records, every=6)
    ends = chunk_ends(path)
    assert [count for _, count in ends] == [6, 12, 18, 20]
    assert split(journal.read(path)) == (records, [])
    for length in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, length)
        found, torn = split(journal.read(path))
        assert found == records[: whole(ends, length)], length
        assert len(torn) == 1
        assert torn[0].file == path
        assert torn[0].offset + torn[0].bytes_lost == length or (torn[0].bytes_lost == 0 and length > ends[-1][0])


def test_a_tail_of_zeros_gives_exactly_the_whole_chunks(tmp_path: Path) -> None:
    records = predictions(20)
    (path,) = written(tmp_path, records, every=6)
    data, ends = path.read_bytes(), chunk_ends(path)
    for length in range(len(data) - 1, -1, -3):
        os.truncate(path, length)
        os.truncate(path, length + 4096)
        same = length + len(data[length:]) - len(data[length:].lstrip(b"\0"))  # zeros that are in the right place
        assert split(journal.read(path.parent))[0] == records[: whole(ends, same)], length
        os.truncate(path, length)


@pytest.mark.parametrize("sealed", [True, False])
def test_flipped_bits_give_an_exact_prefix_and_a_report(sealed: bool, tmp_path: Path) -> None:
    records, chance = predictions(20), random.Random(8)
    (path,) = written(tmp_path / "made", records, every=6)
    ends, harmed = chunk_ends(path), tmp_path / path.name
    data = path.read_bytes() if sealed else path.read_bytes()[: ends[-1][0]]
    reported = 0
    for _ in range(800):
        at, flipped = chance.randrange(len(data)), bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        harmed.write_bytes(flipped)
        found, torn = split(journal.read(tmp_path))
        assert found == records[: len(found)], at
        assert len(found) >= whole(ends, at), at
        assert len(found) == len(records) or torn[0].bytes_lost > 0
        reported += len(found) < len(records)
    assert reported > 200


def test_no_flip_of_an_opcode_hides_records(tmp_path: Path) -> None:
    """A chunk must not be taken for an index that may be passed over, nor an index for the end."""
    records = predictions(20)
    (path,) = written(tmp_path, records, every=6)
    data, ends = path.read_bytes(), chunk_ends(path)
    at = len(segment.MAGIC)
    while data[at] != segment.DATA_END:
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            found, torn = split(journal.read(path))
            assert found == records[: whole(ends, at)]
            assert torn[0].bytes_lost > 0
        at += 9 + int.from_bytes(data[at + 1 : at + 9], "little")


def test_random_bytes_behind_the_magic_never_raise(tmp_path: Path) -> None:
    chance = random.Random(9)
    opcodes = bytes((segment.HEADER, segment.CHUNK, segment.MESSAGE_INDEX, segment.DATA_END, segment.FOOTER))
    for _ in range(300):
        body = chance.randbytes(chance.randrange(200))
        record = bytes([chance.choice(opcodes)]) + len(body).to_bytes(8, "little") + body
        (tmp_path / "x-1.mcap").write_bytes(segment.MAGIC + record + chance.randbytes(chance.randrange(40)))
        found, torn = split(journal.read(tmp_path))
        assert found == []
        assert len(torn) == 1


def test_damage_in_one_segment_does_not_hide_the_next(tmp_path: Path) -> None:
    records = predictions(600)
    segments = written(tmp_path, records, segment_bytes=3000)
    in_second = split(journal.read(segments[1]))[0]
    segments[1].write_bytes(bytes(100))
    found, torn = split(journal.read(tmp_path))
    first = in_second[0].stamp.sequence
    assert found == records[:first] + records[first + len(in_second) :]
    assert [(t.file, t.offset, t.bytes_lost) for t in torn] == [(segments[1], 0, 100)]


def framed(opcode: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([opcode]) + len(body).to_bytes(8, "little") + body


def chunk_of(raw: bytes, *, size: int | None = None, frame: bytes | None = None) -> bytes:
    """A chunk of these records; or one that claims another size, or holds another frame."""
    frame = zstandard.compress(raw) if frame is None else frame
    head = struct.pack("<QQQI", 0, 0, len(raw) if size is None else size, zlib.crc32(raw))
    return framed(segment.CHUNK, head, b"\4\0\0\0zstd", struct.pack("<Q", len(frame)), frame)


CHANNEL = framed(segment.CHANNEL, struct.pack("<HH", 1, 0), b"\4\0\0\0/end", b"\0\0\0\0", b"\0\0\0\0")
MESSAGE = framed(segment.MESSAGE, struct.pack("<HIQQ", 1, 0, 0, 0))


def test_a_chunk_made_by_hand_would_do(tmp_path: Path) -> None:
    """So that the refusals below are due to what they change."""
    (tmp_path / "x-1.mcap").write_bytes(segment.MAGIC + chunk_of(CHANNEL + MESSAGE))
    assert split(journal.read(tmp_path))[0] == [journal.End()]


@pytest.mark.parametrize(
    "raw",
    [
        MESSAGE,
        CHANNEL + MESSAGE[:-1],
        CHANNEL + framed(segment.MESSAGE, struct.pack("<HIQQ", 1, 0, 0, 0), b"\x12\0\x18\0")[:-2],
        CHANNEL + MESSAGE + b"\5",
        CHANNEL + framed(segment.MESSAGE, b"short"),
        CHANNEL + framed(segment.MESSAGE)[:1] + b"\xff" * 8,
        CHANNEL.replace(b"/end", b"\xff\xff\xff\xff") + MESSAGE,
        framed(segment.SCHEMA, b"short"),
    ],
    ids=["no channel", "cut", "cut between two fields", "a byte more", "short", "endless", "no text", "short schema"],
)
def test_a_chunk_that_lies_about_its_records_is_damage(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x-1.mcap").write_bytes(segment.MAGIC + chunk_of(raw))
    found, torn = split(journal.read(tmp_path))
    assert found == []
    assert (torn[0].offset, torn[0].bytes_lost) == (8, len(chunk_of(raw)))


def test_a_record_that_claims_a_gigabyte_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x-1.mcap"
    path.write_bytes(segment.MAGIC + bytes([segment.CHUNK]) + ((1 << 30) - 17).to_bytes(8, "little"))
    os.truncate(path, 1 << 30)  # sparse
    tracemalloc.start()
    try:
        found, torn = split(journal.read(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found, torn[0].bytes_lost) == ([], (1 << 30) - 8)
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("claimed", "frame"),
    [
        (1 << 28, zstandard.compress(bytes(1 << 28))),
        (100, zstandard.compress(bytes(1 << 28))),
        (1 << 28, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28))),
    ],
    ids=["truly large", "claims to be small", "does not tell"],
)
def test_a_chunk_that_would_fill_the_memory_is_damage(claimed: int, frame: bytes, tmp_path: Path) -> None:
    (tmp_path / "x-1.mcap").write_bytes(segment.MAGIC + chunk_of(bytes(100), size=claimed, frame=frame))
    tracemalloc.start()
    try:
        found, torn = split(journal.read(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [] and len(torn) == 1 and "than it says, or than are allowed" in torn[0].reason
    assert peak < 1_000_000


def test_a_record_that_does_not_follow_its_schema_is_damage(tmp_path: Path) -> None:
    writer = segment.Writer(tmp_path / "x-1.mcap")
    channel = segment.Channel("/prediction", "edgecl.Prediction", b"")
    writer.add(channel, 0, 0, Prediction(seq=1).SerializeToString())
    writer.flush()
    place = writer.size
    writer.add(channel, 0, 1, Prediction(seq=2).SerializeToString())
    writer.add(channel, 0, 2, b"\xff\xff\xff")
    writer.seal()
    found, torn = split(journal.read(tmp_path))
    assert found == [Prediction(seq=1)]
    assert [(t.offset, t.reason) for t in torn] == [(place, "a record that does not follow its schema")]


def test_topics_of_a_later_edgecl_are_left_out_and_survive_a_repair(tmp_path: Path) -> None:
    writer = segment.Writer(tmp_path / "x-1.mcap")
    writer.add(segment.Channel("/dream", "edgecl.Dream", b"schema"), 5, 0, b"\xff\xff")
    writer.add(segment.Channel("/prediction", "edgecl.Prediction", b""), 6, 1, b"")
    writer.flush()
    writer.close()
    assert split(journal.read(tmp_path))[0] == [Prediction()]
    assert [loss.records_kept for loss in journal.recover(tmp_path)] == [2]
    assert split(journal.read(tmp_path)) == ([Prediction()], [])
    with (tmp_path / "x-1.mcap").open("rb") as file:
        found = [(schema and schema.data, c.topic, m.data) for schema, c, m in make_reader(file).iter_messages()]
    assert found == [(b"schema", "/dream", b"\xff\xff"), (b"", "/prediction", b"")]


@pytest.mark.parametrize("data", [b"not a journal at all", b"PK\3\4", bytes(100), b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_journal_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(JournalError, match=r"file: not a journal; give"):
        list(journal.read(tmp_path / "file"))


def test_a_journal_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere"):
        list(journal.read(tmp_path / "nowhere"))


# Recovery


def test_a_journal_that_was_closed_needs_no_recovery(tmp_path: Path) -> None:
    written(tmp_path, predictions(600), segment_bytes=3000)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.iterdir()}
    assert journal.recover(tmp_path) == []
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.iterdir()} == before


def test_recovery_keeps_every_whole_chunk_and_tells_the_loss(tmp_path: Path) -> None:
    records = predictions(20)
    (path,) = written(tmp_path / "made", records, every=6)
    data, ends, cut = path.read_bytes(), chunk_ends(path), tmp_path / path.name
    for length in (*range(0, len(data), 53), *(end for end, _ in ends)):
        cut.write_bytes(data[:length])
        kept = whole(ends, length)
        torn = split(journal.read(cut))[1]
        (loss,) = journal.recover(tmp_path)
        assert (loss.file, loss.records_kept, loss.bytes_lost) == (path.name, kept, torn[0].bytes_lost)
        assert split(journal.read(tmp_path)) == (records[:kept], [])
        assert journal.recover(tmp_path) == []
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, "made"]
        with cut.open("rb") as file:
            assert sum(1 for _ in make_reader(file).iter_messages()) == kept


def test_recovery_after_a_crash_in_recovery_starts_again(tmp_path: Path) -> None:
    records = predictions(20)
    (path,) = written(tmp_path, records)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    (tmp_path / f".{path.name}.new").write_bytes(data[: len(data) // 2])
    assert [loss.records_kept for loss in journal.recover(tmp_path)] == [20]
    assert list(tmp_path.iterdir()) == [path]
    assert split(journal.read(tmp_path)) == (records, [])


def test_recovery_of_nothing_is_nothing(tmp_path: Path) -> None:
    assert journal.recover(tmp_path / "not yet made") == []
    assert journal.recover(tmp_path) == []


def test_recovery_refuses_a_journal_that_is_being_written(tmp_path: Path) -> None:
    with Journal(tmp_path, boot=BOOT, clock=Clock()) as out:
        out.append(Prediction(seq=1))
        out.sync()
        theirs = tmp_path / f".{BOOT}-1.mcap.new"
        theirs.touch()  # as if the other process were repairing it
        with pytest.raises(JournalError, match="another process is writing it"):
            journal.recover(tmp_path)
        assert theirs.exists()
        out.append(Prediction(seq=2))
    assert len(split(journal.read(tmp_path))[0]) == 2


CHILD = """
import sys
from pathlib import Path
from edgecl import journal

class Clock:
    def monotonic_ns(self): return 1
    def wall_ns(self): return 2
    def quality(self): return journal.Stamp.UNKNOWN

directory, run = Path(sys.argv[1]), int(sys.argv[2])
losses = journal.recover(directory)
out = journal.Journal(directory, boot="b", clock=Clock(), segment_bytes=2000)
for loss in losses:
    out.append(loss)
number = 0
while True:
    for _ in range(3):
        out.append(journal.Prediction(seq=run, position=number, confidence=number / 7))
        number += 1
    out.sync()
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_process_killed_at_any_moment_loses_nothing_that_was_synced(tmp_path: Path) -> None:
    chance, acknowledged = random.Random(4), []
    for run in range(25):
        arguments = [sys.executable, "-c", CHILD, str(tmp_path), str(run)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            told = [int(child.stdout.readline()) for _ in range(chance.choice((1, 2, 3, 5, 20, 60)))]
            child.kill()
            told += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        acknowledged.append(told[-1])
    losses = journal.recover(tmp_path)
    assert len(losses) <= 1
    found, torn = split(journal.read(tmp_path))
    assert torn == []
    for run, least in enumerate(acknowledged):
        of_run = [r for r in found if isinstance(r, Prediction) and r.seq == run]
        assert [r.position for r in of_run] == list(range(len(of_run)))
        assert len(of_run) >= least
    assert sum(isinstance(record, journal.Loss) for record in found) + len(losses) >= 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "edgecl-test", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_costs_nothing_that_was_appended(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(150_000))
    chance = random.Random(6)
    appended: list[Record] = []
    out = Journal(small_disk / "journal", boot=BOOT, clock=Clock())
    full = rf"{BOOT}-1\.mcap: the disk is full, \d+ bytes are free; remove"
    with pytest.raises(JournalError, match=full):
        while True:
            record = journal.Sample(seq=len(appended), x=chance.randbytes(9000))
            out.append(record)
            appended.append(record)
    found, torn = split(journal.read(small_disk / "journal"))
    assert found == appended[: len(found)]
    assert 0 < len(found) < len(appended)
    assert [t.bytes_lost for t in torn] == [0]
    for _ in range(3):
        with pytest.raises(JournalError, match=full):
            out.sync()
    assert split(journal.read(small_disk / "journal"))[0] == found
    (small_disk / "filler").unlink()
    out.sync()
    last = Prediction(seq=1)
    out.append(last)
    out.close()
    assert split(journal.read(small_disk / "journal")) == ([*appended, last], [])


def test_a_disk_that_stays_full_leaves_what_was_written_readable(small_disk: Path) -> None:
    out = Journal(small_disk / "journal", boot=BOOT, clock=Clock())
    first = [Prediction(seq=n) for n in range(50)]
    for record in first:
        out.append(record)
    out.sync()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(300_000))
    out.append(journal.Sample(x=random.Random(2).randbytes(30_000)))
    with pytest.raises(JournalError, match="the disk is full"):
        out.close()
    with pytest.raises(JournalError, match="the disk is full"):
        journal.recover(small_disk / "journal")
    with pytest.raises(JournalError, match="the disk is full"):
        Journal(small_disk / "journal", boot=BOOT, clock=Clock()).append(Prediction(seq=51))
    assert split(journal.read(small_disk / "journal"))[0] == first
    (small_disk / "filler").unlink()
    (loss,) = journal.recover(small_disk / "journal")
    assert (loss.bytes_lost, loss.records_kept) == (0, 50)
    assert split(journal.read(small_disk / "journal")) == (first, [])


# The borders of the files


def test_the_summary_may_be_damaged_without_losing_a_record(tmp_path: Path) -> None:
    records = predictions(30)
    (path,) = written(tmp_path, records)
    data = bytearray(path.read_bytes())
    for at in range(chunk_ends(path)[-1][0] + 300, len(data), 7):
        data[at] ^= 0xFF
        path.write_bytes(data)
        data[at] ^= 0xFF
        found, torn = split(journal.read(tmp_path))
        assert found == records
        assert [(t.bytes_lost, t.reason) for t in torn] == [(0, "the summary is damaged; no record is missing")]


def test_numbers_go_on_behind_the_last_sample_that_any_segment_knows(tmp_path: Path) -> None:
    assert journal.next_seq(tmp_path / "none") == 0
    random_bytes = random.Random(3)
    for run, expected in enumerate((0, 500, 1000)):
        assert journal.next_seq(tmp_path) == expected
        with Journal(tmp_path, boot=BOOT, clock=Clock(), segment_bytes=4000) as log:
            for seq in range(expected, expected + 500):
                log.append(Prediction(seq=seq, latency_ns=random_bytes.getrandbits(60)))
                if seq % 50 == 49:
                    log.append(Update(first_seq=seq - 29, last_seq=seq - 20))  # learning is behind
                    log.sync()
        assert len(list(tmp_path.iterdir())) > 3 * (run + 1)
    with Journal(tmp_path, boot=BOOT, clock=Clock()) as log:
        log.append(journal.Run(seen=1500))
    assert journal.next_seq(tmp_path) == 1500
    with Journal(tmp_path, boot=BOOT, clock=Clock()) as log:
        log.append(Update(kind=Update.LEARN, first_seq=1500, last_seq=1507))
    assert journal.next_seq(tmp_path) == 1508


def test_numbers_go_on_where_chunks_are_damaged(tmp_path: Path) -> None:
    with Journal(tmp_path, boot=BOOT, clock=Clock()) as log:
        for seq in range(40):
            log.append(Prediction(seq=seq))
            if seq % 10 == 9:
                log.sync()
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    chunks = []
    with path.open("rb") as file:
        for record in StreamReader(file, emit_chunks=True).records:
            if isinstance(record, McapChunk):
                chunks.append(data.index(record.data))
    assert len(chunks) == 4
    for damaged, expected in ((chunks[3:], 30), (chunks[2:], 20), (chunks[:3], 40), (chunks, 0)):
        changed = bytearray(data)
        for at in damaged:
            changed[at + 8] ^= 0xFF
        path.write_bytes(changed)
        assert journal.next_seq(tmp_path) == expected
    for end in range(0, len(data), 7):  # and nothing that it may find makes it fail
        path.write_bytes(data[:end])
        assert 0 <= journal.next_seq(tmp_path) <= 40


def test_threads_may_share_a_journal(tmp_path: Path) -> None:
    def write(log: Journal, first: int) -> None:
        for seq in range(first, first + 300):
            log.append(Prediction(seq=seq))
            if seq % 3 == 0:
                log.sync()

    with Journal(tmp_path, boot=BOOT, clock=Clock(), segment_bytes=20_000) as log:
        threads = [threading.Thread(target=write, args=(log, 1000 * number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(list(tmp_path.iterdir())) > 1
    found = [record for record in journal.read(tmp_path) if isinstance(record, Prediction)]
    assert [record.stamp.sequence for record in found] == list(range(1200))
    for number in range(4):
        mine = [record.seq for record in found if record.seq // 1000 == number]
        assert mine == list(range(1000 * number, 1000 * number + 300))
