"""What holds over every link: requests, transfers, errors, and going on after a break."""

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgecl import messages, smp
from edgecl.errors import BundleError, LinkError, RequestError
from edgecl.messages import EchoAnswer, EchoRequest, Nothing, Wish
from firmware_host.client import Client, Source
from firmware_host.links.link import Link, Options
from firmware_host.links.table import link_to
from tests.firmware_host import sshd, wires

Reach = Callable[[], Link]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def local(store: Path, request: pytest.FixtureRequest) -> Iterator[Link]:
    yield link_to(f"local:{store}")


@contextmanager
def ssh(store: Path, request: pytest.FixtureRequest) -> Iterator[Link]:
    server: sshd.Server = request.getfixturevalue("server")
    yield link_to("board", server.options(store=store))


@contextmanager
def serial(store: Path, request: pytest.FixtureRequest) -> Iterator[Link]:
    pytest.importorskip("serial")
    with wires.wired(store.parent) as wire, wires.agent_on(wire, store):
        yield link_to(f"serial:{wire.port}@921600", Options())


@pytest.fixture(params=[local, ssh, serial], ids=lambda kind: kind.__name__)
def link(request: pytest.FixtureRequest, store: Path) -> Iterator[Link]:
    with request.param(store, request) as link:
        yield link


def test_requests_and_their_answers(link: Link, store: Path) -> None:
    with Client(link) as client:
        hello = client.connect()
        assert (hello.protocol, hello.store) == (messages.PROTOCOL, str(store))
        for text in ("", "grüße", "x" * 50_000):
            assert client.request(messages.ECHO, EchoRequest(d=text), EchoAnswer).r == text


def test_objects_go_there_and_back(link: Link, store: Path, tmp_path: Path) -> None:
    with Client(link) as client:
        for size in (0, 1, 8191, 61440, 61441, 200_000):
            data = content(size, size)
            steps: list[tuple[int, int]] = []
            told = lambda done, total, steps=steps: steps.append((done, total))  # noqa: E731
            assert client.upload(data, sha(data), told) == size
            there = store / "objects" / sha(data)
            assert there.read_bytes() == data and there.stat().st_mode & 0o777 == 0o444
            assert steps[-1] == (size, size) and steps == sorted(steps)
            assert client.upload(data, sha(data)) == 0
            assert client.download(f"objects/{sha(data)}", tmp_path / "back") == size
            assert (tmp_path / "back").read_bytes() == data
    assert len(list((store / "objects").iterdir())) == 6


def test_what_is_there_does_not_travel_again(link: Link, store: Path, tmp_path: Path) -> None:
    datas = [content(30_000, seed) for seed in range(5)]
    folder = store / "objects"
    folder.mkdir()
    (folder / sha(datas[1])).write_bytes(datas[1])
    (folder / f"{sha(datas[2])}.part").write_bytes(datas[2][:10_000])
    (folder / f"{sha(datas[3])}.part").write_bytes(datas[3])
    wishes = [Wish(sha256=sha(data), size=len(data)) for data in datas]
    (file := tmp_path / "file").write_bytes(datas[0])
    sources = [Source(sha(data), data) for data in datas]
    with Client(link) as client:
        missing = client.wanted(wishes)
        assert [(one.sha256, one.held) for one in missing] == [
            (sha(datas[0]), 0), (sha(datas[2]), 10_000), (sha(datas[3]), 30_000), (sha(datas[4]), 0)
        ]  # fmt: skip
        assert client.upload_all([Source(sha(datas[0]), file), *sources[1:]]) == 30_000 + 20_000 + 30_000
        assert not client.wanted(wishes)


def test_what_was_left_and_is_wrong_is_sent_anew(link: Link, store: Path) -> None:
    data = content(50_000)
    (store / "objects").mkdir()
    (store / "objects" / f"{sha(data)}.part").write_bytes(b"?" * 20_000)
    with Client(link) as client:
        assert 50_000 <= client.upload(data, sha(data)) <= 80_000
    assert (store / "objects" / sha(data)).read_bytes() == data


def test_errors_of_the_board_are_raised_here(link: Link, store: Path, tmp_path: Path) -> None:
    with Client(link) as client:
        with pytest.raises(BundleError, match=f"object {sha(b'a')}: the bytes that came are others; send it again"):
            client.upload(b"b", sha(b"a"))
        assert not list((store / "objects").iterdir())
        with pytest.raises(RequestError, match="there is no such file on the board"):
            client.download(f"objects/{sha(b'a')}", tmp_path / "none")
        with pytest.raises(RequestError, match="no file that is given away"):
            client.download("../../etc/passwd", tmp_path / "none")
        with pytest.raises(LinkError, match=r"does not know this request \(group 64, command 99\); bring it edgecl"):
            client.request((smp.READ, messages.EDGECL, 99), Nothing(), Nothing)
        assert client.request(messages.ECHO, EchoRequest(d="on"), EchoAnswer).r == "on"


def test_a_file_that_grows_comes_as_long_as_it_was(link: Link, store: Path, tmp_path: Path) -> None:
    (store / "journal").mkdir()
    open_segment = store / "journal" / "b-00000001.mcap"
    open_segment.write_bytes(content(20_000))

    def grow(done: int, total: int) -> None:
        with open_segment.open("ab") as file:
            file.write(b"more")

    with Client(link) as client:
        assert client.download("journal/b-00000001.mcap", tmp_path / "b.mcap", grow) == 20_000
    assert (tmp_path / "b.mcap").read_bytes() == content(20_000)


def test_a_download_goes_on_and_is_checked(link: Link, store: Path, tmp_path: Path) -> None:
    (store / "journal").mkdir()
    (store / "journal" / "b-1.mcap").write_bytes(data := content(100_000))
    part, steps = tmp_path / "b.mcap.part", []
    with Client(link) as client:
        part.write_bytes(data[:70_000])
        client.download("journal/b-1.mcap", tmp_path / "b.mcap", lambda done, total: steps.append(done))
        assert min(steps) > 70_000 and (tmp_path / "b.mcap").read_bytes() == data
        part.write_bytes(b"?" * 150_000)
        client.download("journal/b-1.mcap", tmp_path / "b.mcap")
    assert (tmp_path / "b.mcap").read_bytes() == data and not part.exists()


def test_closing_twice_and_connecting_again(link: Link) -> None:
    client = Client(link)
    for text in ("one", "two"):
        assert client.request(messages.ECHO, EchoRequest(d=text), EchoAnswer).r == text
        client.close()
        client.close()


@pytest.mark.parametrize("link", [local, ssh], indirect=True, ids=lambda kind: kind.__name__)
def test_two_hosts_send_the_same_object(link: Link, store: Path) -> None:
    data = content(8_000_000)
    failed: list[Exception] = []

    def send() -> None:
        try:
            with Client(link) as client:
                client.upload(data, sha(data))
        except Exception as error:
            failed.append(error)

    senders = [threading.Thread(target=send) for _ in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert not failed
    assert sha((store / "objects" / sha(data)).read_bytes()) == sha(data)
    assert [path.name for path in (store / "objects").iterdir()] == [sha(data)]
