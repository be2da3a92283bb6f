"""A serial line with an agent at its other end, by pyserial."""

import contextlib
import os
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgecl.channel import Pace, line_pace
from edgecl.errors import LinkError
from edgecl.line import SETTLE_S
from edgecl.streams import FdStream
from firmware_host.links.address import SerialAddress
from firmware_host.links.link import USUAL, Options

BASE_BAUD: Final = 115200
"""What every line begins with: that of consoles."""
BY_ID: Final = Path("/dev/serial/by-id")


class SerialPort:
    """An open port that nobody else has."""

    line = True
    base_baud = BASE_BAUD

    def __init__(self, to: SerialAddress, path: Path, options: Options) -> None:
        try:
            import serial
        except ImportError:
            raise LinkError(f"{to.text}: serial ports need pyserial: pip install 'edgecl[serial]'") from None
        self._to, self._path, self._options = to, path, options
        self.baud = to.baud if to.baud is not None and to.baud != BASE_BAUD else None
        self.pace: Pace = line_pace(BASE_BAUD)
        if there := ", ".join(holders(path)):
            raise LinkError(f"{to.text}: {there} has {path} open and would take what arrives; stop it first")
        try:
            self._port: Any = serial.Serial(str(path), BASE_BAUD, timeout=0, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise LinkError(f"{to.text}: {_reason(path, error)}") from None
        self._read_as_it_comes()
        self._port.reset_input_buffer()
        self._stream = FdStream(self._port.fileno(), self._port.fileno(), stall_s=options.stall_s)

    def read(self, timeout_s: float | None) -> bytes:
        return self._stream.read(timeout_s)

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def set_baud(self, baud: int) -> None:
        """Go on at another speed, when all that was written is out. Raises LinkError: the port cannot."""
        try:
            self._port.flush()
            self._port.baudrate = baud
            self._read_as_it_comes()
        except (OSError, ValueError, termios.error) as error:
            raise LinkError(f"{self._to.text}: {baud} baud: {error}; give a speed that the port has") from None
        self.pace = line_pace(baud)

    def close(self) -> None:
        with contextlib.suppress(OSError, termios.error):
            self._port.flush()
            time.sleep(SETTLE_S)
        self._stream.close()
        with contextlib.suppress(OSError, termios.error):
            self._port.close()

    def failure(self, found: str) -> LinkError:
        if found == "ended":
            return LinkError(f"{self._to.text}: {self._path} has gone; plug it in, and run the same command again")
        return LinkError(
            f"{self._to.text}: nothing answers on {self._path}; check the cable, and that `edgecl agent` runs at its "
            f"other end at {BASE_BAUD} baud"
        )

    def _read_as_it_comes(self) -> None:
        """pyserial sets that a read of nothing looks like the end."""
        attributes = termios.tcgetattr(self._port.fileno())
        attributes[6][termios.VMIN] = 1
        termios.tcsetattr(self._port.fileno(), termios.TCSANOW, attributes)


@dataclass(frozen=True)
class Serial:
    """An agent at the other end of a line."""

    to: SerialAddress
    options: Options = USUAL

    @property
    def address(self) -> str:
        return self.to.text

    def open(self) -> SerialPort:
        return SerialPort(self.to, find(self.to), self.options)


def find(to: SerialAddress) -> Path:
    """The device file of an address. Raises LinkError: there is none, or more than one."""
    if "/" in to.port:
        return Path(to.port)
    there = sorted(BY_ID.iterdir()) if BY_ID.is_dir() else []
    if to.port != "auto":
        there = [path for path in there if path.name == to.port] or [path for path in there if to.port in path.name]
    if len(there) == 1:
        return there[0]
    if there:
        names = ", ".join(f"serial:{path.name}" for path in there)
        raise LinkError(f"{to.text}: there are several ports; choose one of {names}")
    what = "no serial port" if to.port == "auto" else f"no port with {to.port} in its name"
    raise LinkError(f"{to.text}: {what} in {BY_ID}; plug the cable in, or give the path of a port: serial:/dev/ttyS0")


def holders(path: Path) -> Iterator[str]:
    """Other processes that have a device file open, as far as this user may see."""
    try:
        device = path.stat().st_rdev
    except OSError:
        return
    for process in sorted(Path("/proc").glob("[0-9]*")):
        if int(process.name) == os.getpid() or not device:
            continue
        with contextlib.suppress(OSError):
            if any(_is(file, device) for file in (process / "fd").iterdir()):
                yield f"{(process / 'comm').read_text().strip()} (process {process.name})"


def _is(file: Path, device: int) -> bool:
    with contextlib.suppress(OSError):
        return file.stat().st_rdev == device
    return False


def _reason(path: Path, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == 13:
        return f"{path}: not allowed; add yourself to the group of the port: sudo usermod -aG dialout $USER"
    if number == 2:
        return f"{path}: there is no such port; plug it in, or see `ls {BY_ID}`"
    if number == 11 or "exclusively lock" in str(error):
        return f"{path}: another process has it; stop that first"
    return f"{path}: {error}; give a serial port"
