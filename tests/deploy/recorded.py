"""Run under recorder.cpp: one deployment, or one run with checkpoints, whose operations on files are written down.

    recorded.py deployment STORE BUNDLE LOG
    recorded.py checkpoint STATE BUNDLE LOG

What is acknowledged on the way becomes a mark in the log, when it is.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec

from edgecl import deployer, deployer_start, journal
from edgecl.board import Board
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints, Learned, Parts
from edgecl.deployments import Change, Control
from edgecl.handlers import deploying
from edgecl.labels import Given
from edgecl.loop import Loop
from edgecl.manifest import MANIFEST
from edgecl.orders import BeginRequest, NumberRequest
from edgecl.settings import Settings
from tests.deploy import medium
from tests.edgecl import stores

SETTINGS = Settings(sync=True, checkpoint_every=2, keep_bytes=1 << 20)


class Mark(msgspec.Struct, frozen=True):
    """Something that was acknowledged."""

    control: bytes = b""
    """A record of deployments, whole."""
    received: str = ""
    """An object, by its sha256."""
    checkpoint: int = 0
    records: int = 0
    """Of the journal."""


def marked(log: Path, **what: Any) -> None:
    medium.mark(log, msgspec.msgpack.encode(Mark(**what)))


def deploy(store: Path, path: Path, log: Path) -> None:
    """Receive a bundle in parts, and carry its deployment through."""
    write = Change.write

    def noted(self: Change, control: Control) -> None:
        write(self, control)
        marked(log, control=(store / "control.json").read_bytes())

    Change.write = noted  # type: ignore[method-assign]
    board = Board(store)
    with open_bundle(path) as bundle:
        files = {bundle.id: (bundle.directory / MANIFEST).read_bytes()}
        files |= {file.sha256: (bundle.directory / file.path).read_bytes() for file in bundle.manifest.files}
        request = BeginRequest(bundle=bundle.id, by="test@here")
    begun = None
    for digest, content in files.items():
        half = len(content) // 2
        board.objects.receive(digest, 0, content[:half], len(content))
        board.objects.receive(digest, half, content[half:])
        marked(log, received=digest)
        begun = begun or deploying.begin(board, request)
    assert begun
    with deployer_start.alone(store):  # so that no other process carries it on
        deploying.received(board, NumberRequest(number=begun.number))
    deployer.carry_on(store)


def learn(where: Path, path: Path, log: Path) -> None:
    """Go on with a run: learn, with labels and without, and write checkpoints."""
    write, sync = Checkpoints.write, journal.Journal.sync
    count = 0

    def counted(record: journal.Record) -> None:
        nonlocal count
        count += 1

    def written(self: Checkpoints, learned: Learned, parts: Parts) -> tuple[int, Path]:
        number, path = write(self, learned, parts)
        marked(log, checkpoint=number)
        return number, path

    def synced(self: journal.Journal) -> None:
        before = count
        sync(self)
        if self._directory.name == "journal":
            marked(log, records=before)

    Checkpoints.write = written  # type: ignore[method-assign]
    journal.Journal.sync = synced  # type: ignore[method-assign]
    with Loop(path, where, SETTINGS, on_record=counted) as loop:
        last = 0
        for x in stores.noise(20, 7):
            last = loop.predict(x).seq
        loop.operations.label([Given(seq, "owl") for seq in range(last - 5, last + 1)])
        for x in stores.noise(12, 8):
            loop.predict(x)
    marked(log, records=count)


if __name__ == "__main__":
    {"deployment": deploy, "checkpoint": learn}[sys.argv[1]](*map(Path, sys.argv[2:]))
