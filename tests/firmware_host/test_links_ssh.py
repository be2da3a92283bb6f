"""SSH with a real sshd: host keys, keys, jump hosts, what is missing there, connections that break or fall silent."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgecl import messages
from edgecl.errors import EXIT_UNREACHABLE, LinkError
from edgecl.messages import EchoAnswer, EchoRequest
from firmware_host.client import Client
from firmware_host.links.link import Options
from firmware_host.links.ssh import remote_command
from firmware_host.links.ssh_failures import explain
from firmware_host.links.table import link_to
from tests.firmware_host import sshd
from tests.firmware_host.sshd import Server


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def failure(server: Server, host: str, **options: object) -> str:
    """What is said when it cannot be reached."""
    with pytest.raises(LinkError) as caught:
        Client(link_to(host, server.options(**options))).connect()
    assert caught.value.exit_code == EXIT_UNREACHABLE
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def strange(server: Server) -> Iterator[Path]:
    """A known_hosts that may be changed."""
    known = server.folder / "known_hosts"
    yield known
    sshd.know(server)


def test_a_host_key_that_is_not_known_is_not_accepted(server: Server, strange: Path) -> None:
    strange.write_text("")
    assert failure(server, "board") == (
        "board: its host key is not known yet; connect once by hand and compare the fingerprint that it shows: "
        "ssh board"
    )
    assert strange.read_text() == ""


def test_a_host_key_that_has_changed_is_refused_with_both_fingerprints(server: Server, strange: Path) -> None:
    other = server.folder / "other_key.pub"
    kind, blob = other.read_text().split()[:2]
    strange.write_text(f"# a comment\n[127.0.0.1]:{server.port} {kind} {blob}\n")
    before = strange.read_text()
    old, new = sshd.fingerprint(other), sshd.fingerprint(server.folder / "host_key.pub")
    assert failure(server, f"ssh://127.0.0.1:{server.port}") == (
        f"ssh://127.0.0.1:{server.port}: its host key has changed: known is {old}, it sent {new}; if the board was set "
        f"up anew and the latter is its own, forget the old one: ssh-keygen -f {strange} -R '[127.0.0.1]:{server.port}'"
    )
    assert strange.read_text() == before and old != new


def test_a_key_that_the_board_does_not_know(server: Server) -> None:
    said = failure(server, "keyless")
    assert said.startswith(
        "keyless: it let nobody in (publickey); edgecl asks for no password: give the board your key"
    )


def test_hosts_that_are_not_there(server: Server) -> None:
    closed = sshd.free_port()
    assert failure(server, f"ssh://127.0.0.1:{closed}") == (
        f"ssh://127.0.0.1:{closed}: it cannot be reached: Connection refused; check that the board is on, and its "
        "network and address"
    )
    assert "nowhere.invalid is no known name; check the address" in failure(server, "nowhere.invalid")
    assert failure(server, "astray").startswith(
        "astray: the jump host cannot reach it: connect failed: Connection refu"
    )


def test_what_is_not_installed_there(server: Server, tmp_path: Path) -> None:
    assert failure(server, "board", agent="/nowhere/edgecl") == (
        "board: edgecl is not installed there; bring it: edgecl provision board"
    )
    (old := tmp_path / "edgecl").write_text("#!/bin/sh\necho \"Error: No such command 'agent'.\" >&2; exit 2\n")
    old.chmod(0o755)
    assert failure(server, "board", agent=str(old)) == (
        "board: its edgecl is too old to answer; renew it: edgecl provision board"
    )
    old.write_text('#!/bin/sh\necho "ImportError: no cbor2" >&2; exit 1\n')
    assert "board: the agent ended with code 1: ImportError: no cbor2; try: ssh board" in failure(
        server, "board", agent=str(old)
    )


def test_ssh_itself_may_be_missing(server: Server) -> None:
    said = failure(server, "board", ssh_command="/nowhere/ssh")
    assert said.endswith("/nowhere/ssh: No such file or directory; install OpenSSH, or name another with --ssh-command")


def test_another_ssh_from_the_environment(server: Server, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECL_SSH", server.command)
    with Client(link_to("board", server.options(ssh_command="", store=store))) as client:
        assert client.connect().store == str(store)


def test_a_board_behind_a_jump_host(server: Server, store: Path) -> None:
    data = content(200_000)
    with Client(link_to("behind", server.options(store=store))) as client:
        client.upload(data, sha(data))
    assert (store / "objects" / sha(data)).read_bytes() == data


def test_the_agent_is_found_where_it_is_installed(tmp_path: Path) -> None:
    home = tmp_path / "a home"
    agent = home / ".local" / "share" / "edgecl" / "bin" / "edgecl"
    agent.parent.mkdir(parents=True)
    agent.write_text('#!/bin/sh\necho "$0" "$@"\n')
    agent.chmod(0o755)
    options = Options(store=Path("/var/lib/it's here"))
    command, path = ["sh", "-c", remote_command(options)], {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env={"HOME": str(home), **path}, capture_output=True, text=True)
    if not Path("/opt/edgecl/bin/edgecl").exists():
        assert done.stdout == f"{agent} agent --store /var/lib/it's here\n"


@pytest.mark.parametrize("seed", range(2))
def test_a_connection_that_drops_anywhere_goes_on(server: Server, store: Path, seed: int) -> None:
    size = 3_000_000
    data, chance = content(size), random.Random(seed)
    cuts = sorted(chance.sample(range(1, size), 2))

    def cut(done: int, total: int) -> None:
        if cuts and done > cuts[0]:
            cuts.pop(0)
            for session in server.sessions():
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(session, signal.SIGKILL)

    with Client(link_to("board", server.options(store=store)), pauses_s=(0.01,) * 5) as client:
        assert client.upload(data, sha(data), cut) <= size and not cuts
        assert sha((store / "objects" / sha(data)).read_bytes()) == sha(data)
        cuts = sorted(chance.sample(range(1, size), 2))
        client.download(f"objects/{sha(data)}", store / "back", cut)
    assert not cuts and sha((store / "back").read_bytes()) == sha(data)


def test_a_request_that_loses_its_connection_is_not_repeated(server: Server, store: Path) -> None:
    with Client(link_to("board", server.options(store=store))) as client:
        client.connect()
        for session in server.sessions():
            os.kill(session, signal.SIGKILL)
        with pytest.raises(LinkError, match="board: the connection ended.*; run the same command again"):
            client.request(messages.ECHO, EchoRequest(d="lost"), EchoAnswer)
        assert client.request(messages.ECHO, EchoRequest(d="again"), EchoAnswer).r == "again"


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Open sockets, and nobody behind them."""
    sessions = server.sessions()
    for session in sessions:
        os.kill(session, signal.SIGSTOP)
    try:
        yield
    finally:
        for session in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)


def test_a_socket_that_is_open_and_silent_is_given_up(server: Server, store: Path) -> None:
    client = Client(link_to("board", server.options(store=store, stall_s=0.5)), pauses_s=())
    client.connect()
    with stopped(server), pytest.raises(LinkError) as caught:
        client.request(messages.ECHO, EchoRequest(d="?"), EchoAnswer)
    assert str(caught.value) == (
        "board: the connection is open, but nothing came for 0.5 s; look after board and network, and run the same "
        "command again"
    )
    client.connect()
    data = content(8_000_000)
    with stopped(server), pytest.raises(LinkError, match="nothing came for 0.5 s"):
        client.upload(data, sha(data))
    client.close()


def test_what_a_shell_prints_first_is_passed_over(server: Server, store: Path, tmp_path: Path) -> None:
    agent = tmp_path / "edgecl"
    agent.write_text(f'#!/bin/sh\necho "Welcome to the board"; printf "\\0noise"; exec {server.folder}/edgecl "$@"\n')
    agent.chmod(0o755)
    with Client(link_to("board", server.options(store=store, agent=str(agent)))) as client:
        assert client.connect().store == str(store)


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("ssh: connect to host b port 22: Connection timed out\r\n", 255, "it cannot be reached: Connection timed out"),
        ("ssh: connect to host b port 22: No route to host\r\n", 255, "it cannot be reached: No route to host"),
        ("kex_exchange_identification: Connection closed by remote host\n", 255, "it cannot be reached: Connection"),
        ("Timeout, server b not responding.\r\n", 255, "the network or the board fell silent"),
        ("client_loop: send disconnect: Broken pipe\r\n", 255, "the connection ended: client_loop: send disconnect"),
        ("", None, "the connection ended; run the same command again"),
        ("/x: line 3: Bad configuration option: nonsense\r\n", 255, "ssh does not take its configuration: Bad conf"),
        ("Received disconnect from b: Too many authentication failures", 255, "it let nobody in (authentication fail"),
        ("@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@", 255, "known is ?, it sent ?"),
    ],
)
def test_what_ssh_says_is_told_in_a_line(said: str, code: int | None, told: str) -> None:
    line = explain("b", code, said)
    assert told in line and "\n" not in line and "\r" not in line


def test_closing_leaves_no_process(server: Server, store: Path) -> None:
    before = set(sshd.children(os.getpid()))
    assert server.process in before
    client = Client(link_to("board", server.options(store=store)))
    client.connect()
    assert len(set(sshd.children(os.getpid())) - before) == 1  # the ssh
    client.close()
    assert not set(sshd.children(os.getpid())) - before
