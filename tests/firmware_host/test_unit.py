"""The unit of the service, judged by systemd itself."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecl.devices import Profile, find, profiles
from firmware_host import unit
from firmware_host.unit import Place

MOST_EXPOSED = 1.5
WHERE = Place(venv="/opt/edgecl/venv", store="/var/lib/edgecl")

analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")


def write(folder: Path, text: str, venv: Path | None = None) -> Path:
    path = folder / "edgecl.service"
    path.write_text(text.replace(WHERE.venv, str(venv)) if venv else text)
    return path


@analyze
@pytest.mark.parametrize("name", ["raspberry-pi-zero-2w", "jetson-orin-nano"])
def test_little_is_exposed(tmp_path: Path, name: str) -> None:
    text = unit.service(WHERE, find(name), groups=("video", "gpio"), devices=("/dev/nvmap", "/dev/nvgpu/igpu0/ctrl"))
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(write(tmp_path, text))]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Overall exposure level for edgecl.service: ([\d.]+)", told)
    assert found and float(found[1]) <= MOST_EXPOSED, told


@analyze
@pytest.mark.parametrize("make", [unit.service, unit.user_service], ids=["system", "user"])
def test_systemd_understands_every_line(tmp_path: Path, make: Callable[..., str]) -> None:
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/edgecl").write_text("#!/bin/sh\n")
    (tmp_path / "venv/bin/edgecl").chmod(0o755)
    path = write(tmp_path, make(WHERE, find("raspberry-pi-4")), tmp_path / "venv")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("board", profiles(), ids=lambda board: board.name)
def test_the_memory_is_the_profiles(board: Profile) -> None:
    for text in (unit.service(WHERE, board), unit.user_service(WHERE, board)):
        told = dict(re.findall(r"^(Memory\w+|LimitDATA)=(\d+)$", text, re.MULTILINE))
        assert 2 * board.budget_bytes < int(told["MemoryHigh"]) < int(told["MemoryMax"]) < board.memory_bytes
        assert ("LimitDATA" in told) == (not board.providers)


def test_the_service_has_no_network_and_only_the_groups_that_are_there() -> None:
    text = unit.service(WHERE, find("raspberry-pi-4"))
    lines = text.splitlines()
    assert "PrivateNetwork=yes" in lines and "RestrictAddressFamilies=AF_UNIX" in lines
    assert "User=edgecl" in lines and "Type=notify" in lines and "WatchdogSec=60s" in lines
    assert "ExecStart=/opt/edgecl/venv/bin/edgecl serve --store /var/lib/edgecl" in lines
    assert "SupplementaryGroups" not in text and "/dev/" not in text
    assert not re.search(r"@[A-Z]+@", text)
    with_groups = unit.service(WHERE, find("raspberry-pi-4"), groups=("video", "gpio"), devices=("/dev/nvmap",))
    assert "SupplementaryGroups=video gpio" in with_groups and "DeviceAllow=/dev/nvmap rw" in with_groups


def test_user_and_folders_are_declared() -> None:
    assert "u edgecl - " in unit.sysusers(WHERE) and "/var/lib/edgecl" in unit.sysusers(WHERE)
    assert "d /var/lib/edgecl 0750 edgecl edgecl -\nd /var/lib/edgecl/trust.d 0755 root root -\n" in unit.tmpfiles(
        WHERE
    )


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="there is no systemd here")
def test_systemd_makes_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name, text in (("sysusers", unit.sysusers(WHERE)), ("tmpfiles", unit.tmpfiles(WHERE))):
        path = tmp_path / f"{name}.conf"
        path.write_text(text)
        program = [f"systemd-{name}", f"--root={tmp_path}", *(["--create"] if name == "tmpfiles" else []), str(path)]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode and "Operation not permitted" in done.stderr:
            pytest.skip("only root may make users and folders of others")
        assert done.returncode == 0, done.stderr
    assert re.search(r"^edgecl:.*:/var/lib/edgecl:/usr/sbin/nologin$", (tmp_path / "etc/passwd").read_text(), re.M)
    assert (tmp_path / "var/lib/edgecl").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "var/lib/edgecl/trust.d").stat().st_mode & 0o777 == 0o755
