"""Serial lines: bytes that are damaged, lost and added, speeds, ports that are pulled or taken by others."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from edgecl import messages
from edgecl.errors import LinkError
from edgecl.messages import EchoAnswer, EchoRequest
from firmware_host.client import Client
from firmware_host.links import serial as ports
from firmware_host.links.address import parse
from firmware_host.links.link import Options
from firmware_host.links.serial import find
from firmware_host.links.table import link_to
from firmware_host.session import Session
from tests.firmware_host.wires import Faults, Wire, agent_on, speed, wired

pytest.importorskip("serial", reason="serial ports need pyserial: pip install 'edgecl[serial]'")

LOSSES = {
    "errors 1e-5": Faults(errors=1e-5),
    "errors 1e-4": Faults(errors=1e-4),
    "dropped": Faults(dropped=1e-4),
    "doubled": Faults(doubled=1e-4),
    "kernel": Faults(kernel=3e-4),
    "all": Faults(errors=5e-5, dropped=5e-5, doubled=5e-5, kernel=1e-4),
}
SIZE = 300_000


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def client_of(wire: Wire, baud: str = "@921600", **options: float) -> Client:
    return Client(link_to(f"serial:{wire.port}{baud}", Options(**options)), pauses_s=(0.05,) * 20)  # type: ignore[arg-type]


def there_and_back(client: Client, store: Path, data: bytes) -> None:
    client.upload(data, sha(data))
    assert sha((store / "objects" / sha(data)).read_bytes()) == sha(data)
    client.download(f"objects/{sha(data)}", store / "back")
    assert sha((store / "back").read_bytes()) == sha(data)


@pytest.mark.parametrize("faults", LOSSES.values(), ids=LOSSES)
def test_what_a_line_damages_is_sent_again(store: Path, faults: Faults) -> None:
    with wired(store.parent, faults=faults, seed=1) as wire, agent_on(wire, store), client_of(wire) as client:
        there_and_back(client, store, content(SIZE))
        assert wire.spoiled > 0


@pytest.mark.parametrize("faults", [Faults(text=True), Faults(text=True, kernel=1e-4, errors=1e-4)], ids=repr)
def test_a_line_for_text_alone_is_used_with_lines_of_text(store: Path, faults: Faults) -> None:
    with wired(store.parent, faults=faults) as wire, agent_on(wire, store):
        session = Session(link_to(f"serial:{wire.port}"))
        assert session._channel.framing == "console"
        session.close()
        with client_of(wire, baud="") as client:
            there_and_back(client, store, content(5_000))


def test_a_line_goes_faster_and_back(store: Path) -> None:
    with wired(store.parent) as wire, agent_on(wire, store):
        with client_of(wire) as client:
            client.connect()
            assert speed(wire) == 921600
        with client_of(wire, baud="") as client:
            client.connect()
            assert speed(wire) == 115200


def test_a_speed_at_which_nothing_comes_through_is_left(store: Path) -> None:
    with wired(store.parent, faults=Faults(deaf_above=115200)) as wire, agent_on(wire, store):
        client = client_of(wire)
        there_and_back(client, store, content(20_000))
        assert speed(wire) == 115200
        client.close()


def test_a_host_that_vanished_leaves_the_line_usable(store: Path) -> None:
    with wired(store.parent) as wire, agent_on(wire, store):
        for baud in ("@921600", "@921600"):
            client = client_of(wire, baud)
            client.connect()
            assert client._session
            client._session._connection.close()  # without a word to the board
        with client_of(wire) as client:
            assert client.request(messages.ECHO, EchoRequest(d="again"), EchoAnswer).r == "again"


@pytest.mark.parametrize("seed", range(2))
def test_a_port_that_is_pulled_in_the_middle(store: Path, seed: int) -> None:
    data, chance = content(SIZE), random.Random(seed)
    cuts = sorted(chance.sample(range(1, SIZE), 2))
    with wired(store.parent) as wire, agent_on(wire, store), client_of(wire) as client:

        def pull(done: int, total: int) -> None:
            if cuts and done > cuts[0]:
                cuts.pop(0)
                wire.unplug()
                wire.plug()

        travelled = client.upload(data, sha(data), pull)
        assert not cuts and travelled < SIZE + 1
        assert sha((store / "objects" / sha(data)).read_bytes()) == sha(data)
        cuts = sorted(chance.sample(range(1, SIZE), 2))
        client.download(f"objects/{sha(data)}", store / "back", pull)
    assert not cuts and sha((store / "back").read_bytes()) == sha(data)


def test_a_line_where_nothing_answers(store: Path) -> None:
    with wired(store.parent) as wire, pytest.raises(LinkError) as caught:
        client_of(wire, connect_s=0.3).connect()
    assert str(caught.value) == (
        f"serial:{wire.port}@921600: nothing answers on {wire.port}; check the cable, and that `edgecl agent` runs at "
        "its other end at 115200 baud"
    )


def test_a_port_that_others_have_is_not_used(store: Path) -> None:
    with wired(store.parent) as wire, agent_on(wire, store), client_of(wire) as client:
        client.connect()
        with pytest.raises(LinkError, match=f"{wire.port}: another process has it; stop that first"):
            client_of(wire).connect()
        client.close()
        other = [sys.executable, "-c", f"import os; os.open({str(wire.port)!r}, os.O_RDWR | os.O_NOCTTY); print(flush=True); input()"]  # fmt: skip  # noqa: E501
        with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout and holder.stdin
            holder.stdout.readline()
            with pytest.raises(LinkError, match=rf"python\S* \(process {holder.pid}\) has {wire.port} open"):
                client.connect()
            holder.stdin.close()


def test_ports_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "BY_ID", tmp_path / "by-id")

    def found(text: str) -> str:
        address = parse(text)
        return find(address).name  # type: ignore[arg-type]

    with pytest.raises(LinkError, match="serial:auto: no serial port in .*/by-id; plug the cable in"):
        found("serial:auto")
    (tmp_path / "by-id").mkdir()
    (tmp_path / "by-id" / "usb-FTDI_FT232R_A50285BI-if00").symlink_to("/dev/null")
    assert found("serial:auto") == found("serial:FT232R@921600") == "usb-FTDI_FT232R_A50285BI-if00"
    (tmp_path / "by-id" / "usb-Silicon_Labs_CP2102_0001").symlink_to("/dev/null")
    with pytest.raises(LinkError, match="there are several ports; choose one of serial:usb-FTDI.*, serial:usb-Sil"):
        found("serial:auto")
    assert found("serial:CP2102") == "usb-Silicon_Labs_CP2102_0001"
    with pytest.raises(LinkError, match="no port with CH340 in its name"):
        found("serial:CH340")
    assert found("serial:/dev/ttyS7") == "ttyS7"


def test_ports_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, problem in ((tmp_path / "none", "there is no such port"), (tmp_path / "file", "give a serial port")):
        with pytest.raises(LinkError, match=problem):
            Client(link_to(f"serial:{path}")).connect()


def test_an_agent_gives_its_terminal_back(store: Path) -> None:
    import termios

    with wired(store.parent) as wire:
        before = termios.tcgetattr(wire.board)
        with agent_on(wire, store) as process:
            with client_of(wire) as client:
                client.connect()
            assert termios.tcgetattr(wire.board) != before
            process.terminate()
            process.wait()
        assert os.isatty(wire.board)
        assert termios.tcgetattr(wire.board) == before
