"""`edgecl domains`, `classes` and `label`: on a run that goes on, and on a state directory that nobody has open."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgecl import control
from edgecl.control import opened, served
from edgecl.errors import EdgeclError, StoreError
from edgecl.loop import Loop
from edgecl.operations import DomainFacts
from edgecl.requests import ExportDomain, ListDomains
from edgecl.settings import Settings

MakeBundle = Callable[..., Path]


def noise(count: int, seed: int, low: int = 0, high: int = 256) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3)).astype(np.uint8)


def edgecl(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgecl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=given)


@pytest.fixture(scope="module")
def left(looped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory whose run has ended: 100 images of noise, and 200 dark ones that are domain-1."""
    where = tmp_path_factory.mktemp("left")
    with Loop(looped, where, Settings(sync=True, domains=8, keep_bytes=1 << 20)) as loop:
        for x in (*noise(100, 1), *noise(200, 2, 0, 60)):
            loop.predict(x)
    return where


@contextmanager
def running(bundle: Path, where: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`edgecl run` that has answered 200 dark images from its stdin, and waits for more."""
    command = [sys.executable, "-P", "-m", "edgecl", "run", str(bundle), "--source", "stdin", "--state", str(where)]
    command += ["--domains", "8", "--keep", "1 MB", "--json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin and process.stdout
    try:
        for x in noise(200, 3, 0, 60):
            process.stdin.write(x.tobytes())
        process.stdin.flush()
        answered = 0
        while answered < 200:
            answered += json.loads(process.stdout.readline())["event"] == "prediction"
        yield process
    finally:
        process.stdin.close()
        process.stdout.read()
        assert process.wait() == 0


def test_domains_are_listed_and_changed_where_nobody_runs(left: Path, tmp_path: Path) -> None:
    done = edgecl("domains", "list", left)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["0", "source"], ["1", "domain-1"]]
    assert edgecl("domains", "rename", left, "domain-1", "night").returncode == 0
    shown = edgecl("domains", "show", left, "night").stdout
    assert "domain   night, number 1" in shown and "answers  by the program" in shown
    out = tmp_path / "night.safetensors"
    assert edgecl("domains", "export", left, "night", out).returncode == 0 and out.stat().st_size > 0
    told = [json.loads(line) for line in edgecl("domains", "list", left, "--json").stdout.splitlines()]
    assert [one["name"] for one in told] == ["source", "night"]
    assert edgecl("domains", "rename", left, "night", "domain-1").returncode == 0
    missing = edgecl("domains", "drop", left, "noon")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "edgecl: domain noon: there is none of that name; there are source, domain-1\n"


def test_a_run_is_asked_while_it_goes_on(looped: Path, tmp_path: Path) -> None:
    where = tmp_path / "state"
    with running(looped, where):
        assert stat.S_IMODE((where / "socket").stat().st_mode) == 0o600
        told = [json.loads(line) for line in edgecl("domains", "list", where, "--json").stdout.splitlines()]
        assert [(one["name"], one["active"]) for one in told] == [("source", False), ("domain-1", True)]
        assert edgecl("domains", "rename", where, "1", "night").returncode == 0
        assert edgecl("classes", "add", where, "emu").returncode == 0
        done = edgecl("label", where, "150=emu", "151=owl", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["learned"] == 2
        twice = edgecl("classes", "add", where, "emu")
        assert (twice.returncode, twice.stderr) == (1, "edgecl: class emu: there is one of that name; give another\n")
    assert not (where / "socket").exists()
    told = [json.loads(line) for line in edgecl("classes", "list", where, "--json").stdout.splitlines()]
    assert [(one["name"], one["labels"], one["added"]) for one in told][2:] == [
        ("owl", 1, False),
        ("yak", 0, False),
        ("emu", 1, True),
    ]


def test_a_file_half_valid_is_learned_by_half(left: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("seq,position,class\n120,1,owl\n121,2,emu\nx,3,owl\n122,4,\n99999,5,owl\n123,6,yak\n")
    done = edgecl("label", left, "--csv", file)
    assert done.returncode == 3
    assert done.stdout.startswith("2 learned (0 corrected), 4 refused; ")
    told = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in told] == [f"{file}:4", f"{file}:5", f"{file}:3", f"{file}:6"]
    again = edgecl("label", left, "--csv", "-", given="class,seq\nowl,120\nyak,123\n")
    assert again.returncode == 0 and again.stdout.startswith("0 learned (0 corrected), 2 known already, 0 refused")


@pytest.mark.parametrize(
    ("text", "code", "problem"),
    [
        ("seq,label\n1,owl\n", 1, "no columns seq and class in its first line"),
        ("", 1, "no columns seq and class in its first line"),
        ("seq,class\n120,emu\n", 1, "no class 'emu'"),
        ("\udcff\udcfe,class\n", 1, "give a file of CSV"),
        ("seq,class\n" + "9" * 40 + ",owl\n", 1, "is no number of a sample"),
    ],
)
def test_a_file_that_teaches_nothing_is_refused(left: Path, tmp_path: Path, text: str, code: int, problem: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = edgecl("label", left, "--csv", file)
    assert done.returncode == code and problem in done.stderr and "Traceback" not in done.stderr


def test_words_that_are_no_labels_are_told(left: Path, tmp_path: Path) -> None:
    for words in ((), ("cat",), ("x=cat",), ("17=",)):
        assert edgecl("label", left, *words).returncode == 2
    done = edgecl("label", left, "--csv", tmp_path / "none.csv")
    assert (done.returncode, done.stderr) == (
        1,
        f"edgecl: {tmp_path}/none.csv: No such file or directory; give a file of CSV\n",
    )


def test_a_folder_that_is_no_state_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    done = edgecl("domains", "list", tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        f"edgecl: {tmp_path}: no run has been here; give the --state of a run\n",
    )
    assert not list(tmp_path.iterdir())
    done = edgecl("domains", "list", tmp_path / "none")
    assert done.stderr == f"edgecl: {tmp_path}/none: No such file or directory; give the state directory of a run\n"


def test_a_loop_without_a_socket_cannot_be_asked(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, Settings(sync=True)):
        done = edgecl("domains", "list", tmp_path)
    assert done.returncode == 1 and "another process is using it" in done.stderr


def test_lines_that_are_no_requests_are_refused_and_the_next_is_answered(looped: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)  # longer than the name of a socket may be
    deep.mkdir(parents=True)
    with Loop(looped, deep, Settings(sync=True)) as loop, served(loop.operations, deep):
        folder = os.open(deep, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(f"/proc/self/fd/{folder}/socket")
            stream = raw.makefile("rwb")
            for line in (b"nonsense", b"{}", b'{"do":"explode"}', b'{"do":"label"}', b"\xff\xfe", b"[" * 5000):
                stream.write(line + b"\n")
                stream.flush()
                assert "not a request" in json.loads(stream.readline())["refused"]
            stream.write(b'{"do":"list-classes"}\n')
            stream.flush()
            assert len(json.loads(stream.readline())["done"]) == 4
        os.close(folder)
        with opened(deep) as ask:
            (source,) = ask(ListDomains(), tuple[DomainFacts, ...])
            assert source.name == "source"


def test_a_socket_that_was_left_behind_is_replaced(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, Settings(sync=True)) as loop:
        (tmp_path / control.SOCKET).write_text("of a process that was killed")
        with served(loop.operations, tmp_path), opened(tmp_path) as ask:
            assert ask(ListDomains(), tuple[DomainFacts, ...])
    with pytest.raises(StoreError, match="no run has been here"), opened(tmp_path / "cache") as ask:
        pass


def test_what_is_asked_without_a_run_leaves_the_place_in_the_source(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, Settings(sync=True, domains=8, keep_bytes=1 << 20), source="npz:a") as loop:
        for x in noise(200, 2, 0, 60):
            loop.predict(x)
    assert loop.place.position == 200
    assert edgecl("label", tmp_path, "150=owl").returncode == 0
    assert edgecl("domains", "rename", tmp_path, "1", "night").returncode == 0
    with Loop(looped, tmp_path, Settings(sync=True, domains=8), source="npz:a") as loop:
        assert loop.place.position == 200 and loop.domain == "night"


def test_paths_that_name_no_file_are_refused(left: Path, looped: Path, tmp_path: Path) -> None:
    done = edgecl("domains", "export", left, "source", "/")
    assert (done.returncode, done.stderr) == (1, "edgecl: /: not the absolute path of a file; give one\n")
    with Loop(looped, tmp_path, Settings(sync=True)) as loop:
        for file in ("", "here.safetensors"):
            with pytest.raises(EdgeclError, match="not the absolute path of a file"):
                control.perform(loop.operations, ExportDomain(name="source", file=file))


def test_a_file_as_spreadsheets_save_it_is_read(left: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes("\ufeffseq,class\r\n130,owl\r\n".encode())
    assert edgecl("label", left, "--csv", file).stdout.startswith("1 learned")


def test_classes_are_added_together_or_not_at_all(left: Path) -> None:
    done = edgecl("classes", "add", left, "bee", "owl", "ant")
    assert done.returncode == 1 and "class owl: there is one of that name" in done.stderr
    done = edgecl("classes", "add", left, "bee", "bee")
    assert done.returncode == 1
    assert "bee" not in edgecl("classes", "list", left).stdout


def test_a_connection_that_outlives_the_loop_is_refused(looped: Path, tmp_path: Path) -> None:
    with Loop(looped, tmp_path, Settings(sync=True)) as loop:
        with served(loop.operations, tmp_path):
            connection = control._connected(tmp_path)
            assert connection
            stream = connection.makefile("rwb")
        stream.write(b'{"do":"list-classes"}\n')
        stream.flush()
        assert json.loads(stream.readline())["refused"] == "the loop has ended; ask again"
        connection.close()
