"""What `edgecl doctor` finds: on boards that lack something, and on a computer that does."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgecl import facts
from edgecl.facts import Engine, Facts, Temperature
from firmware_host import checks, host_checks
from firmware_host.checks import Check
from tests.edgecl import boards


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """A Jetson to which nothing is wrong."""
    root = boards.write(tmp_path_factory.mktemp("board"), boards.JETSON_ORIN_NANO)
    engines = (Engine(name="onnxruntime", version="1.20", providers=("CUDAExecutionProvider",)),)
    found = facts.read(Path("/var/lib/edgecl"), root=root)
    more = {"engines": engines, "service": "active", "trusted_keys": ("release",), "user": "edgecl", "root": False}
    return changed(found, disk={"free_bytes": 8 << 30, "wear": "0x01 0x02"}, arch="aarch64", **more)


def changed(found: Facts, **fields: Any) -> Facts:
    for name, value in fields.items():
        if isinstance(value, dict):
            fields[name] = msgspec.structs.replace(getattr(found, name), **value)
    return msgspec.structs.replace(found, **fields)


def of(found: Facts) -> dict[str, Check]:
    return {one.name: one for one in checks.of_board(found)}


def test_a_sound_board_has_nothing_to_cure(sound: Facts) -> None:
    found = of(sound)
    assert {one.status for one in found.values()} <= {"ok", "skipped"}
    assert [one.name for one in found.values() if one.status == "skipped"] == ["throttling"]
    assert not any(one.cure for one in found.values())


def test_a_raspberry_pi_as_it_comes(tmp_path: Path) -> None:
    found = of(facts.read(Path("/var/lib/edgecl"), root=boards.write(tmp_path, boards.RASPBERRY_PI_4)))
    assert found["board"].found == "Raspberry Pi 4 Model B Rev 1.4: raspberry-pi-4"
    assert found["memory cgroup"].status == "warning" and "cgroup_enable=memory" in found["memory cgroup"].cure
    assert found["throttling"].found.startswith("now: under-voltage, throttled")
    assert found["throttling"].cure == "use the maker's power supply and cable"
    assert found["messages"].status == "warning"
    assert found["service"].status == found["trusted keys"].status == "failed"
    assert all(one.cure for one in found.values() if one.status in ("failed", "warning"))


@pytest.mark.parametrize(
    ("name", "status", "fields"),
    [
        ("board", "failed", {"profile": "", "arch": "armv7l", "model": ""}),
        ("version", "failed", {"edgecl": "9.0.0"}),
        ("version", "warning", {"edgecl": "0.0.9"}),
        ("file system", "failed", {"disk": {"file_system": "vfat", "refused": facts.REFUSED["vfat"]}}),
        ("file system", "failed", {"disk": {"read_only": True}}),
        ("disk space", "failed", {"disk": {"free_bytes": 10 << 20}}),
        ("wear", "warning", {"disk": {"wear": "0x02 0x0b"}}),
        ("wear", "skipped", {"disk": {"wear": ""}}),
        ("memory", "warning", {"available_bytes": 100 << 20}),
        ("memory cgroup", "warning", {"cgroups": ("cpu", "io")}),
        ("clock", "warning", {"clock": {"wall_ns": 0}}),
        ("clock", "warning", {"clock": {"synchronised": False}}),
        ("messages", "warning", {"journal_persistent": False}),
        ("messages", "skipped", {"systemd": False}),
        ("temperature", "warning", {"temperatures": (Temperature(name="cpu", celsius=84.0),)}),
        ("temperature", "skipped", {"temperatures": ()}),
        ("throttling", "ok", {"throttling": facts.flags(0)}),
        ("throttling", "warning", {"throttling": facts.flags(0x4)}),
        ("throttling", "warning", {"throttling": facts.flags(0x20000)}),
        ("engine", "failed", {"engines": ()}),
        ("engine", "warning", {"engines": (Engine(name="executorch", version="1.5.1"),)}),
        ("service", "failed", {"service": "failed"}),
        ("service", "failed", {"service": ""}),
        ("service", "skipped", {"service": "", "systemd": False}),
        ("user", "failed", {"root": True}),
        ("trusted keys", "failed", {"trusted_keys": ()}),
        ("trusted keys", "skipped", {"trusted_keys": (), "development": True}),
        ("development mode", "warning", {"development": True}),
    ],
)
def test_what_is_wrong_is_found_with_its_cure(sound: Facts, name: str, status: str, fields: dict[str, Any]) -> None:
    found = of(changed(sound, **fields))[name]
    assert found.status == status, found
    assert bool(found.cure) == (status in ("failed", "warning"))
    assert "\n" not in found.found + found.cure


def test_serial_lines_are_looked_at(tmp_path: Path) -> None:
    boards.write(tmp_path, {"dev/ttyUSB0": "", "proc/77/comm": "ModemManager\n", "proc/78/comm": "bash\n"})
    found = {one.name: one for one in host_checks.of_serial(wanted=True, root=tmp_path)}
    assert found["serial ports"].status == "ok" and found["serial ports"].found == "ttyUSB0"
    assert found["ModemManager"].status == "warning"
    (tmp_path / "dev/ttyUSB0").unlink()
    for wanted, status in ((True, "failed"), (False, "skipped")):
        found = {one.name: one for one in host_checks.of_serial(wanted=wanted, root=tmp_path)}
        assert found["serial ports"].status == status


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_port_of_another_group_is_told(tmp_path: Path) -> None:
    boards.write(tmp_path, {"dev/ttyUSB0": ""})
    (tmp_path / "dev/ttyUSB0").chmod(0)
    found = {one.name: one for one in host_checks.of_serial(wanted=True, root=tmp_path)}["serial ports"]
    assert found.status == "failed" and "usermod -aG" in found.cure
