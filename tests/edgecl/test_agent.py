"""The agent: what it answers, what it refuses, what it leaves on the disk, and what it is as a process."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl import agent, console, messages, smp
from edgecl.board import Board
from edgecl.errors import EdgeclError, RequestError, StoreError
from edgecl.handlers.table import HANDLERS
from edgecl.messages import Code, Nothing
from edgecl.objects import Objects
from edgecl.smp import Message

NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """A board with an empty store."""
    return Board(tmp_path / "store")


def ask(board: Board, code: Code, handlers: Any = HANDLERS, **fields: object) -> dict[str, Any]:
    """Ask, as a client that packs its own CBOR."""
    operation, group, command = code
    request = Message(operation, group, command, 7, cbor2.dumps(fields))
    answer = smp.decode(agent.respond(board, request.encode(), handlers))
    assert (answer.operation, answer.group, answer.command, answer.sequence) == (operation | 1, group, command, 7)
    return smp.mapping(answer.body)


def greet(board: Board) -> dict[str, Any]:
    return ask(board, messages.HELLO, protocol=1, edgecl="0.1.0", from_the_future=True)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_hello_tells_who_and_how_much(board: Board) -> None:
    hello = greet(board)
    assert (hello["protocol"], hello["oldest"], hello["store"]) == (1, 1, str(board.store))
    assert hello["free_bytes"] > 0 and "objects" in hello["capabilities"]
    old = ask(board, messages.HELLO, protocol=0, edgecl="0.0.1")
    assert old["kind"] == "RequestError" and "install edgecl" in old["edgecl"]


def test_errors_are_plain_until_a_host_says_hello(board: Board) -> None:
    name = f"objects/{sha(b'')}"
    assert ask(board, messages.STATUS, name=name) == {
        "rc": 5, "rsn": f"{name}: there is no such file on the board; see what it has"
    }  # fmt: skip
    greet(board)
    assert ask(board, messages.STATUS, name=name) == {
        "err": {"group": 64, "rc": 1},
        "edgecl": f"{name}: there is no such file on the board; see what it has",
        "kind": "RequestError",
    }


def test_what_is_no_request_is_answered_with_a_reason(board: Board) -> None:
    assert ask(board, (smp.READ, 1, 0))["rc"] == smp.UNSUPPORTED
    assert ask(board, (smp.READ, messages.EDGECL, 250))["rc"] == smp.UNSUPPORTED
    for fields in ({}, {"name": 5}, {"name": "objects/x", "off": -1}, {"name": "n" * 256, "off": 0}):
        assert ask(board, messages.DOWNLOAD, **fields)["rc"] == smp.INVALID
    assert ask(board, messages.WANTED, objects=[{"sha256": "A" * 64, "size": 1}])["rc"] == smp.INVALID
    assert smp.mapping(smp.decode(agent.respond(board, b"short")).body)["rc"] == smp.INVALID


@settings(deadline=None)  # the first request of a kind imports what answers it
@given(st.binary(max_size=80))
def test_any_bytes_are_answered(data: bytes) -> None:
    board = Board(Path("/nonexistent"))
    for header in (b"", *(bytes([0x08 | code[0], 0, 0, len(data), 0, code[1], 1, code[2]]) for code in HANDLERS)):
        answer = smp.decode(agent.respond(board, header + data))
        assert isinstance(smp.mapping(answer.body), dict)


def test_what_goes_wrong_in_a_handler_is_told_and_the_agent_goes_on(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(board: Board, request: Nothing) -> msgspec.Struct:
        raise error

    def large(board: Board, request: Nothing) -> messages.EchoAnswer:
        return messages.EchoAnswer(r="x" * 70_000)

    handlers = {(0, 65, 1): (Nothing, fail), (0, 65, 2): (Nothing, large)}
    greet(board)
    error: Exception = ZeroDivisionError("by zero")
    assert ask(board, (0, 65, 1), handlers)["edgecl"] == "ZeroDivisionError: by zero; this is a bug in edgecl"
    assert "Traceback" in capsys.readouterr().err
    error = StoreError("/x: it is full; make room")
    assert ask(board, (0, 65, 1), handlers) == {
        "err": {"group": 64, "rc": 1}, "edgecl": "/x: it is full; make room", "kind": "StoreError"
    }  # fmt: skip
    assert ask(board, (0, 65, 2), handlers)["rc"] == smp.TOO_LARGE


OTHERS = (
    "", "/", "socket", "objects", "objects/", "../secret", "journal/../secret", "journal//b.mcap", "/etc/passwd",
    "journal/.hidden.mcap", "journal/b.mcap/", "journal/b.txt", "journal/x/b.mcap", "learned/l", "learned/l/../x",
    "learned/l/o/x/y", "control.json", "trust.d/key.pem", "samples/b.mcap\n", "journal/b\0.mcap", "bundles/x/m", "lock",
)  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_no_other_names_are_given_away(board: Board, name: str) -> None:
    (board.store / "journal" / "x").mkdir(parents=True)
    for path in ("secret", "lock", "control.json", "journal/.hidden.mcap", "journal/b.txt", "journal/x/b.mcap"):
        (board.store / path).write_text("secret")
    for code in (messages.DOWNLOAD, messages.STATUS, messages.HASH):
        answer = ask(board, code, name=name, off=0)
        assert answer["rc"] == smp.NOT_FOUND and "data" not in answer
    assert ask(board, messages.UPLOAD, name=name, off=0, len=1, data=b"x")["rc"] == smp.NOT_FOUND


def test_no_link_and_nothing_but_files_is_given_away(board: Board, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.mcap").write_text("secret")
    journal = board.store / "journal"
    journal.mkdir(parents=True)
    (journal / "b.mcap").symlink_to(tmp_path / "outside" / "b.mcap")
    (board.store / "samples").symlink_to(tmp_path / "outside")
    os.mkfifo(journal / "pipe.mcap")
    (journal / "folder.mcap").mkdir()
    for name in ("journal/b.mcap", "samples/b.mcap", "journal/pipe.mcap", "journal/folder.mcap"):
        for code in (messages.DOWNLOAD, messages.STATUS, messages.HASH):
            assert ask(board, code, name=name, off=0)["rc"] in (smp.UNKNOWN, smp.NOT_FOUND)


def test_files_are_given_by_parts_and_hashed(board: Board) -> None:
    data = random.Random(1).randbytes(100_000)
    names = ("journal/b-1.mcap", "samples/b-1.mcap", "learned/cam/00000001.json", "learned/cam/objects/a.safetensors")
    for name in names:
        (board.store / name).parent.mkdir(parents=True, exist_ok=True)
        (board.store / name).write_bytes(data)
        assert ask(board, messages.STATUS, name=name) == {"len": len(data)}
        first = ask(board, messages.DOWNLOAD, name=name, off=0)
        assert first == {"off": 0, "data": data[: messages.DATA_BYTES], "len": len(data)}
        assert ask(board, messages.DOWNLOAD, name=name, off=5, most=10) == {"off": 5, "data": data[5:15]}
        assert ask(board, messages.DOWNLOAD, name=name, off=10**12) == {"off": 10**12, "data": b""}
        assert ask(board, messages.HASH, name=name, off=1, len=9)["output"] == hashlib.sha256(data[1:10]).digest()
        assert ask(board, messages.HASH, name=name, len=10**12)["len"] == len(data)


def test_objects_grow_at_their_end_alone(board: Board) -> None:
    data = random.Random(2).randbytes(1000)
    name = f"objects/{sha(data)}"

    def send(off: int, end: int, **more: int) -> Any:
        answer = ask(board, messages.UPLOAD, name=name, off=off, data=data[off:end], **more)
        return answer.get("off", answer.get("rsn"))

    assert "how long it is was not told" in send(0, 10)
    assert send(0, 100, len=1000) == 100
    assert send(200, 300) == 100
    assert send(0, 50) == 100
    assert send(50, 150) == 100
    board.objects = Objects(board.store)  # another connection
    assert send(0, 1000, len=1000) == 100
    assert send(100, 999) == 999
    assert not (board.store / name).exists()
    assert send(999, 1000) == 1000
    assert (board.store / name).read_bytes() == data
    assert send(0, 10) == 1000
    assert [path.name for path in board.objects.folder.iterdir()] == [sha(data)]
    assert (
        "the limit is" in ask(board, messages.UPLOAD, name=f"objects/{'0' * 64}", off=0, data=b"", len=1 << 31)["rsn"]
    )


def test_bytes_that_are_others_are_thrown_away(board: Board) -> None:
    greet(board)
    name = f"objects/{sha(b'right')}"
    wrong = ask(board, messages.UPLOAD, name=name, off=0, data=b"wrong", len=5)
    assert (wrong["kind"], wrong["err"]["rc"]) == ("BundleError", 5)
    assert not list(board.objects.folder.iterdir())
    (board.objects.folder / f"{sha(b'right')}.part").write_bytes(b"longer than it is")
    assert ask(board, messages.UPLOAD, name=name, off=0, data=b"right", len=5) == {"off": 5}


def test_a_link_in_the_place_of_a_part_is_not_followed(board: Board, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    board.objects.folder.mkdir(parents=True)
    (board.objects.folder / f"{sha(b'x')}.part").symlink_to(victim)
    assert ask(board, messages.UPLOAD, name=f"objects/{sha(b'x')}", off=0, data=b"x", len=1)["rc"] == smp.UNKNOWN
    assert victim.read_text() == "precious"


def test_connections_that_send_the_same_object_help_each_other(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(2_000_000)
    wrong: list[Exception] = []

    def send(seed: int) -> None:
        objects, chance, off = Objects(tmp_path), random.Random(seed), 0
        try:
            while off < len(data):
                off = objects.receive(sha(data), off, data[off : off + chance.randrange(1, 40_000)], len(data))
        except EdgeclError as error:
            wrong.append(error)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [sha(data)]
    assert sha((tmp_path / "objects" / sha(data)).read_bytes()) == sha(data)


def test_objects_made_here_are_kept_only_if_they_are_right(tmp_path: Path) -> None:
    objects = Objects(tmp_path)
    assert objects.add(sha(b"ab"), [b"a", b"b"]).read_bytes() == b"ab"
    with pytest.raises(EdgeclError, match="its bytes are others"):
        objects.add(sha(b"x"), [b"y"])
    with pytest.raises(RequestError, match="not 64 hexadecimal digits"):
        objects.path("../x")
    assert [path.name for path in objects.folder.iterdir()] == [sha(b"ab")]
    assert (objects.size(sha(b"ab")), objects.held(sha(b"x")), objects.parts()) == (2, 0, ())


FULL = """
import hashlib, os, random, subprocess, sys
from pathlib import Path
from edgecl.errors import StoreError
from edgecl.objects import Objects
mount = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(mount)], check=True)
objects, data = Objects(mount), random.Random(1).randbytes(300_000)
name = hashlib.sha256(data).hexdigest()
off = objects.receive(name, 0, data[:100_000], len(data))
(ballast := mount / "ballast").write_bytes(bytes(380_000))
for more in (data[off:], data[off:off + 10]):
    try:
        objects.receive(name, off, more)
        print("taken")
    except StoreError as error:
        print(error)
ballast.unlink()
print(sorted(path.name for path in objects.folder.iterdir()) == [name + ".part"], objects.held(name))
print(objects.receive(name, off, data[off:]), (objects.folder / name).read_bytes() == data)
"""


def test_a_full_disk_is_told_and_what_came_stays(tmp_path: Path) -> None:
    tried = subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a small disk to fill cannot be made here: {tried.stderr.strip()}")
    done = subprocess.run([*NAMESPACE, sys.executable, "-P", "-c", FULL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *refused, left, whole = done.stdout.splitlines()
    assert len(refused) == 2 and all(line.endswith("are free; make room") for line in refused)
    assert (left, whole) == ("True 100000", "300000 True")


def start(store: Path, *python: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", *python, "-m", "edgecl", "agent", "--store", str(store)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_agent_opens_no_socket_and_ends_with_its_stream(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(console.encode(Message(smp.WRITE, 0, 0, 1, cbor2.dumps({"d": "hello"})).encode()))
        process.stdin.flush()
        answer = process.stdout.readline()
        (message,), _ = console.scan(answer)
        assert smp.mapping(smp.decode(message).body) == {"r": "hello"}
        opened = [os.readlink(file) for file in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert not [name for name in opened if name.startswith("socket:")]
        process.stdin.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""


def test_the_agent_is_small(tmp_path: Path) -> None:
    with start(tmp_path, "-X", "importtime") as process:
        _, said = process.communicate()
    loaded = {line.rpartition("|")[2].strip() for line in said.decode().splitlines()}
    assert "edgecl.agent" in loaded
    heavy = {"numpy", "safetensors", "zstandard", "PIL", "google.protobuf", "cryptography", "asyncio", "serial"}
    assert not loaded & heavy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_it_quietly(tmp_path: Path, number: signal.Signals) -> None:
    with start(tmp_path) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(console.encode(Message(smp.WRITE, 0, 0, 1, cbor2.dumps({"d": ""})).encode()))
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait() == 130
        assert process.stderr.read().strip() == b""
