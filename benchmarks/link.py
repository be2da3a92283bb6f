"""Throughput of the links: ssh beside scp, a child process, and a simulated serial line. `python benchmarks/link.py`

A transfer of edgecl is timed with all that it does: connecting, SHA-256, and bringing the file to the medium. scp
connects and copies.
"""

import hashlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))  # the server and the line are those of the tests

import results

from firmware_host.client import Client
from firmware_host.links.link import Link
from firmware_host.links.table import link_to
from tests.firmware_host import sshd, wires

BYTES: Final = 100_000_000
ROUNDS: Final = 5
LINE_BYTES: Final = 500_000
BAUD: Final = 921_600

HALF: Final = 0.5
"""Of scp's throughput, at least."""
AIM: Final = 0.8
LINE_KIB_S: Final = 70.0
"""With one byte in 100,000 damaged, at least."""


@dataclass(frozen=True)
class Transfer:
    """Times of one way over one link."""

    link: str
    way: str
    """`to` the board, or `from` it."""
    count: int
    seconds: tuple[float, ...]

    @property
    def mb_s(self) -> float:
        """10^6 bytes a second; the median."""
        return self.count / statistics.median(self.seconds) / 1e6

    @property
    def kib_s(self) -> float:
        """1024 bytes a second; the median."""
        return self.mb_s * 1e6 / 1024


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def over(link: Link, store: Path, source: Path, name: str) -> tuple[float, float]:
    """Seconds to the board, and from it."""
    (store / "objects" / name).unlink(missing_ok=True)

    def there() -> None:
        with Client(link) as client:
            client.upload(source, name)

    def back() -> None:
        with Client(link) as client:
            client.download(f"objects/{name}", store / "back")

    return timed(there), timed(back)


def copied(server: sshd.Server, store: Path, source: Path) -> tuple[float, float]:
    """The same, by scp."""
    scp = ["scp", "-q", *server.command.split()[1:]]
    there = [*scp, str(source), f"board:{store}/copy"]
    back = [*scp, f"board:{store}/copy", str(store / "back")]
    return timed(lambda: subprocess.run(there, check=True)), timed(lambda: subprocess.run(back, check=True))


def transfers(name: str, count: int, seconds: Sequence[tuple[float, float]]) -> list[Transfer]:
    """Both ways of some rounds."""
    there, back = zip(*seconds, strict=True)
    return [Transfer(name, "to", count, there), Transfer(name, "from", count, back)]


def run(say: Callable[[str], None] = print) -> list[Transfer]:
    """All of it; about a minute."""
    found = []
    with tempfile.TemporaryDirectory() as name, sshd.running(Path(name), settings=f"SetEnv HOME={name}\n") as server:
        folder = Path(name)  # as home it has no start files for the shell, which scp does not need here
        (store := folder / "store").mkdir()
        source, sha256 = _random(folder / "source", BYTES)
        ssh, local = link_to("board", server.options(store=store)), link_to(f"local:{store}")
        rounds = [
            (copied(server, store, source), over(ssh, store, source, sha256), over(local, store, source, sha256))
            for _ in range(ROUNDS)
        ]
        for place, kind in enumerate(("scp", "ssh", "local")):
            found += transfers(kind, BYTES, [one[place] for one in rounds])
    for errors in (0.0, 1e-5):
        with tempfile.TemporaryDirectory() as name:
            found += _line(Path(name), errors)
    for transfer in found:
        say(f"{transfer.link} {transfer.way}: {transfer.mb_s:.2f} MB/s")
    return found


def _line(folder: Path, errors: float) -> list[Transfer]:
    (store := folder / "store").mkdir()
    source, sha256 = _random(folder / "source", LINE_BYTES)
    with wires.wired(folder, faults=wires.Faults(errors=errors, paced=True)) as wire, wires.agent_on(wire, store):
        link = link_to(f"serial:{wire.port}@{BAUD}")
        return transfers(f"serial, {errors:g} errors", LINE_BYTES, [over(link, store, source, sha256)])


def _random(path: Path, count: int) -> tuple[Path, str]:
    data = random.Random(1).randbytes(count)
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def render(found: list[Transfer]) -> list[str]:
    """As Markdown."""
    by = {(one.link, one.way): one for one in found}
    rows, lines = [], []
    for kind in ("scp", "ssh", "local"):
        ways = [by[kind, way] for way in ("to", "from")]
        rows.append([kind, *(f"{one.mb_s:.0f}" for one in ways),
                     *(f"{one.mb_s / by['scp', one.way].mb_s:.2f}" for one in ways)])  # fmt: skip
    for errors in ("0", "1e-05"):
        ways = [by[f"serial, {errors} errors", way] for way in ("to", "from")]
        lines.append([f"damaged bytes: {errors}", *(f"{one.kib_s:.1f}" for one in ways)])
    ratio = min(by["ssh", way].mb_s / by["scp", way].mb_s for way in ("to", "from"))
    slowest = min(by["serial, 1e-05 errors", way].kib_s for way in ("to", "from"))
    return [
        f"{BYTES / 1e6:.0f} MB of random bytes over loopback with one sshd, median of {ROUNDS} rounds in turns. "
        "edgecl's times are with connecting, SHA-256 and fsync; scp's with connecting.",
        results.table(["link", "to, MB/s", "from, MB/s", "to, of scp", "from, of scp"], rows),
        f"Target: at least {HALF} of scp: {results.verdict(ratio >= HALF)}; aimed at {AIM}: "
        f"{results.verdict(ratio >= AIM)} ({ratio:.2f}).",
        f"A serial line of {BAUD} baud, simulated by pseudo-terminals that take a byte's time for each byte, "
        f"{LINE_BYTES / 1e3:.0f} kB each way.",
        results.table(["", "to, KiB/s", "from, KiB/s"], lines),
        f"Target: at least {LINE_KIB_S:.0f} KiB/s with one byte in 100,000 damaged: "
        f"{results.verdict(slowest >= LINE_KIB_S)} ({slowest:.1f}).",
    ]


if __name__ == "__main__":
    print("\n\n".join(render(run())))
