"""What may be wrong with a board or with the computer that it is reached from, each with its cure.

A check changes nothing. It is `ok`, a `warning` (it works, with something to know), `failed` (it will not work, or not
last), or `skipped` where there is nothing to look at.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from edgecl import __version__, devices
from edgecl.facts import Facts

Status = Literal["ok", "warning", "failed", "skipped"]

LEAST_FREE_BYTES: Final = 200 << 20
"""Two bundles, and room for the journal until it is pulled."""

HOT_C: Final = 80.0
"""Where the profile does not tell from when on the board slows itself down."""

FIRST_YEAR: Final = 2025
"""No clock that was ever set shows an earlier one."""

WORN: Final = 9
"""Of eMMC: between 80 and 90 percent of its life are used."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    status: Status
    found: str
    cure: str = ""


def passed(name: str, found: str) -> Check:
    return Check(name=name, status="ok", found=found)


def warned(name: str, found: str, cure: str) -> Check:
    return Check(name=name, status="warning", found=found, cure=cure)


def failed(name: str, found: str, cure: str) -> Check:
    return Check(name=name, status="failed", found=found, cure=cure)


def skipped(name: str, found: str) -> Check:
    return Check(name=name, status="skipped", found=found)


def of_board(facts: Facts) -> Iterator[Check]:
    """What a board's facts say."""
    profile = next((one for one in devices.profiles() if one.name == facts.profile), None)
    known = facts.model or facts.arch
    if profile is None:
        yield failed("board", f"{known}: no profile fits", "use a board with a 64-bit processor")
    else:
        yield passed("board", f"{known}: {profile.name}")
    yield _versions(facts)
    yield from _disk(facts)
    yield from _memory(facts, profile.budget_bytes if profile else 0)
    yield from _clock(facts)
    yield from _heat(facts, (profile.throttles_at_c if profile else None) or HOT_C)
    yield from _engines(facts)
    yield from _service(facts)


def _versions(facts: Facts) -> Check:
    if facts.edgecl.split(".")[0] != __version__.split(".")[0]:
        return failed("version", f"edgecl {facts.edgecl}, here {__version__}", "run edgecl provision again")
    if facts.edgecl != __version__:
        return warned("version", f"edgecl {facts.edgecl}, here {__version__}", "run edgecl provision again")
    return passed("version", f"edgecl {facts.edgecl}, Python {facts.python}, {facts.libc}")


def _disk(facts: Facts) -> Iterator[Check]:
    disk = facts.disk
    if disk.refused:
        where = "give the store a folder on ext4, f2fs or btrfs: edgecl provision --store"
        yield failed("file system", f"{disk.path} is on {disk.file_system}: {disk.refused}", where)
    elif disk.read_only:
        yield failed("file system", f"{disk.path}: mounted read-only", "mount it writable; see dmesg for why it is not")
    else:
        yield passed("file system", f"{disk.path} is on {disk.file_system or 'a file system that is not told'}")
    free = f"{disk.free_bytes / 1e6:.0f} of {disk.total_bytes / 1e6:.0f} MB free"
    if disk.free_bytes < LEAST_FREE_BYTES:
        yield failed("disk space", free, "make room, or pull the journal with edgecl pull")
    else:
        yield passed("disk space", free)
    steps = [int(step, 16) for step in re.findall(r"0x[0-9a-fA-F]{1,2}\b", disk.wear)]
    if not steps:
        yield skipped("wear", "the medium does not tell; cards never do")
    elif max(steps) >= WORN:
        yield warned("wear", f"the medium's life is used to {10 * max(steps)} percent", "replace it soon")
    else:
        yield passed("wear", f"at most {10 * max(steps)} percent of the medium's life are used")


def _memory(facts: Facts, budget_bytes: int) -> Iterator[Check]:
    told = f"{facts.available_bytes / 1e6:.0f} of {facts.memory_bytes / 1e6:.0f} MB available"
    if facts.available_bytes < budget_bytes:
        cure = "stop other programs, or build with a smaller build.memory"
        yield warned("memory", f"{told}, the board's budget is {budget_bytes / 1e6:.0f} MB", cure)
    else:
        yield passed("memory", told)
    if facts.memory_cgroup:
        yield passed("memory cgroup", "on")
    else:
        cure = "add cgroup_enable=memory to the kernel's command line (/boot/firmware/cmdline.txt on a Raspberry Pi)"
        yield warned("memory cgroup", "off: systemd's memory limits do nothing, only edgecl's own budget works", cure)


def _clock(facts: Facts) -> Iterator[Check]:
    now = datetime.fromtimestamp(facts.clock.wall_ns / 1e9, UTC)
    if now.year < FIRST_YEAR:
        cure = "give the board a time server, or a battery; until then the journal orders by boots and counters"
        yield warned("clock", f"never set: it says {now:%Y-%m-%d}", cure)
    elif not facts.clock.synchronised:
        yield warned("clock", f"{now:%Y-%m-%d %H:%M} UTC, not synchronised", "enable systemd-timesyncd")
    else:
        yield passed("clock", f"{now:%Y-%m-%d %H:%M} UTC, synchronised")
    if not facts.systemd:
        yield skipped("messages", "no systemd here, whose journal would have them")
    elif facts.journal_persistent:
        yield passed("messages", "systemd's journal survives a boot")
    else:
        cure = "sudo mkdir /var/log/journal, with Storage=auto in journald.conf; edgecl's own journal is always kept"
        yield warned("messages", "systemd's journal is lost at a boot", cure)


def _heat(facts: Facts, limit_c: float) -> Iterator[Check]:
    if not facts.temperatures:
        yield skipped("temperature", "no sensor")
    else:
        hottest = max(facts.temperatures, key=lambda one: one.celsius)
        told = f"{hottest.celsius:.0f} °C at {hottest.name}"
        if hottest.celsius >= limit_c:
            yield warned("temperature", f"{told}, it slows itself down from {limit_c:.0f} °C", "cool the board")
        else:
            yield passed("temperature", told)
    throttling = facts.throttling
    if throttling is None:
        yield skipped("throttling", "not told by this board")
    elif throttling.now or throttling.since_boot:
        power = "under-voltage" in (*throttling.now, *throttling.since_boot)
        cure = "use the maker's power supply and cable" if power else "cool the board"
        told = f"now: {', '.join(throttling.now)}" if throttling.now else f"earlier: {', '.join(throttling.since_boot)}"
        yield warned("throttling", f"{told}; latencies measured meanwhile mean nothing", cure)
    else:
        yield passed("throttling", "none since the boot")


def _engines(facts: Facts) -> Iterator[Check]:
    present = {engine.name: engine.providers for engine in facts.engines}
    profile = next((one for one in devices.profiles() if one.name == facts.profile), None)
    told = ", ".join(f"{engine.name} {engine.version}" for engine in facts.engines)
    if not present:
        yield failed("engine", "none", "run edgecl provision again")
    elif profile and profile.providers and not set(profile.providers) & set(present.get("onnxruntime", ())):
        cure = "for the GPU, provision with NVIDIA's build: --with onnxruntime-gpu and its wheel in --wheelhouse"
        yield warned("engine", f"{told}: runs on the processor, not on the GPU", cure)
    else:
        yield passed("engine", told)


def _service(facts: Facts) -> Iterator[Check]:
    if facts.service == "active":
        yield passed("service", "running")
    elif facts.service:
        yield failed("service", facts.service, "see why with journalctl -u edgecl on the board")
    elif facts.systemd:
        yield failed("service", "not installed", "run edgecl provision")
    else:
        yield skipped("service", "no systemd here to run it; edgecl status tells whether one runs")
    if facts.root:
        yield failed("user", "the agent runs as root", "run edgecl provision, and log in as an ordinary user")
    else:
        yield passed("user", facts.user)
    if facts.trusted_keys:
        yield passed("trusted keys", ", ".join(facts.trusted_keys))
    elif facts.development:
        yield skipped("trusted keys", "none, and none needed in development mode")
    else:
        yield failed("trusted keys", "none: every bundle is refused", "edgecl provision --trust DIR")
    if facts.development:
        cure = "before the board leaves the desk, remove trust.d/development from its store"
        yield warned("development mode", "on: unsigned bundles are taken", cure)
    else:
        yield passed("development mode", "off")
