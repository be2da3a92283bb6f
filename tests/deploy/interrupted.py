"""Run by test_interruptions.py: deployments over a local link or a real sshd, each interrupted at a random time.

    interrupted.py local|ssh COUNT SEED BOARDS DIRECTORY BUNDLE BUNDLE BUNDLE

Every board has a service that learns all the time and is started again whenever it ends, as a service manager would. A
host deploys the bundles in turn; when one comes up again, the board has deleted it. At a time drawn from 0 to 1.1 times
what a deployment takes undisturbed, the agent, the deployer or the service is killed, without warning in 85 of 100
cases, else by SIGTERM; over SSH also the host's ssh or the board's session, or the line falls silent. Right then,
before anything is started again, the store must be in order; then the host deploys again, and the deployment must come
to its end. What had been written as learned must never be lost.

Prints a line of JSON for each deployment, until COUNT of them were interrupted before their end.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import msgspec

from edgecl import deployer, deployments, orders
from edgecl.bundle import open_bundle
from edgecl.deployments import Deployment
from edgecl.errors import EdgeclError, LinkError
from edgecl.manifest import MANIFEST
from edgecl.requests import Status
from edgecl.store import Store
from firmware_host.client import Client, Source
from firmware_host.links.link import Link
from firmware_host.links.table import link_to
from tests.deploy import forks
from tests.edgecl import stores
from tests.firmware_host import sshd

Way = Literal["local", "ssh"]
Victim = Literal["agent", "deployer", "service", "ssh", "session", "line"]
VICTIMS: Final[dict[Way, tuple[Victim, ...]]] = {
    "local": ("agent", "deployer", "service"),
    "ssh": ("agent", "deployer", "service", "ssh", "session", "line"),
}
"""`ssh` is the host's process, `session` the sshd's that serves it. The `line` falls silent: the session is stopped,
and the connection stays.
"""
FORCED: Final = 0.85
LATE: Final = 1.1
"""Of the time that a deployment takes: some interruptions come behind it."""

BURST: Final = 4
BURST_S: Final = 0.1
"""The service gets so many samples so often: an update each time."""

PROBATION_S: Final = 0.2
LOOK_S: Final = 0.1
STALL_S: Final = 3.0
"""For the host, of a silent line."""

PATIENCE_S: Final = 180.0
"""No deployment takes so long, however often it is interrupted; one that does has no end."""


class Tally(msgspec.Struct, frozen=True):
    """One deployment."""

    victim: str
    """Empty where none of them ran any more."""
    signal: str
    at_s: float
    state: str
    """In which the deployment was then; empty before it was known on the board."""
    outcome: str
    reason: str
    took_s: float
    late: bool
    """Whether it had ended before it was to be interrupted."""
    steps: int
    """Updates that had been learned in the end, over the board's whole life."""
    wrong: tuple[str, ...]


class Board:
    """A store, its service, and the way of the host to it."""

    def __init__(self, store: Path, first: Path, link: Link, server: sshd.Server | None) -> None:
        self.store, self.held, self.link, self._server = store, Store(store), link, server
        stores.made(store)
        stores.begun(store, first, state="STAGE", back=True)
        assert forks.ended(forks.forked(lambda: deployer.carry_on(store))) == 0
        (store / "service.toml").write_text('source = "stdin"\nkeep = "32 kB"\ncheckpoint_every = 2\n')
        self._ending = threading.Event()
        self._service: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def close(self) -> None:
        """End the service."""
        self._ending.set()
        self._keeper.join()

    def _keep(self) -> None:
        """Run the service, feed it, and start it again when it has ended."""
        number = 0
        while not self._ending.is_set():
            with (self.store / "service.err").open("ab") as errors:
                self._service = subprocess.Popen(
                    [sys.executable, "-P", "-m", "edgecl", "serve", "--store", str(self.store)],
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
                )  # fmt: skip
            assert self._service.stdin
            with contextlib.suppress(BrokenPipeError), self._service.stdin as stream:
                while not self._ending.is_set() and self._service.poll() is None:
                    stream.write(stores.noise(BURST, number).tobytes())
                    stream.flush()
                    number += 1
                    self._ending.wait(BURST_S)
            if self._ending.is_set():
                self._service.terminate()
            self._service.wait()

    def victims(self) -> list[tuple[Victim, list[int]]]:
        """What may be interrupted now, and its processes."""
        way: Way = "ssh" if self._server else "local"
        return [(victim, there) for victim in VICTIMS[way] if (there := self._processes(victim))]

    def revive(self) -> None:
        """Lines that fell silent break."""
        for process in self._server.sessions() if self._server else ():
            if stopped(process):
                kill([process], signal.SIGKILL)

    def _processes(self, victim: Victim) -> list[int]:
        if victim in ("session", "line"):
            assert self._server
            return self._server.sessions()
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                given = (place / "cmdline").read_bytes().split(b"\0")
                if self._is(victim, given):
                    found.append(int(place.name))
        return found

    def _is(self, victim: Victim, given: Sequence[bytes]) -> bool:
        store = os.fsencode(self.store)
        if victim == "ssh":  # the remote command is one of its words
            return given[0] == b"ssh" and any(store in word for word in given)
        said = {"agent": b"agent", "deployer": b"edgecl.deployer", "service": b"serve"}[victim]
        return store in given and said in given

    def learned(self, identity: str) -> int:
        """Updates in the newest checkpoint of a bundle; 0 where it has none."""
        if not identity or not list(self.held.learned("looped", identity).glob("[0-9]*.json")):
            return 0
        return forks.learned(self.store, identity).learned.states[0].step

    def unsound(self, known: set[str]) -> Iterator[str]:
        """What is not in order."""
        try:
            current = self.held.current
            if current not in known:
                yield f"{current[:12]!r} is current"
            self.held.open(current).close()
            self.learned(current)
            deployments.read(self.store)
            for identity in self.held.staged():
                yield from self._unsound(identity)
        except (EdgeclError, AssertionError, OSError) as error:
            yield f"{type(error).__name__}: {error}"

    def _unsound(self, identity: str) -> Iterator[str]:
        try:
            self.held.open(identity).close()
        except (EdgeclError, OSError) as error:
            if identity in self.held.staged():  # else it was deleted meanwhile, which is one rename
                yield f"{identity[:12]}: {error}"


class Host:
    """Deploys to one board, until it is told the end."""

    def __init__(self, board: Board, path: Path) -> None:
        self._board = board
        with open_bundle(path) as bundle:
            self.bundle = bundle.id
            self._manifest = (bundle.directory / MANIFEST).read_bytes()
            self._files = [
                Source(file.sha256, (bundle.directory / file.path).read_bytes()) for file in bundle.manifest.files
            ]

    def deploy(self) -> Deployment:
        """Again and again, where the link breaks; the deployment, with its end."""
        end_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                with Client(self._board.link) as client:
                    return self._deploy(client, end_s)
            except LinkError:
                if time.monotonic() > end_s:
                    raise

    def _deploy(self, client: Client, end_s: float) -> Deployment:
        client.upload(self._manifest, self.bundle)
        asked = orders.BeginRequest(bundle=self.bundle, by="test@here", probation_s=PROBATION_S, deadline_s=PATIENCE_S)
        begun = client.request(orders.BEGIN, asked, orders.BeginAnswer)
        request = orders.NumberRequest(number=begun.number)
        found = client.request(orders.DEPLOYMENT, request, orders.DeploymentAnswer).deployment
        if begun.number and found and found.state == "RECEIVE":
            client.upload_all(self._files)
            client.request(orders.RECEIVED, request, orders.DeploymentAnswer)
        while True:
            found = client.request(orders.DEPLOYMENT, request, orders.DeploymentAnswer).deployment
            if found and found.over:
                return found
            if time.monotonic() > end_s:
                raise AssertionError(f"no end: {found}")
            time.sleep(LOOK_S)


def interrupted(board: Board, path: Path, chance: random.Random, whole_s: float) -> tuple[Tally, float]:
    """Deploy a bundle, be interrupted, and go on. Also how long the host was at it, in seconds."""
    host, before = Host(board, path), board.held.current
    numbers = {one.number for one in deployments.read(board.store).deployments}
    found: list[Deployment] = []
    begun_s = ended_s = time.monotonic()

    def deploy() -> None:
        nonlocal ended_s
        done = host.deploy()
        ended_s = time.monotonic()
        found.append(done)

    thread = threading.Thread(target=deploy, daemon=True)
    thread.start()
    at_s = chance.uniform(0, LATE * whole_s)
    time.sleep(max(0.0, at_s - (time.monotonic() - begun_s)))
    late = not thread.is_alive()
    victims = board.victims()
    floor = board.learned(before)
    victim, there = chance.choice(victims) if victims else ("", [])
    number = signal.SIGKILL if chance.random() < FORCED else signal.SIGTERM
    if victim == "line":
        number = signal.SIGSTOP
    kill(there, number)
    now = [one for one in deployments.read(board.store).deployments if one.number not in numbers]
    wrong = list(board.unsound({before, host.bundle}))
    floor = max(floor, board.learned(before))
    thread.join(PATIENCE_S)
    board.revive()
    done = found[0] if found else None
    current = board.held.current
    if done is None:
        wrong.append("no end")
    elif done.outcome == "committed" and current != host.bundle:
        wrong.append(f"committed, and {current[:12]} is current")
    elif done.outcome != "committed" and current != before:
        wrong.append(f"{done.outcome}, and {current[:12]} is current")
    wrong += board.unsound({before, host.bundle})
    steps = board.learned(current)
    if steps < floor:
        wrong.append(f"{steps} updates are learned, {floor} were")
    answers = until_it_answers(board.store)
    if not answers:
        wrong.append("no answers")
    elif answers.bundle != board.held.current:
        wrong.append(f"{answers.bundle[:12]} answers")
    tally = Tally(
        victim=victim,
        signal=number.name if victim else "",
        at_s=round(at_s, 3),
        state=now[-1].state if now else "",
        outcome=done.outcome if done else "",
        reason=done.reason if done else "",
        took_s=round(time.monotonic() - begun_s, 2),
        late=late,
        steps=steps,
        wrong=tuple(wrong),
    )
    return tally, ended_s - begun_s


def kill(processes: Sequence[int], number: signal.Signals) -> None:
    """Those of them that are still there."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def stopped(process: int) -> bool:
    """Whether it was sent SIGSTOP."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def until_it_answers(store: Path) -> Status | None:
    """How the service is, once it has answered a sample; None where none does."""
    end_s = time.monotonic() + PATIENCE_S
    found = stores.until(
        partial(asked, store), lambda now: bool(now and now.bundle and now.samples) or time.monotonic() > end_s
    )
    return found if found and found.bundle and found.samples else None


def asked(store: Path) -> Status | None:
    """How the service is; None while there is none."""
    with contextlib.suppress(EdgeclError):
        return stores.status(store)
    return None


@contextlib.contextmanager
def reached(way: Way, store: Path, folder: Path) -> Iterator[tuple[Link, sshd.Server | None]]:
    """The link to a store, and the sshd in between, if there is one: one for each board."""
    if way == "local":
        yield link_to(f"local:{store}"), None
        return
    folder.mkdir()
    with sshd.running(folder) as server:
        yield link_to("board", server.options(store=store, stall_s=STALL_S)), server


def life(which: int, way: Way, count: int, seed: int, directory: Path, bundles: list[Path]) -> None:
    """Of one board: a bundle after another, each of which is not the current one."""
    chance, store = random.Random(seed * 1000 + which), directory / f"board{which}"
    with reached(way, store, directory / f"sshd{which}") as (link, server):
        board = Board(store, bundles[0], link, server)
        try:
            assert until_it_answers(store)
            begun_s = time.monotonic()
            assert Host(board, bundles[1]).deploy().outcome == "committed"
            whole_s, at = time.monotonic() - begun_s, 2
            while count:
                before = board.held.current
                tally, took_s = interrupted(board, bundles[at], chance, whole_s)
                os.write(1, msgspec.json.encode(tally) + b"\n")
                if tally.late:
                    whole_s = took_s
                else:
                    count -= 1
                if board.held.current != before:
                    at = (at + 1) % len(bundles)
        finally:
            board.close()


def main(way: Way, count: int, seed: int, boards: int, directory: Path, bundles: list[Path]) -> None:
    shares = [count // boards + (which < count % boards) for which in range(boards)]
    children = [
        forks.forked(partial(life, which, way, share, seed, directory, bundles)) for which, share in enumerate(shares)
    ]
    assert [forks.ended(child) for child in children] == [0] * boards


if __name__ == "__main__":
    way = msgspec.convert(sys.argv[1], Way)
    count, seed, boards = (int(one) for one in sys.argv[2:5])
    main(way, count, seed, boards, Path(sys.argv[5]), [Path(one) for one in sys.argv[6:]])
