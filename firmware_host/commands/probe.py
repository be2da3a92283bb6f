"""`edgecl probe`: what a board is."""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from edgecl import devices, facts
from edgecl.commands.table import aligned
from edgecl.facts import Facts
from firmware_host.facts_of import facts_of


@click.command()
@click.argument("device", required=False)
@click.option("--store", type=click.Path(path_type=Path), default=Path("/var/lib/edgecl"), show_default=True,
              help="State directory, where no DEVICE is given.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, which edgecl check --for takes.")
def probe(device: str | None, store: Path, as_json: bool) -> None:
    """Show what a board is; without DEVICE, this computer."""
    found = facts_of(device) if device else facts.read(store)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        print(aligned(list(_rows(found))))


def _rows(found: Facts) -> Iterator[tuple[str, str]]:
    profile = next((one for one in devices.profiles() if one.name == found.profile), None)
    yield "board", f"{found.model or 'not told'} ({found.profile or 'no profile fits'})"
    yield "processor", f"{found.arch}, {found.cores} cores{_clock(found.clock_hz)}"
    yield "system", ", ".join(filter(None, (found.system, f"Linux {found.kernel}", found.libc)))
    if found.jetson_linux:
        yield "Jetson Linux", f"{found.jetson_linux}{f', JetPack {found.jetpack}' if found.jetpack else ''}"
    yield "edgecl", f"{found.edgecl}, Python {found.python}, user {found.user}"
    yield "memory", f"{_mb(found.memory_bytes)}, {_mb(found.available_bytes)} available, swap {_mb(found.swap_bytes)}"
    yield "memory cgroup", "on" if found.memory_cgroup else "off"
    refused = f", refused: {found.disk.refused}" if found.disk.refused else ""
    yield "store", f"{found.disk.path} on {found.disk.file_system or '?'}, {_mb(found.disk.free_bytes)} free{refused}"
    yield "clock", "synchronised" if found.clock.synchronised else "not synchronised"
    yield "boot", f"{found.clock.boot_id}, {found.clock.uptime_s / 3600:.1f} hours ago"
    if found.temperatures:
        yield "temperature", ", ".join(f"{one.celsius:.0f} °C {one.name}" for one in found.temperatures)
    if found.throttling:
        now, before = (", ".join(flags) or "no" for flags in (found.throttling.now, found.throttling.since_boot))
        yield "throttling", f"now {now}, since the boot {before}"
    for engine in found.engines:
        yield "engine", " ".join((engine.name, engine.version, *engine.providers))
    if profile:
        yield "preferred", profile.engine({engine.name: engine.providers for engine in found.engines}) or "none"
    yield "service", found.service or ("not installed" if found.systemd else "no systemd here")
    yield "trusts", ", ".join(found.trusted_keys) or "no key"
    if found.development:
        yield "development", "takes unsigned bundles"


def _clock(hz: int) -> str:
    return f" up to {hz / 1e9:.1f} GHz" if hz else ""


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
