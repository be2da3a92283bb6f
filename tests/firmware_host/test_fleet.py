"""fleet.toml, and one bundle for several devices."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecl.errors import LinkError
from firmware_host import fleet as fleets
from firmware_host.events import Ended, Event
from firmware_host.fleet import Device, FleetError, Rollout, share
from firmware_host.rollout import exit_code, roll_out
from tests.edgecl import stores
from tests.firmware_host.hosts import Host

GOOD = """
[defaults]
store = "/data/edgecl"
probation_s = 60

[group.line-a]
rollout = { canaries = 2, max_in_flight = "25%", error_threshold = "5%", pause_after_canary = true }

[device.cam-01]
address = "cam-01"
groups = ["line-a", "outside"]

[device.bench]
address = "serial:usb-FTDI_A50@921600"
store = ""
agent = "/opt/edgecl/bin/edgecl"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_names_groups_and_addresses_are_devices(tmp_path: Path) -> None:
    fleet = fleets.read(write(tmp_path, GOOD))
    cam, bench = fleet.devices
    assert (cam.address, str(cam.options.store), cam.options.agent) == ("cam-01", "/data/edgecl", "")
    assert (bench.options.store, bench.options.agent) == (None, "/opt/edgecl/bin/edgecl")
    assert fleet.find(["line-a"]) == fleet.find(["outside"]) == fleet.find(["cam-01", "line-a", "cam-01"]) == (cam,)
    (other,) = fleet.find(["ssh://pi@10.0.0.7:2222"])
    assert (other.name, str(other.options.store)) == ("ssh://pi@10.0.0.7:2222", "/data/edgecl")
    assert other.folder == "ssh_pi_10.0.0.7_2222"
    assert fleet.rollout(["line-a"]) == Rollout(
        canaries=2, max_in_flight="25%", error_threshold="5%", pause_after_canary=True
    )
    assert fleet.rollout(["outside"]) == fleet.rollout(["cam-01", "line-a"]) == Rollout()
    with pytest.raises(LinkError, match="no address of a device"):
        fleet.find(["what is this"])[0].link()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[device.a]", "missing required field `address`"),
        ('[device.a]\naddress = "a"\ncolour = "red"', "unknown field `colour`"),
        ('[device.a]\naddress = "not an address"', "device a: 'not an address': no address of a device"),
        ('[device."a b"]\naddress = "a"', "'a b' is no name"),
        ('[device.a]\naddress = "a"\ngroups = ["a"]', "a is a device and a group"),
        ('[group.a]\nrollout = { max_in_flight = "30" , canaries = -1 }', "Expected `int` >= 0"),
        ('[group.a]\nrollout = { max_in_flight = "a third" }', '"a third" is neither a number'),
        ('[group.a]\nrollout = { error_threshold = "101%" }', '"101%" is neither a number'),
        ("[device", "Expected ']'"),
        ("[defaults]\nprobation_s = -1", "Expected `float` >= 0"),
    ],
)
def test_what_a_file_may_not_say_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(FleetError) as caught:
        fleets.read(write(tmp_path, text))
    assert why in str(caught.value) and str(tmp_path / "fleet.toml") in str(caught.value)


def test_a_file_that_is_not_there(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert fleets.load(None).devices == ()
    monkeypatch.setenv("EDGECL_FLEET", str(tmp_path / "none.toml"))
    assert host("devices").code == 1
    assert "none.toml: No such file" in host("status", "cam").err
    assert host("devices", "--fleet", write(tmp_path, GOOD)).code == 0


def test_a_group_without_devices_and_one_name_for_several(tmp_path: Path) -> None:
    fleet = fleets.read(write(tmp_path, GOOD.replace('groups = ["line-a", "outside"]', "")))
    with pytest.raises(FleetError, match="no device is in group line-a"):
        fleet.find(["line-a"])
    both = '[device.a]\naddress = "a"\ngroups = ["x"]\n[device.b]\naddress = "b"\ngroups = ["x"]\n'
    with pytest.raises(FleetError, match="x: a group of 2 devices; name one of them"):
        fleets.read(write(tmp_path, both)).one("x")


def test_shares_are_rounded_as_they_are_meant() -> None:
    assert [share("25%", of, up=True) for of in (1, 4, 5)] == [1, 1, 2]
    assert [share("5%", of, up=False) for of in (1, 19, 20, 40)] == [0, 0, 1, 2]
    assert share(3, 100, up=True) == share("3", 100, up=False) == 3


DEVICES = tuple(Device(name, "local:") for name in "abcdef")


def rolled(bad: str, how: Rollout, there: str = "") -> tuple[str, list[str]]:
    """Which devices were begun in what order, and what became of each."""
    begun: list[str] = []

    def do(device: Device) -> Ended:
        begun.append(device.name)
        if device.name in bad:
            raise LinkError(f"{device.name}: no answer")
        outcome = "there" if device.name in there else "committed"
        return Ended(device=device.name, outcome=outcome, exit_code=0, bundle="", title="t@1")

    events: list[Event] = []
    results = roll_out(DEVICES, how, do, "t@1", events.append)
    assert exit_code(results) == (7 if set(bad) & set(begun) else 0)
    return "".join(begun), [result.outcome for result in results]


def test_canaries_come_first_and_too_many_failures_stop_it() -> None:
    one = Rollout(canaries=2, max_in_flight=1)
    assert rolled("", one) == ("abcdef", ["committed"] * 6)
    assert rolled("a", one) == ("a", ["unreachable", *["not begun"] * 5])
    assert rolled("c", one) == ("abc", [*["committed"] * 2, "unreachable", *["not begun"] * 3])
    assert rolled("ace", Rollout(canaries=2, max_in_flight=1, error_threshold=1))[0] == "abc"
    assert rolled("ace", Rollout(canaries=0, max_in_flight=1, error_threshold="50%"))[0] == "abcdef"
    begun, outcomes = rolled("", Rollout(canaries=0, max_in_flight="100%"))
    assert sorted(begun) == list("abcdef") and outcomes == ["committed"] * 6


def test_a_pause_after_the_canaries_is_over_when_they_have_the_bundle() -> None:
    how = Rollout(canaries=2, pause_after_canary=True)
    assert rolled("", how) == ("ab", ["committed", "committed", *["not begun"] * 4])
    assert rolled("", how, there="ab") == ("abcdef", ["there", "there", *["committed"] * 4])


Boards = Callable[[str], Path]


@pytest.fixture
def boards(host: Host, tmp_path: Path) -> Boards:
    """Makes three boards, of which one trusts nobody: `boards(name of that one)` gives the folder of all."""

    def make(bad: str) -> Path:
        lines = []
        for name in ("one", "two", "three"):
            if name == bad:
                (tmp_path / name).mkdir()
            else:
                stores.made(tmp_path / name)
            lines.append(f'[device.{name}]\naddress = "local:{tmp_path / name}"\ngroups = ["all"]\n')
        (Path.cwd() / "fleet.toml").write_text("".join(lines))
        return tmp_path

    return make


def test_a_fleet_of_three_with_a_bad_one(host: Host, looped: Path, boards: Boards) -> None:
    boards("one")
    stopped = host("deploy", looped, "all")
    assert stopped.code == 7
    rows = [line.split()[:2] for line in stopped.out.splitlines()]
    assert rows[1:] == [["one", "refused"], ["two", "not"], ["three", "not"], ["looped@1", "on"]]
    assert stopped.out.endswith("looped@1 on 3 devices: 1 refused, 2 not begun\n")
    words = ("--error-threshold", "34%", "--max-in-flight", "2", "--probation", "0")
    done = host("deploy", looped, "all", *words, "--json")
    assert done.code == 7
    ends = [line for line in map(json.loads, done.out.splitlines()) if line["event"] == "outcome"]
    assert {(end["device"], end["outcome"]) for end in ends} == {
        ("one", "refused"), ("two", "committed"), ("three", "committed")
    }  # fmt: skip
    plans = host("deploy", looped, "all", "--plan")
    assert plans.code == 7 and plans.out.count("nothing to do: looped@1 answers already") == 2
    shown = host("devices")
    assert [line.split()[0] for line in shown.out.splitlines()] == ["device", "one", "two", "three"]
    assert "raspberry-pi-5" in host("devices", "--profiles").out
    status = host("devices", "--status")
    assert status.code == 0 and status.out.count("looped@1 is current") == 2 and "no bundle yet" in status.out
    assert host("devices", "--status", "--profiles").code == 2
    assert host("deploy", looped, "all", "--max-in-flight", "many").code == 2
    assert host("history", "all").code == 1
    assert host("pause", "all").code == 7
