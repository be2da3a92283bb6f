"""`edgecl pause`, `resume` and `snapshot`: learning on devices stops, goes on, or is written down now."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from edgecl.errors import EdgeclError
from edgecl.requests import Pause, Request, Resume, Snapshot, Status
from firmware_host import fleet as fleets
from firmware_host import service, together
from firmware_host.client import Client
from firmware_host.commands.options import devices_argument, fleet_option, json_option
from firmware_host.fleet import Device


def _command(name: str, request: Request, text: str, said: Callable[[Status], str]) -> click.Command:
    @devices_argument
    @fleet_option
    @json_option
    def command(devices: tuple[str, ...], fleet_file: Path | None, as_json: bool) -> int:
        return _each(devices, fleet_file, request, said, as_json=as_json)

    return click.command(name, help=text)(command)


pause = _command(
    "pause",
    Pause(),
    "Stop learning on devices. They go on answering, and stay paused when they start again.",
    lambda now: f"answers and does not learn, at step {now.step}",
)
resume = _command(
    "resume", Resume(), "Let devices learn again.", lambda now: f"answers and learns, from step {now.step} on"
)
snapshot = _command(
    "snapshot",
    Snapshot(),
    "Write down what devices have learned, now rather than at their next checkpoint.",
    lambda now: f"checkpoint {now.checkpoint} at step {now.step}",
)


def _each(
    devices: tuple[str, ...], fleet_file: Path | None, request: Request, said: Callable[[Status], str], *, as_json: bool
) -> int:
    def do(device: Device) -> Any:
        with Client(device.link()) as client:
            return service.ask(client, request, Status)

    results = together.in_order(fleets.load(fleet_file).find(devices), do)
    code = together.exit_code(results)
    for device, result in results:
        if isinstance(result, EdgeclError):
            print(together.told(device, result), file=sys.stderr)
        elif as_json:
            print(msgspec.json.encode({"device": device.name} | msgspec.to_builtins(result)).decode())
        else:
            print(f"{device.name}  {said(result)}")
    return code
