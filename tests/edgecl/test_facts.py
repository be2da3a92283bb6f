"""What is read of boards, from files as their kernels write them; and of the computer that this runs on."""

import os
from pathlib import Path

import msgspec
import pytest

from edgecl import __version__, facts
from edgecl.facts import Facts, Throttling
from tests.edgecl import boards


def test_a_raspberry_pi_as_it_comes(tmp_path: Path) -> None:
    found = facts.read(Path("/var/lib/edgecl"), root=boards.write(tmp_path, boards.RASPBERRY_PI_4))
    assert (found.model, found.kernel) == ("Raspberry Pi 4 Model B Rev 1.4", "6.6.51+rpt-rpi-v8")
    assert found.profile == "raspberry-pi-4"
    assert found.system == "Debian GNU/Linux 12 (bookworm)"
    assert (found.memory_bytes, found.available_bytes) == (1884224 << 10, 1523008 << 10)
    assert found.swap_bytes == 102396 << 10
    assert found.clock_hz == 1_800_000_000
    assert found.cgroups == ("cpuset", "cpu", "io", "pids") and not found.memory_cgroup
    assert found.clock.boot_id == "0b7c1c5e7bd04a3e9f587e1f2f4a5b60"
    assert found.clock.uptime_s == 3671.42
    assert not found.clock.synchronised and not found.clock.battery
    assert [(one.name, one.celsius) for one in found.temperatures] == [("cpu-thermal", 62.316)]
    now = ("under-voltage", "throttled")
    assert found.throttling == Throttling(now=now, since_boot=now) and found.throttles
    assert found.systemd and not found.journal_persistent
    assert (found.jetson_linux, found.jetpack, found.service, found.disk.wear) == ("", "", "", "")


def test_a_jetson(tmp_path: Path) -> None:
    programs = {"usr/bin/dpkg-query": boards.DPKG_QUERY, "usr/bin/systemctl": boards.SYSTEMCTL}
    root = boards.write(tmp_path, boards.JETSON_ORIN_NANO, programs)
    found = facts.read(Path("/var/lib/edgecl"), root=root)
    assert found.profile == "jetson-orin-nano"
    assert (found.jetson_linux, found.jetpack) == ("36.4.3", "6.2.1")
    assert found.memory_cgroup
    assert [one.name for one in found.temperatures] == ["cpu-thermal"]
    assert found.throttling is None and not found.throttles
    assert found.clock.battery and found.clock.synchronised and found.journal_persistent
    assert found.service == "failed"


def test_this_computer_told_without_root() -> None:
    found = facts.read(Path("/var/lib/edgecl"))
    assert found.edgecl == __version__ and found.arch == os.uname().machine
    assert 0 < found.available_bytes <= found.memory_bytes
    assert found.cores >= 1 and found.python and len(found.clock.boot_id) == 32
    assert found.disk.free_bytes <= found.disk.total_bytes
    assert found.engines[0].name == "executorch" and found.engines[0].version.startswith("1.")
    assert found.root == (os.geteuid() == 0)
    again = msgspec.json.decode(msgspec.json.encode(found), type=Facts)
    assert again == found
    assert msgspec.convert(msgspec.to_builtins(found), Facts) == found  # as it travels in CBOR


def test_a_board_that_tells_nothing(tmp_path: Path) -> None:
    found = facts.read(Path("/var/lib/edgecl"), root=tmp_path)
    assert (found.model, found.memory_bytes, found.cgroups, found.temperatures) == ("", 0, (), ())
    assert found.disk.file_system == "" and found.disk.refused == ""
    assert found.clock.boot_id == "" and found.clock.uptime_s == 0


@pytest.mark.parametrize(
    ("store", "kind", "read_only"),
    [
        ("/var/lib/edgecl", "ext4", False),
        ("/boot/firmware/edgecl", "vfat", False),
        ("/boot/firmware-else", "ext4", False),
        ("/tmp/edgecl", "tmpfs", False),
        ("/media/a stick/edgecl", "exfat", True),
        ("/srv/overlaid", "overlay", False),
    ],
)
def test_the_file_system_of_a_store_is_that_of_the_nearest_mount(
    tmp_path: Path, store: str, kind: str, read_only: bool
) -> None:
    root = boards.write(tmp_path, boards.RASPBERRY_PI_4)
    for mounted in ("boot/firmware", "tmp", "media/a stick", "srv/overlaid"):
        (root / mounted).mkdir(parents=True)
    assert facts.file_system(Path(store), root=root)[:2] == (kind, read_only)
    assert bool(facts.REFUSED.get(kind)) == (kind != "ext4")


def test_a_store_behind_a_link_lies_where_the_link_leads(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if facts.file_system(shm)[0] != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    (tmp_path / "store").symlink_to(shm)
    assert facts.file_system(tmp_path / "store" / "not yet there")[0] == "tmpfs"
    assert facts.read(tmp_path / "store").disk.refused == "what is written there is gone after a boot"


def test_the_wear_of_a_medium_is_that_of_the_partitions_disk(tmp_path: Path) -> None:
    disk = {"sys/devices/mmc0/block/mmcblk0/mmcblk0p2/start": "1\n"}
    disk["sys/devices/mmc0/block/mmcblk0/device/life_time"] = "0x02 0x09\n"
    root = boards.write(tmp_path, boards.RASPBERRY_PI_4, disk)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/179:2").symlink_to(root / "sys/devices/mmc0/block/mmcblk0/mmcblk0p2")
    assert facts.read(Path("/var/lib/edgecl"), root=root).disk.wear == "0x02 0x09"


def test_the_firmwares_program_is_asked_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    tree = {name: text for name, text in boards.RASPBERRY_PI_4.items() if "get_throttled" not in name}
    root = boards.write(tmp_path, tree, {"usr/bin/vcgencmd": boards.VCGENCMD})
    found = facts.read(Path("/var/lib/edgecl"), root=root).throttling
    assert found == Throttling(now=(), since_boot=("clock capped",))


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({}, False),
        ({"var/log/journal/.keep": ""}, True),
        ({"etc/systemd/journald.conf": "[Journal]\n#Storage=volatile\nStorage=persistent\n"}, True),
        ({"var/log/journal/.keep": "", "etc/systemd/journald.conf.d/a.conf": "[Journal]\nStorage=none\n"}, False),
        (
            {
                "var/log/journal/.keep": "",
                "usr/lib/systemd/journald.conf.d/40-rpi.conf": "[Journal]\nStorage=volatile\n",
                "etc/systemd/journald.conf.d/40-rpi.conf": "",
            },
            True,
        ),
    ],
)
def test_whether_systemds_journal_survives_a_boot(tmp_path: Path, files: dict[str, str], kept: bool) -> None:
    assert facts.read(Path("/"), root=boards.write(tmp_path, files)).journal_persistent == kept


def test_old_cgroups(tmp_path: Path) -> None:
    rows = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t1\t1\nmemory\t0\t60\t0\npids\t8\t65\t1\n"
    assert facts.read(Path("/"), root=boards.write(tmp_path, {"proc/cgroups": rows})).cgroups == ("cpu", "pids")


@pytest.mark.parametrize(
    "tree",
    [
        {"proc/meminfo": "MemTotal: much kB\nMemAvailable\n:::\n", "proc/self/mountinfo": "nonsense\n- - -\n1 2 3\n"},
        {"proc/cgroups": "memory\n", "proc/device-tree/model": "\xff\xfe\0" * 1000, "etc/nv_tegra_release": "R36"},
        {"proc/uptime": "long", "sys/class/thermal/thermal_zone0/temp": "hot"},
        {
            "etc/systemd/journald.conf": "Storage",
            "etc/os-release": "PRETTY",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "0x",
        },
    ],
)
def test_files_that_are_not_as_expected_are_passed_over(tmp_path: Path, tree: dict[str, str]) -> None:
    found = facts.read(Path("/var/lib/edgecl"), root=boards.write(tmp_path, tree))
    assert found.memory_bytes == 0 and found.cgroups == () and found.temperatures == () and found.jetson_linux == ""


def test_keys_and_development_mode_are_the_stores(tmp_path: Path) -> None:
    names = {"trust.d/release.pem": "", "trust.d/release.toml": "", "trust.d/aging.pem": "", "trust.d/development": ""}
    found = facts.read(boards.write(tmp_path, names))
    assert found.trusted_keys == ("aging", "release") and found.development
