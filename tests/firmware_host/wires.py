"""A serial line without hardware: two pseudo-terminals, and between them what happens to bytes on a wire.

At different speeds the ends see garbage, as on a real line.
"""

import contextlib
import os
import random
import select
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KERNEL = b"[  831.104217] usb 1-1.3: new high-speed USB device number 5 using xhci_hcd\r\n"


@dataclass(frozen=True)
class Faults:
    """Rates are for each byte."""

    errors: float = 0.0
    dropped: float = 0.0
    doubled: float = 0.0
    kernel: float = 0.0
    """Lines of a kernel, towards the host."""
    paced: bool = False
    """Bytes take the time that they take at the speed of the line."""
    text: bool = False
    """Bytes lose their eighth bit and zeros are lost, as on a console that is meant for text."""
    deaf_above: int | None = None
    """Baud above which nothing comes through."""


class Wire:
    """A line with a host's end, `port`, and a board's, whose file descriptor is `board`."""

    def __init__(self, folder: Path, faults: Faults, seed: int) -> None:
        self.port = folder / "ttyUSB0"
        self.faults = faults
        self.carried = 0
        self.spoiled = 0
        self._chance = random.Random(seed)
        self._board_end, self.board = os.openpty()
        self._over = threading.Event()
        self._kept: int | None = None
        self.plug()

    def plug(self) -> None:
        """Give the host a port, of the same name."""
        self._host_end, slave = os.openpty()
        tty.setraw(slave)
        self._kept = slave  # until the host has it open, lest it looks unplugged
        new = self.port.with_name("new")
        new.symlink_to(os.ttyname(slave))
        new.rename(self.port)
        self._pulled = threading.Event()
        self._pumps = [
            threading.Thread(target=self._pump, args=(self._host_end, self._board_end, False, self._pulled)),
            threading.Thread(target=self._pump, args=(self._board_end, self._host_end, True, self._pulled)),
        ]
        for pump in self._pumps:
            pump.start()

    def unplug(self) -> None:
        """Take the port away, with whoever has it open."""
        self._pulled.set()
        for pump in self._pumps:
            pump.join()
        for fd in (self._host_end, self._kept):
            assert fd is not None
            os.close(fd)

    def close(self) -> None:
        self.unplug()
        os.close(self._board_end)
        os.close(self.board)

    def _pump(self, source: int, sink: int, to_host: bool, pulled: threading.Event) -> None:
        free_at = 0.0
        while not pulled.is_set():
            if not select.select([source], [], [], 0)[0]:
                if not select.select([source], [], [], 0.02)[0]:
                    continue
                free_at = time.monotonic()  # the line was idle
            try:
                data = os.read(source, 256 if self.faults.paced else 4096)
                baud = _speed(source)
                if self.faults.paced:
                    free_at += 10 * len(data) / baud
                    pulled.wait(max(0.0, free_at - time.monotonic()))
                data = self._through(data, baud if baud == _speed(sink) else 0, to_host)
                while data and not pulled.is_set():
                    if select.select([], [sink], [], 0.02)[1]:
                        data = data[os.write(sink, data) :]
            except OSError:
                return

    def _through(self, data: bytes, baud: int, to_host: bool) -> bytes:
        faults, chance = self.faults, self._chance
        self.carried += len(data)
        if not baud or (faults.deaf_above is not None and baud > faults.deaf_above):
            return bytes(chance.choice((0x00, 0x80, 0xF8, 0xFE)) for _ in data[::8])
        found = bytearray(byte & 0x7F for byte in data if byte) if faults.text else bytearray(data)
        for at in reversed(_hits(chance, faults.errors, len(data))):
            found[at] ^= 1 << chance.randrange(8)
        for at in reversed(_hits(chance, faults.dropped, len(found))):
            del found[at]
        for at in reversed(_hits(chance, faults.doubled, len(found))):
            found.insert(at, found[at])
        for at in reversed(_hits(chance, faults.kernel if to_host else 0.0, len(found))):
            found[at:at] = KERNEL
        self.spoiled += found != data
        return bytes(found)


def _hits(chance: random.Random, rate: float, length: int) -> list[int]:
    """Positions, each taken with this probability."""
    at, found = -1, []
    while rate and (at := at + 1 + int(chance.expovariate(rate))) < length:
        found.append(at)
    return found


SPEEDS = {getattr(termios, f"B{baud}"): baud for baud in (9600, 38400, 115200, 460800, 921600)}


def _speed(fd: int) -> int:
    return SPEEDS[termios.tcgetattr(fd)[5]]


def speed(wire: Wire) -> int:
    """Of the board's end."""
    return _speed(wire.board)


@contextmanager
def wired(folder: Path, *, faults: Faults = Faults(), seed: int = 0) -> Iterator[Wire]:
    """A line at 115200 baud."""
    wire = Wire(folder, faults, seed)
    attributes = termios.tcgetattr(wire.board)
    attributes[4] = attributes[5] = termios.B115200
    termios.tcsetattr(wire.board, termios.TCSANOW, attributes)
    try:
        yield wire
    finally:
        wire.close()


@contextmanager
def agent_on(wire: Wire, store: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An agent at the board's end."""
    command = [sys.executable, "-P", "-m", "edgecl", "agent", "--store", str(store)]
    process = subprocess.Popen(command, stdin=wire.board, stdout=wire.board, stderr=subprocess.PIPE)
    try:
        while termios.tcgetattr(wire.board)[3] & termios.ICANON:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.01)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()
