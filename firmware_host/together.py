"""Several devices at a time, each in a thread of its own that does not outlive the command."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from edgecl.errors import EXIT_OK, EXIT_PARTIAL, EdgeclError
from firmware_host.fleet import Device

AT_ONCE: Final = 16

R = TypeVar("R")


def each(
    devices: Sequence[Device],
    do: Callable[[Device], R],
    at_once: int = AT_ONCE,
    go_on: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Device, R | EdgeclError]]:
    """What it gives for each device, or the error it raised, as they come.

    No more devices begin once `go_on` says no; it is asked in the caller's thread, after what came was taken.
    """
    results: queue.Queue[tuple[Device, R | EdgeclError | BaseException]] = queue.Queue()

    def work(device: Device) -> None:
        try:
            results.put((device, do(device)))
        except BaseException as error:
            results.put((device, error))

    waiting, running = list(devices), 0
    while running or (waiting and go_on()):
        while waiting and running < at_once and go_on():
            # Daemons: Ctrl-C ends the command, not after the slowest device.
            threading.Thread(target=work, args=(waiting.pop(0),), daemon=True).start()
            running += 1
        device, result = results.get()
        running -= 1
        if isinstance(result, BaseException) and not isinstance(result, EdgeclError):
            raise result
        yield device, result


def in_order(devices: Sequence[Device], do: Callable[[Device], R]) -> list[tuple[Device, R | EdgeclError]]:
    """The same, in the order of the devices."""
    found = {device.name: (device, result) for device, result in each(devices, do)}
    return [found[device.name] for device in devices]


def told(device: Device, error: EdgeclError) -> str:
    """An error with the name of its device, among several."""
    text = str(error)
    return f"edgecl: {text if text.startswith(f'{device.name}: ') else f'{device.name}: {text}'}"


def exit_code(results: Sequence[tuple[Device, object]]) -> int:
    """Of a command that did something on each device. Raises the error of a single one."""
    failed = [result for _, result in results if isinstance(result, EdgeclError)]
    if failed and len(results) == 1:
        raise failed[0]
    return EXIT_PARTIAL if failed else EXIT_OK
