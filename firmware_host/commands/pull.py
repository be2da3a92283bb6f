"""`edgecl pull`: fetch journals and samples from devices, and what they have learned."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl.errors import EXIT_DATA_LOST, EXIT_OK, EdgeclError
from firmware_host import fleet as fleets
from firmware_host import together
from firmware_host.client import Client
from firmware_host.commands.options import devices_argument, fleet_option, json_option
from firmware_host.fleet import Device
from firmware_host.patient import Patient
from firmware_host.pull import Pulled
from firmware_host.pull import pull as pull_from
from firmware_host.said import size


@click.command()
@devices_argument
@click.option("--into", type=click.Path(path_type=Path), default=Path("pulled"), show_default=True, metavar="DIR",
              help="Each device has a folder in it.")  # fmt: skip
@click.option("--cut", is_flag=True, help="Seal what is being written first, so that it comes too.")
@click.option("--keep", is_flag=True, help="Let devices keep the journals that came.")
@click.option("--learned", is_flag=True, help="Fetch what was learned, too.")
@fleet_option
@json_option
def pull(
    devices: tuple[str, ...],
    into: Path,
    cut: bool,
    keep: bool,
    learned: bool,
    fleet_file: Path | None,
    as_json: bool,
) -> int:
    """Fetch journals and samples from devices, and what they have learned.

    Only what is not here yet is fetched, and every file is checked against its digest on the device. A device deletes
    journals once they are on this computer's disk; it never drops them before.
    """
    found = fleets.load(fleet_file).find(devices)
    bar = sys.stderr.isatty() and not as_json and len(found) == 1

    def progress(name: str, have: int, of: int) -> None:
        if bar:
            print(f"\r\x1b[K  {name} {size(have)} of {size(of)}", end="", file=sys.stderr, flush=True)

    def do(device: Device) -> Pulled:
        with Client(device.link()) as client:
            board, folder = Patient(client), into / device.folder
            return pull_from(board, device.name, folder, cut=cut, keep=keep, learned=learned, progress=progress)

    try:
        results = together.in_order(found, do)
    finally:
        if bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    code = together.exit_code(results)
    for device, result in results:
        if isinstance(result, EdgeclError):
            print(together.told(device, result), file=sys.stderr)
        elif as_json:
            print(msgspec.json.encode(result).decode())
        else:
            print("\n".join(_lines(result)))
    gone = [name for _, result in results if isinstance(result, Pulled) for name in result.gone]
    lost = any(name.startswith("journal/") for name in gone)  # samples go by themselves, oldest first
    return EXIT_DATA_LOST if lost and code == EXIT_OK else code


def _lines(result: Pulled) -> list[str]:
    parts = [f"{result.files} files, {size(result.bytes)}"]
    if result.there:
        parts.append(f"{result.there} were here already")
    if result.deleted:
        parts.append(f"{result.deleted} deleted on the device")
    if result.growing:
        parts.append(f"{result.growing} still being written (--cut seals them)")
    lines = [f"{result.device}  {'; '.join(parts)}; in {result.folder}"]
    return [*lines, *(f"  {name}: the device had deleted it before it came" for name in result.gone)]
