"""Fetches what a device has written: journals, samples, what was learned; and tells it what is safely here.

Everything lies under `<folder>/<name on the device>`: `journal/<boot>-<n>.mcap`, `samples/...`, `learned/...`. A file
that is here is never fetched again; one that was cut off is gone on with. Journals are acknowledged once they are on
this computer's disk, and the device deletes them then. Samples stay in the device's ring: its trials and late labels
need them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from edgecl import disk, messages, orders
from edgecl.errors import RequestError, StoreError
from edgecl.messages import HashAnswer, HashRequest
from edgecl.orders import AcknowledgeAnswer, AcknowledgeRequest, Kept, ListAnswer, Listed, ListRequest
from edgecl.requests import Cut, Status
from firmware_host import service
from firmware_host.patient import Patient

SEGMENT: Final = ".mcap"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}(\.[a-z]+)?")

ACKNOWLEDGED: Final = 50
"""Files acknowledged at a time: the device hashes them before it answers."""


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; a line of `--json`."""

    device: str
    folder: str
    files: int
    """That came now."""
    bytes: int
    there: int
    """That were here already."""
    growing: int
    """That are still being written, and were left out."""
    gone: tuple[str, ...]
    """That the device deleted before they came."""
    deleted: int
    """Journal segments that the device needs no more."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A file is here."""

    name: str
    bytes: int


Tell = Callable[[Fetched], None]
Progress = Callable[[str, int, int], None]
"""Name of a file, bytes that are there, of how many."""


def pull(
    board: Patient,
    device: str,
    folder: Path,
    *,
    cut: bool = False,
    keep: bool = False,
    learned: bool = False,
    tell: Tell = lambda fetched: None,
    progress: Progress = lambda name, have, of: None,
) -> Pulled:
    """Fetch what is not here yet. `cut`: seal what is being written first. `keep`: delete nothing on the device.

    Raises RequestError: `cut`, and no service runs. StoreError: it cannot be written here, or a file of the same name
    is here that is another one. LinkError: the connection is lost for long.
    """
    if cut:
        board.work(lambda: service.ask(board.client, Cut(), Status))
    count = _Count()
    for kind in ("journal", "samples", *(("learned",) if learned else ())):
        mine: list[Kept] = []
        for listed in _listed(board, kind):
            path = folder / listed.name
            if not listed.sealed:
                count.growing += 1
                continue
            if not _fetch(board, listed, path, count, tell, progress):
                continue
            if kind == "journal" and not keep:
                mine.append(Kept(name=listed.name, sha256=_sha256(path)))
            if len(mine) == ACKNOWLEDGED:
                count.deleted += _acknowledge(board, mine)
                mine = []
        if mine:
            count.deleted += _acknowledge(board, mine)
    return Pulled(
        device=device,
        folder=str(folder),
        files=count.files,
        bytes=count.bytes,
        there=count.there,
        growing=count.growing,
        gone=tuple(count.gone),
        deleted=count.deleted,
    )


class _Count:
    def __init__(self) -> None:
        self.files = self.bytes = self.there = self.growing = self.deleted = 0
        self.gone: list[str] = []


def _fetch(board: Patient, listed: Listed, path: Path, count: _Count, tell: Tell, progress: Progress) -> bool:
    """Whether the file is here now."""
    try:
        if path.is_file():
            if _same(board, listed, path):
                count.there += 1
                return True
            if listed.name.endswith(SEGMENT):
                raise StoreError(f"{path}: another file than {listed.name} of the device; pull into another folder")
        _make(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give another --into") from None
    try:
        size = board.client.download(listed.name, path, lambda have, of: progress(listed.name, have, of))
    except RequestError:
        path.with_name(path.name + ".part").unlink(missing_ok=True)
        count.gone.append(listed.name)
        return False
    count.files += 1
    count.bytes += size
    tell(Fetched(name=listed.name, bytes=size))
    return True


def _same(board: Patient, listed: Listed, path: Path) -> bool:
    """Whether a file that is here is that of the device. Segments and what is named by its digest never change."""
    if path.stat().st_size != listed.size:
        return False
    if listed.name.endswith(SEGMENT) or _DIGEST.fullmatch(path.name):
        return True
    try:
        asked = HashRequest(name=listed.name)
        return board.ask(messages.HASH, asked, HashAnswer).output == bytes.fromhex(_sha256(path))
    except RequestError:
        return True  # it is gone there


def _listed(board: Patient, folder: str) -> Iterator[Listed]:
    after = ""
    while True:
        files = board.ask(orders.LIST, ListRequest(folder=folder, after=after), ListAnswer).files
        if not files:
            return
        yield from files
        after = files[-1].name


def _acknowledge(board: Patient, files: list[Kept]) -> int:
    return board.ask(orders.ACKNOWLEDGE, AcknowledgeRequest(files=tuple(files)), AcknowledgeAnswer).deleted


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give another --into") from None


def _make(folder: Path) -> None:
    """A directory, and the names that lead to it on the disk. Raises OSError."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        disk.sync_directory(folder.parent)
