"""What this board is, as far as an ordinary user may read it: processor, memory, disk, clock, heat, engines.

Every source is a file below `root`, the store too, so that the files of one board can be read on another computer; what
only the running process knows (its user, its C library, its Python, the size of a file system) is of where this runs. A
source that is not there leaves its field empty: no board has all of them.
"""

import contextlib
import functools
import os
import platform
import pwd
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from edgecl import __version__, boot, devices, heat

PROGRAM_S: Final = 20.0
"""No program that is asked takes so long, importing ONNX Runtime on a slow card among them."""

REFUSED: Final = {
    **dict.fromkeys(("vfat", "msdos", "exfat"), "renaming there does not survive a power cut"),
    **dict.fromkeys(("overlay", "aufs"), "what is written there may be gone after a boot"),
    **dict.fromkeys(("tmpfs", "ramfs", "devtmpfs"), "what is written there is gone after a boot"),
    **dict.fromkeys(("squashfs", "iso9660", "erofs"), "nothing can be written there"),
    **dict.fromkeys(("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"), "it is another computer's disk"),
}
"""File systems that may not hold a store, and why."""

THROTTLING: Final = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
"""Bits 0 to 3 of a Raspberry Pi's get_throttled, which are of now; 16 to 19 are the same since the boot."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store lies."""

    path: str
    file_system: str
    refused: str
    """Why a store may not lie there; empty if it may."""
    read_only: bool
    free_bytes: int
    """That an ordinary user may have."""
    total_bytes: int
    wear: str
    """What the medium says of its age, `0x01 0x02`; each step is a tenth of its life. Empty where it does not tell."""


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """What a time of this board is worth."""

    wall_ns: int
    synchronised: bool
    """Whether systemd-timesyncd has set the clock since the boot."""
    battery: bool
    """Whether there is a real-time clock; whether its battery is in, nothing tells."""
    boot_id: str
    uptime_s: float


class Temperature(msgspec.Struct, frozen=True, kw_only=True):
    """Of one sensor."""

    name: str
    celsius: float


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """What a Raspberry Pi's firmware holds back, in its words."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """Something that can run a bundle."""

    name: str
    version: str
    providers: tuple[str, ...] = ()
    """ONNX Runtime's execution providers."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Sizes in bytes."""

    edgecl: str
    arch: str
    """As `uname -m` gives it."""
    model: str
    """Of the board, from its device tree; of a PC, its product name."""
    profile: str
    """The profile in `devices/` that this board looks like; empty for none."""
    system: str
    """Name and version of the Linux distribution."""
    kernel: str
    libc: str
    python: str
    cores: int
    """That this process may use."""
    clock_hz: int
    """Highest clock of the first core; 0 where unknown."""
    memory_bytes: int
    available_bytes: int
    swap_bytes: int
    cgroups: tuple[str, ...]
    """Controllers. Without `memory` among them, a memory limit of systemd does nothing."""
    disk: Disk
    clock: Clock
    temperatures: tuple[Temperature, ...]
    throttling: Throttling | None
    engines: tuple[Engine, ...]
    jetson_linux: str
    """Release of NVIDIA's Jetson Linux, `36.4.3`; empty elsewhere."""
    jetpack: str
    journal_persistent: bool
    """Whether systemd's journal, which has the service's messages, survives a boot."""
    service: str
    """State of the service by systemd: `active`, `failed`, ...; empty where there is no such service."""
    systemd: bool = True
    """Whether systemd runs the board."""
    trusted_keys: tuple[str, ...]
    """Names of the keys in the store that bundles may be signed with."""
    development: bool
    """Whether the board takes unsigned bundles."""
    user: str
    root: bool
    """Whether this runs as root; after provisioning nothing does."""

    @property
    def memory_cgroup(self) -> bool:
        """Whether the kernel can limit a service's memory."""
        return "memory" in self.cgroups

    @property
    def throttles(self) -> bool:
        """Whether the board holds itself back now."""
        return self.throttling is not None and bool(self.throttling.now)


def read(store: Path, *, root: Path = Path("/")) -> Facts:
    """The facts of this board, or of the one whose files lie below `root`."""
    memory = dict(_pairs(_text(root / "proc/meminfo"), ":"))
    keys, development = _trust(_below(root, store) / "trust.d")
    arch, model = os.uname().machine, boot.model(root)
    profile = devices.of_model(model, arch)
    return Facts(
        edgecl=__version__,
        arch=arch,
        model=model,
        profile=profile.name if profile else "",
        system=dict(_pairs(_text(root / "etc/os-release"), "=")).get("PRETTY_NAME", "").strip('"'),
        kernel=_text(root / "proc/sys/kernel/osrelease"),
        libc=_libc(),
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        clock_hz=1000 * _int(_text(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")),
        memory_bytes=_kb(memory, "MemTotal"),
        available_bytes=_kb(memory, "MemAvailable"),
        swap_bytes=_kb(memory, "SwapTotal"),
        cgroups=_cgroups(root),
        disk=_disk(store, root),
        clock=_clock(root),
        temperatures=tuple(_temperatures(root)),
        throttling=_throttling(root),
        engines=_engines(),
        jetson_linux=_jetson_linux(root),
        jetpack=_jetpack(root),
        journal_persistent=_journal_persistent(root),
        service=_service(root),
        systemd=(root / "run/systemd/system").is_dir(),
        trusted_keys=keys,
        development=development,
        user=_user(),
        root=os.geteuid() == 0,
    )


def file_system(path: Path, *, root: Path = Path("/")) -> tuple[str, bool, str]:
    """Type of the file system that a path lies on or would lie on, whether it is read-only, and the device's number."""
    path, best = Path("/") / _existing(path, root).relative_to(root.resolve()), (-1, "", False, "")
    for line in _text(root / "proc/self/mountinfo").splitlines():
        # 36 35 8:2 / /var rw,relatime shared:1 - ext4 /dev/sda2 rw   (the optional fields end at the dash)
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 6 or len(kind) < 1:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        if (path == point or point in path.parents) and len(point.parts) >= best[0]:
            read_only = "ro" in fields[5].split(",") or "ro" in kind[-1].split(",")
            best = (len(point.parts), kind[0], read_only, fields[2])
    return best[1:]


def flags(number: int) -> Throttling:
    """What a Raspberry Pi's get_throttled says."""
    now, before = ([name for bit, name in enumerate(THROTTLING) if number >> shift >> bit & 1] for shift in (0, 16))
    return Throttling(now=tuple(now), since_boot=tuple(before))


def _text(path: Path) -> str:
    """A small file without the zeros and blanks around it; empty where it cannot be read."""
    try:
        return path.read_bytes()[: 1 << 20].decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""


def _pairs(text: str, between: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, found, value = line.partition(between)
        if found:
            yield name.strip(), value.strip()


def _int(text: str, base: int = 10) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0


def _kb(memory: dict[str, str], name: str) -> int:
    return 1024 * _int(memory.get(name, "").removesuffix(" kB"))


def _existing(path: Path, root: Path) -> Path:
    """Where a path of the board lies here, links followed; where nothing is there, the nearest folder above."""
    here = _below(root, path)
    while not here.exists() and here != root:
        here = here.parent
    return here.resolve()


def _below(root: Path, path: Path) -> Path:
    return root / path.absolute().relative_to("/")


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # not glibc
        return " ".join(platform.libc_ver()).strip()


def _cgroups(root: Path) -> tuple[str, ...]:
    unified = root / "sys/fs/cgroup/cgroup.controllers"
    if unified.exists():
        return tuple(_text(unified).split())
    rows = (line.split() for line in _text(root / "proc/cgroups").splitlines() if not line.startswith("#"))
    return tuple(row[0] for row in rows if len(row) == 4 and row[3] == "1")


def _disk(store: Path, root: Path) -> Disk:
    kind, read_only, device = file_system(store, root=root)
    size = os.statvfs(_existing(store, root))
    return Disk(
        path=str(store.absolute()),
        file_system=kind,
        refused=REFUSED.get(kind, ""),
        read_only=read_only,
        free_bytes=size.f_bavail * size.f_frsize,
        total_bytes=size.f_blocks * size.f_frsize,
        wear=_wear(root, device),
    )


def _wear(root: Path, device: str) -> str:
    """A partition's medium is the folder above; only eMMC tells."""
    block = root / "sys/dev/block" / device
    places = (block / "device/life_time", block.resolve().parent / "device/life_time")
    return next((text for place in places if device and (text := _text(place))), "")


def _clock(root: Path) -> Clock:
    return Clock(
        wall_ns=time.time_ns(),
        synchronised=(root / "run/systemd/timesync/synchronized").exists(),
        battery=any((root / "sys/class/rtc").glob("rtc*")),
        boot_id=_text(root / "proc/sys/kernel/random/boot_id").replace("-", ""),
        uptime_s=_int(_text(root / "proc/uptime").partition(" ")[0].replace(".", "")) / 100,
    )


def _temperatures(root: Path) -> Iterator[Temperature]:
    for name, celsius in heat.sensors(root):
        yield Temperature(name=name, celsius=celsius)


def _throttling(root: Path) -> Throttling | None:
    told = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    told = told or _run(root, "vcgencmd", "get_throttled").partition("=")[2]
    return flags(_int(told.removeprefix("0x"), 16)) if told else None


@functools.cache
def _engines() -> tuple[Engine, ...]:
    from edgecl import _runtime  # not before it is needed: some only want to know of a path

    found = [Engine(name="executorch", version=_runtime.EXECUTORCH_VERSION)]
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(PackageNotFoundError):
            number = version(package)
            # In a process of its own: it is large, and on a Jetson with half an installation it may not load.
            code = "import onnxruntime; print(*onnxruntime.get_available_providers())"
            providers = tuple(_output([sys.executable, "-c", code]).split())
            found.append(Engine(name="onnxruntime", version=number, providers=providers))
            break
    return tuple(found)


def _jetson_linux(root: Path) -> str:
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else ""


def _jetpack(root: Path) -> str:
    if not _jetson_linux(root):
        return ""
    return _run(root, "dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack").partition("+")[0]


def _journal_persistent(root: Path) -> bool:
    # Raspberry Pi OS has a file that spares the card in usr/lib; one of the same name in etc replaces it.
    places = [root / place / "systemd/journald.conf.d" for place in ("usr/lib", "etc")]
    parts = {file.name: file for place in places for file in place.glob("*.conf")}
    storage = "auto"
    for file in (root / "etc/systemd/journald.conf", *(parts[name] for name in sorted(parts))):
        storage = dict(_pairs(_text(file), "=")).get("Storage", storage)
    return storage == "persistent" or (storage == "auto" and (root / "var/log/journal").is_dir())


def _service(root: Path) -> str:
    """Of the system's service, or of the user's own."""
    for whose in ((), ("--user",)):
        told = dict(_pairs(_run(root, "systemctl", *whose, "show", "-p", "LoadState,ActiveState", "edgecl"), "="))
        if told.get("LoadState") == "loaded":
            return told.get("ActiveState", "")
    return ""


def _trust(folder: Path) -> tuple[tuple[str, ...], bool]:
    """Names of the keys, and whether there is development mode; nothing where this user may not look."""
    with contextlib.suppress(OSError):
        return tuple(sorted(key.stem for key in folder.glob("*.pem"))), (folder / "development").is_file()
    return (), False


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user may have no name
        return str(os.geteuid())


def _run(root: Path, program: str, *arguments: str) -> str:
    path = root / "usr/bin" / program
    return _output([str(path), *arguments]) if path.exists() else ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_S, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
