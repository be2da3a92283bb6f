"""Addresses: what each means, what is none, and agents on this machine that are not as they should be."""

import sys
from pathlib import Path

import pytest

from edgecl.errors import EXIT_UNREACHABLE, LinkError, StoreError
from firmware_host.client import Client
from firmware_host.links.address import Address, LocalAddress, SerialAddress, SshAddress, parse
from firmware_host.links.link import Options
from firmware_host.links.ssh import ssh_command
from firmware_host.links.table import link_to

MEANT = {
    "cam-01": ("cam-01", "", None),
    "pi@192.168.1.20": ("192.168.1.20", "pi", None),
    "pi@[fe80::1%eth0]": ("fe80::1%eth0", "pi", None),
    "ssh://cam-01": ("cam-01", "", None),
    "ssh://pi@cam-01.local:2222/": ("cam-01.local", "pi", 2222),
    "ssh://[::1]:22": ("::1", "", 22),
}


@pytest.mark.parametrize("text", MEANT)
def test_hosts(text: str) -> None:
    host, user, port = MEANT[text]
    assert parse(text) == SshAddress(text, host, user, port)


def test_ports_and_directories() -> None:
    for text, address in (
        ("serial:/dev/ttyUSB0", SerialAddress("serial:/dev/ttyUSB0", "/dev/ttyUSB0", None)),
        ("serial:auto@921600", SerialAddress("serial:auto@921600", "auto", 921600)),
        ("local:", LocalAddress("local:", None)),
        ("local:/var/lib/board", LocalAddress("local:/var/lib/board", Path("/var/lib/board"))),
    ):
        found: Address = parse(text)
        assert found == address
    relative = parse("local:board")
    assert isinstance(relative, LocalAddress) and relative.directory == Path.cwd() / "board"


NONE = (
    "", " ", "-oProxyCommand=reboot", "ssh://-oProxyCommand=reboot", "ssh://", "ssh://a b", "host name", "a@b@c",
    "serial:", "serial:@9600", "serial:/dev/x@fast", "tcp://127.0.0.1:5555", "ssh://pi@cam:port", "ssh://-l@x",
    "cam\n", "user@-x",
)  # fmt: skip


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(LinkError, match="no address of a device; write a name of fleet.toml, HOST, ssh://") as caught:
        parse(text)
    assert caught.value.exit_code == EXIT_UNREACHABLE


def test_names_of_the_fleet_come_first() -> None:
    fleet = {"cam-01": "ssh://pi@10.0.0.7:2222", "bench": "serial:FT232R@921600"}
    assert link_to("cam-01", names=fleet.get).address == "ssh://pi@10.0.0.7:2222"
    assert isinstance(parse("bench", fleet.get), SerialAddress)
    assert parse("cam-02", fleet.get) == SshAddress("cam-02", "cam-02")


def test_what_ssh_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECL_SSH", raising=False)
    command = ssh_command(SshAddress("x", "cam", "pi", 2222), Options())
    assert command[0] == "ssh" and command[-6:] == ["-p", "2222", "-l", "pi", "--", "cam"]
    assert "BatchMode=yes" in command and not any("StrictHostKeyChecking" in word for word in command)
    assert ssh_command(SshAddress("x", "cam"), Options(ssh_command="ssh -F 'my conf'"))[:3] == ["ssh", "-F", "my conf"]


def script(folder: Path, text: str) -> Options:
    path = folder / "edgecl"
    path.write_text(text)
    path.chmod(0o755)
    return Options(agent=str(path))


def test_an_agent_that_does_not_start(tmp_path: Path) -> None:
    for text, told in (
        ("#!/bin/sh\nexit 3\n", "local:: the agent ended with code 3; try again"),
        (
            "#!/bin/sh\necho no such thing >&2; exit 1\n",
            "local:: the agent ended with code 1: no such thing; try again",
        ),
    ):
        with pytest.raises(LinkError) as caught:
            Client(link_to("local:", script(tmp_path, f"#!/bin/sh\n{text}\n"))).connect()
        assert str(caught.value) == told
    with pytest.raises(LinkError, match="/nowhere: No such file or directory; name another agent"):
        Client(link_to("local:", Options(agent="/nowhere"))).connect()


def test_a_store_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file: File exists; give the agent another --store"):
        Client(link_to(f"local:{tmp_path / 'file'}")).connect()


LATER = """#!{python}
from pathlib import Path
from edgecl import agent, messages
from edgecl.board import Board
from edgecl.handlers import basic
from edgecl.streams import FdStream
import msgspec, sys
def hello(board, request):
    return msgspec.structs.replace(basic.hello(board, request), protocol=9, oldest=8, edgecl="9.0.0")
handlers = {{messages.HELLO: (messages.HelloRequest, hello)}}
agent.serve(FdStream(0, 1, stall_s=9), Board(Path(sys.argv[-1])), handlers=handlers)
"""


def test_an_agent_of_a_later_protocol_is_not_talked_to(tmp_path: Path) -> None:
    options = script(tmp_path, LATER.format(python=sys.executable))
    with pytest.raises(LinkError) as caught:
        Client(link_to(f"local:{tmp_path / 'store'}", options)).connect()
    assert "its agent (edgecl 9.0.0) speaks protocol 8 or later, this edgecl" in str(caught.value)
    assert str(caught.value).endswith("speaks 1; install edgecl 9.0.0 here")
