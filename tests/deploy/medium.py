"""A medium that keeps what was synced, and may drop, tear or reorder all else: what a power cut leaves, as directories.

`read` gives what `recorder.cpp` has written down. A `Medium` is shown these operations one by one. For each inode it
holds what is durable, and what is pending since the last fsync of that inode: writes of a file, names that appeared in
a directory or went. A power cut keeps any choice of what is pending; of a write it may keep a part. A rename within a
directory is kept or not, as one; across directories the two names are pending on their own.
"""

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

Kind = Literal["file", "directory", "link"]

TRUNCATED: Final = 2
EXISTED: Final = 1


@dataclass(frozen=True)
class Operation:
    """One record."""

    what: str
    first: int
    second: int
    text: bytes
    more: bytes

    @property
    def path(self) -> Path:
        return Path(os.fsdecode(self.text))

    @property
    def to(self) -> Path:
        return Path(os.fsdecode(self.more))

    def __str__(self) -> str:
        return f"{self.what} {self.first} {self.second} {self.text!r} {self.more[:80]!r}"


def read(log: Path) -> list[Operation]:
    """All records, in their order."""
    data, at, found = log.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        body = data[at + 4 : at + 4 + size]
        first, second, length = struct.unpack_from("<qqI", body, 1)
        text = body[21 : 21 + length]
        found.append(Operation(chr(body[0]), first, second, text, body[25 + length :]))
        at += 4 + size
    return found


def mark(log: Path, text: bytes) -> None:
    """Add a record of one's own: something has been acknowledged."""
    body = b"K" + struct.pack("<qqI", 0, 0, len(text)) + text + struct.pack("<I", 0)
    with log.open("ab") as file:
        file.write(struct.pack("<I", len(body)) + body)


@dataclass(frozen=True)
class Pending:
    """What may be lost."""

    number: int
    inode: "Inode"
    names: tuple[tuple[str, "Inode | None"], ...] = ()
    """Of a directory: a name, and what it is now; None for gone."""
    offset: int = 0
    data: bytes | None = None
    """Written to a file at that offset; None: the file was cut to that size."""

    def __str__(self) -> str:
        names = ", ".join(f"{name}{'' if inode else ' gone'}" for name, inode in self.names)
        return f"{self.inode.said}: " + (names or f"{len(self.data or b'')} bytes at {self.offset}")


@dataclass(eq=False)
class Inode:
    """A file, a directory or a link."""

    kind: Kind
    said: str
    """Its name when it was new, for messages."""
    content: bytes = b""
    names: dict[str, "Inode"] = field(default_factory=dict)
    """Of a directory, all of them."""
    durable: dict[str, "Inode"] = field(default_factory=dict)
    """Of a directory, those on the medium."""
    kept: bytes = b""
    """Of a file, what is on the medium."""
    pending: list[Pending] = field(default_factory=list)

    def sync(self) -> None:
        self.durable, self.kept = dict(self.names), self.content
        self.pending.clear()


Choice = Callable[[Pending], float]
"""How much of something that is pending a power cut keeps: 1 for all, 0 for nothing; of a write, a part in between."""


class Medium:
    """The directory `root`, which is all on the medium to begin with."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inodes: dict[int, Inode] = {}
        self.root = self._found(root)
        self._count = 0

    def apply(self, one: Operation, *, sync: bool = True) -> None:
        """See an operation. With `sync` False an fsync is none."""
        match one.what:
            case "C":
                self._opened(one)
            case "W" if one.first in self._inodes:
                inode = self._inodes[one.first]
                inode.content = written(inode.content, one.second, one.more)
                self._later(inode, offset=one.second, data=one.more)
            case "T" if one.first in self._inodes:
                inode = self._inodes[one.first]
                inode.content = inode.content[: one.second].ljust(one.second, b"\0")
                self._later(inode, offset=one.second)
            case "F" if sync and one.first in self._inodes:
                self._inodes[one.first].sync()
            case "M":
                self._inodes[one.first] = inode = Inode("directory", one.path.name)
                self._name(one.path, inode)
            case "S":
                self._name(one.to, Inode("link", one.to.name, content=one.text, kept=one.text))
            case "L":
                self._name(one.to, self._at(one.path))
            case "U":
                self._names(one.path.parent, {one.path.name: None})
            case "R":
                inode = self._at(one.path)
                if one.path.parent == one.to.parent:
                    self._names(one.path.parent, {one.path.name: None, one.to.name: inode})
                else:
                    self._names(one.to.parent, {one.to.name: inode})
                    self._names(one.path.parent, {one.path.name: None})

    def inode(self, one: Operation) -> Inode | None:
        """That an operation is about."""
        return self._inodes.get(one.first)

    def pending(self, *, but: str = "", below: Inode | None = None) -> Iterator[Pending]:
        """Everything that a power cut may lose now and that can be seen, but for what lies in a directory of a name."""
        inode = below or self.root
        yield from inode.pending
        for name, other in (*inode.durable.items(), *inode.names.items()):
            if other.kind != "link" and name != but:
                yield from self.pending(but=but, below=other)

    def after_cut(self, choice: Choice) -> "Image":
        """What is left after a power cut."""
        image: Image = {}
        self._left(self.root, Path(), choice, image)
        return image

    def _left(self, inode: Inode, path: Path, choice: Choice, image: "Image") -> None:
        if inode.kind != "directory":
            content = inode.kept
            for one in sorted(inode.pending, key=lambda one: one.number):
                part = choice(one)
                if one.data is None and part:
                    content = content[: one.offset].ljust(one.offset, b"\0")
                elif one.data and part:
                    content = written(content, one.offset, one.data[: int(len(one.data) * part)])
            image[path] = Left(inode.kind, content, id(inode))
            return
        image[path] = Left("directory", b"", id(inode))
        names: dict[str, Inode] = dict(inode.durable)
        for one in sorted(inode.pending, key=lambda one: one.number):
            if choice(one):
                for name, other in one.names:
                    if other is None:
                        names.pop(name, None)
                    else:
                        names[name] = other
        for name, other in names.items():
            self._left(other, path / name, choice, image)

    def _found(self, path: Path) -> Inode:
        """What is there on the disk of this machine, as durable."""
        number = path.lstat().st_ino
        if number in self._inodes:
            return self._inodes[number]
        if path.is_symlink():
            inode = Inode("link", path.name, content=os.fsencode(os.readlink(path)))
        elif path.is_dir():
            inode = Inode("directory", path.name)
            inode.names = {one.name: self._found(one) for one in path.iterdir() if one.is_dir() or not one.is_socket()}
        else:
            inode = Inode("file", path.name, content=path.read_bytes())
        inode.sync()
        self._inodes[number] = inode
        return inode

    def _opened(self, one: Operation) -> None:
        if not one.second & EXISTED:
            self._inodes[one.first] = inode = Inode("file", one.path.name)
            self._name(one.path, inode)
        elif one.second & TRUNCATED and one.first in self._inodes:
            inode = self._inodes[one.first]
            inode.content = b""
            self._later(inode, offset=0)

    def _at(self, path: Path) -> Inode:
        inode = self.root
        for part in path.relative_to(self._root).parts:
            inode = inode.names[part]
        return inode

    def _name(self, path: Path, inode: Inode) -> None:
        self._names(path.parent, {path.name: inode})

    def _names(self, directory: Path, names: dict[str, Inode | None]) -> None:
        where = self._at(directory)
        for name, inode in names.items():
            if inode is None:
                where.names.pop(name, None)
            else:
                where.names[name] = inode
        self._count += 1
        where.pending.append(Pending(self._count, where, names=tuple(names.items())))

    def _later(self, inode: Inode, *, offset: int, data: bytes | None = None) -> None:
        self._count += 1
        inode.pending.append(Pending(self._count, inode, offset=offset, data=data))


@dataclass(frozen=True)
class Left:
    """A file, directory or link that a power cut left."""

    kind: Kind
    content: bytes
    inode: int


Image = dict[Path, Left]
"""All that is left, by relative path."""


def written(content: bytes, offset: int, data: bytes) -> bytes:
    """A file's content after a write."""
    content = content.ljust(offset, b"\0")
    return content[:offset] + data + content[offset + len(data) :]


def digest(image: Image) -> bytes:
    """The same for the same image."""
    told = hashlib.sha256()
    numbers: dict[int, int] = {}
    for path, left in sorted(image.items()):
        numbers.setdefault(left.inode, len(numbers))
        told.update(repr((str(path), left.kind, numbers[left.inode], len(left.content))).encode() + left.content)
    return told.digest()


def make(image: Image, into: Path) -> Path:
    """Write an image out, into a directory that is not there yet."""
    made: dict[int, Path] = {}
    for path, left in image.items():
        place = into / path
        if left.kind == "directory":
            place.mkdir(mode=0o700)
        elif left.kind == "link":
            place.symlink_to(os.fsdecode(left.content))
        elif left.inode in made:
            os.link(made[left.inode], place)
        else:
            place.write_bytes(left.content)
            made[left.inode] = place
    return into
