"""What systemd is told, on real datagram sockets."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgecl.notify import Notifier


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(address)
        yield receiver


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract socket"])
def test_messages_arrive_one_by_one(tmp_path: Path, abstract: bool) -> None:
    name = f"edgecl-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with listening(f"\0{name}" if abstract else name) as receiver:
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}" if abstract else name})
        sent = (notifier.ready(), notifier.status("step 7\nof 9"), notifier.alive(), notifier.allow(2.5))
        assert (*sent, notifier.stopping()) == (True,) * 5
        told = [receiver.recv(4096) for _ in range(5)]
        assert told == [b"READY=1", b"STATUS=step 7 of 9", b"WATCHDOG=1", b"WATCHDOG_USEC=2500000", b"STOPPING=1"]
        assert notifier.watchdog_s == 2.5


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_that_of_this_process(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog_s == seconds


def test_nobody_listening_is_no_trouble(tmp_path: Path) -> None:
    assert not Notifier({}).ready()
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).ready()
    assert not Notifier({"NOTIFY_SOCKET": "vsock:2:9"}).ready()  # of virtual machines; edgecl runs in none
    assert not Notifier({"NOTIFY_SOCKET": "/" + 200 * "x"}).ready()  # longer than an address may be


def test_a_manager_that_does_not_read_does_not_stop_the_loop(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")):
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert not all(notifier.alive() for _ in range(10_000))
