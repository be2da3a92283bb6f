"""Journals, samples and learned states come to the host: once, whole, and only then go from the board."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgecl import journal
from edgecl.clock import SystemClock
from edgecl.errors import RequestError, StoreError
from edgecl.journal import Journal, Prediction
from edgecl.samples import Samples
from firmware_host.client import Client
from firmware_host.links.table import link_to
from firmware_host.patient import Patient
from firmware_host.pull import Pulled
from firmware_host.pull import pull as pull_from
from tests.edgecl import stores
from tests.firmware_host.hosts import Host

BOOT = "b" * 32


def write(store: Path, *runs: int, folder: str = "journal") -> int:
    """Segments of so many answers each, sealed; the number of the next answer."""
    place = store / folder
    seq = journal.next_seq(place)
    for count in runs:
        with Journal(place, boot=BOOT, clock=SystemClock()) as opened:
            for _ in range(count):
                opened.append(Prediction(seq=seq, label=1))
                seq += 1
    return seq


def seqs(folder: Path) -> list[int]:
    return [record.seq for record in journal.read(folder) if isinstance(record, Prediction)]


def pulled(store: Path, into: Path, **options: Any) -> Pulled:
    with Client(link_to(f"local:{store}")) as client:
        return pull_from(Patient(client), "board", into, **options)


def test_everything_comes_once_and_goes_from_the_board(host: Host, store: Path, tmp_path: Path) -> None:
    write(store, 10, 20, 30)
    board = f"local:{store}"
    first = json.loads(host("pull", board, "--json").out)
    assert (first["files"], first["there"], first["deleted"]) == (3, 0, 2)
    folder = Path(first["folder"])
    assert folder.parent == Path("pulled")
    assert seqs(folder / "journal") == list(range(60))
    left = sorted(path.name for path in (store / "journal").iterdir())
    assert left == [f"{BOOT}-3.mcap"], "what the next numbers go on from stays"
    again = host("pull", board)
    assert again.code == 0 and "0 files, 0 B; 1 were here already" in again.out
    assert write(store, 5) == 65
    assert sorted(path.name for path in (store / "journal").iterdir()) == [*left, f"{BOOT}-4.mcap"]
    third = json.loads(host("pull", board, "--json").out)
    assert (third["files"], third["there"], third["deleted"]) == (1, 1, 1)
    assert seqs(folder / "journal") == list(range(65))


def test_a_segment_without_answers_does_not_let_numbers_begin_anew(store: Path, tmp_path: Path) -> None:
    write(store, 10, 10)
    for name in ("end", "more"):
        with Journal(store / "journal", boot=BOOT, clock=SystemClock()) as opened:
            opened.append(journal.End(reason=name))
    assert pulled(store, tmp_path / "here").deleted == 1
    assert journal.next_seq(store / "journal") == 20


def test_a_journal_that_grows_is_pulled_as_far_as_it_is_sealed(host: Host, store: Path, tmp_path: Path) -> None:
    write(store, 10)
    with Journal(store / "journal", boot=BOOT, clock=SystemClock()) as opened:
        for seq in range(10, 15):
            opened.append(Prediction(seq=seq, label=1))
        opened.sync()
        first = pulled(store, tmp_path / "here")
        assert (first.files, first.growing) == (1, 1)
        assert seqs(tmp_path / "here" / "journal") == list(range(10))
        assert "1 still being written (--cut seals them)" in host("pull", f"local:{store}").out
        with pytest.raises(RequestError, match="no service runs here"):
            pulled(store, tmp_path / "here", cut=True)
        opened.append(Prediction(seq=15, label=1))
    assert pulled(store, tmp_path / "here").files == 1
    assert seqs(tmp_path / "here" / "journal") == list(range(16))


def test_samples_stay_in_their_ring_and_what_was_dropped_meanwhile_is_told(
    host: Host, store: Path, tmp_path: Path
) -> None:
    write(store, 3, 3, 3, folder="samples")
    names = sorted(f"samples/{path.name}" for path in (store / "samples").iterdir())

    def drop(fetched: object) -> None:
        (store / names[1]).unlink(missing_ok=True)

    with Client(link_to(f"local:{store}")) as client:
        result = pull_from(Patient(client), "board", tmp_path / "here", tell=drop)
    assert (result.files, result.gone, result.deleted) == (2, (names[1],), 0)
    assert len(list((store / "samples").iterdir())) == 2
    assert sorted(path.name for path in (tmp_path / "here" / "samples").iterdir()) == [
        names[0].removeprefix("samples/"), names[2].removeprefix("samples/")
    ]  # fmt: skip
    with Samples(store / "samples", quota_bytes=1 << 20, boot=BOOT, clock=SystemClock()):
        pass
    again = host("pull", f"local:{store}", "--into", tmp_path / "elsewhere")
    assert again.code == 0 and "2 files" in again.out


def test_a_file_that_was_cut_off_is_gone_on_with(store: Path, tmp_path: Path) -> None:
    write(store, 4000)
    (segment,) = (store / "journal").iterdir()
    here = tmp_path / "here" / "journal"
    here.mkdir(parents=True)
    (here / f"{segment.name}.part").write_bytes(segment.read_bytes()[:20_000])
    moved = []
    with Client(link_to(f"local:{store}")) as client:
        result = pull_from(
            Patient(client), "board", tmp_path / "here", progress=lambda name, have, of: moved.append(have)
        )
    assert result.files == 1 and moved and min(moved) > 20_000
    assert seqs(here) == list(range(4000))


def test_nothing_goes_that_is_not_here(host: Host, store: Path, tmp_path: Path) -> None:
    write(store, 10, 10)
    kept = pulled(store, tmp_path / "here", keep=True)
    assert (kept.files, kept.deleted) == (2, 0)
    first, _ = sorted((tmp_path / "here" / "journal").iterdir())
    damaged = bytearray(first.read_bytes())
    damaged[100] ^= 1
    first.write_bytes(damaged)
    assert pulled(store, tmp_path / "here").deleted == 0
    assert len(list((store / "journal").iterdir())) == 2
    first.write_bytes(damaged[:-1])
    with pytest.raises(StoreError, match="another file than journal/"):
        pulled(store, tmp_path / "here")
    (tmp_path / "file").write_bytes(b"")
    assert host("pull", f"local:{store}", "--into", tmp_path / "file").code == 1


def test_what_was_learned_comes_and_is_replaced_by_what_is_newer(store: Path, tmp_path: Path) -> None:
    place = store / "learned" / "looped" / ("a" * 64)
    (place / "objects").mkdir(parents=True)
    (place / "1.json").write_text("old!")
    (place / "objects" / f"{'c' * 64}.safetensors").write_text("never changes")
    assert pulled(store, tmp_path).files == 0
    assert pulled(store, tmp_path, learned=True).files == 2
    assert pulled(store, tmp_path, learned=True).files == 0
    (place / "1.json").write_text("new!")
    assert pulled(store, tmp_path, learned=True).files == 1
    assert (tmp_path / place.relative_to(store) / "1.json").read_text() == "new!"


def test_several_devices_and_one_that_cannot_be_reached(host: Host, store: Path, tmp_path: Path) -> None:
    write(store, 3)
    (tmp_path / "file").write_text("")
    done = host("pull", f"local:{store}", f"local:{tmp_path}/file")
    assert done.code == 7
    assert "1 files" in done.out and "file" in done.err
    assert host("pull", f"local:{tmp_path}/file").code == 1
    assert stores.made(tmp_path / "empty") and host("pull", f"local:{tmp_path}/empty").code == 0
