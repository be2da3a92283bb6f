"""Where samples come from. `SOURCES` is the table; a source is named `kind` or `kind:where` on the command line.

* `folder:DIR`  PNG, JPEG and BMP images, in the order of their file names. Where DIR has subfolders, each is named like
                a class of the bundle, and that is the label of its images.
* `npz:FILE`    numpy arrays `x` [n, *input.shape] and, where labels are known, `y` [n] of integers. Read sample by
                sample, never whole, and never unpickled.
* `stdin`       samples back to back without any framing: uint8 height, width, channel, or little-endian float32.

A sample that cannot be read is a Damaged, not an error: one bad file does not end a run of weeks.
"""

import contextlib
import itertools
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from edgecl.errors import EXIT_USAGE, EdgeclError
from edgecl.manifest import Input

SUFFIXES: Final = frozenset((".png", ".jpg", ".jpeg", ".bmp"))
"""What makes a file in a folder an image; other files are passed over."""

FORMATS: Final = ("PNG", "JPEG", "BMP")
"""The only decoders of Pillow that are used."""

_MODES: Final = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""

_DEPTH_8: Final = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
"""Pillow's modes of eight bits a channel, which convert to those without a guess about their range."""


_SKIP_BYTES: Final = 64 << 10
"""Read at a time to pass over samples of a compressed array."""


class SourceError(EdgeclError):
    """A source cannot be used: name another one, or repair it."""


class SpecError(SourceError):
    """No source has this name: correct the command."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Sample:
    """One input."""

    position: int
    """Counts the samples of the source, from 0."""
    x: npt.NDArray[Any]
    """uint8 [height, width, channel] or float32, as `Input` says; read-only."""
    y: int | None = None
    """True label, where it is known."""


@dataclass(frozen=True)
class Damaged:
    """A sample that could not be read, and why, in one line."""

    position: int
    reason: str


class Source(Protocol):
    """Gives its samples in order."""

    live: bool
    """Whether samples come as they happen, and cannot be had again."""

    def __iter__(self) -> Iterator[Sample | Damaged]: ...

    def skip_to(self, position: int) -> None:
        """Begin at this position, to resume; a live source only counts from it. Raises SourceError: it ends before."""


def open_source(spec: str, given: Input, classes: Sequence[str]) -> Source:
    """The source of this name, for a bundle that takes this input.

    Raises SpecError: no source has this name. SourceError: it cannot be read, or its samples do not fit the bundle.
    """
    check_spec(spec)
    kind, _, where = spec.partition(":")
    return SOURCES[kind](where, given, classes)


def check_spec(spec: str, *others: str) -> None:
    """Raises SpecError: no source has this name, and it is none of the others that the caller knows."""
    kind, _, where = spec.partition(":")
    if spec not in others and (kind not in SOURCES or bool(where) != (kind in _PLACED)):
        names = ", ".join((*(f"{name}:PATH" if name in _PLACED else name for name in SOURCES), *others))
        raise SpecError(f"{spec!r} names no source; give one of {names}")


class Folder:
    """Images in a directory."""

    live = False

    def __init__(self, where: str, given: Input, classes: Sequence[str]) -> None:
        from PIL import Image  # late: it costs memory, and only this source needs it

        self._open = Image.open
        self._root = Path(where)
        self._start = 0
        if given.kind != "image" or given.shape[2] not in _MODES:
            raise SourceError(f"{where}: images, but the bundle takes {_shown(given)}; give an npz file")
        self._height, self._width, channels = given.shape
        self._mode = _MODES[channels]
        try:
            images, folders = _listed(self._root)
            files: list[tuple[str, str, int | None]] = [(name, "", None) for name in images]
            for folder in folders:
                if folder not in classes:
                    raise SourceError(f"{where}: {folder!r} is none of the bundle's classes; rename it or move it away")
                images, deeper = _listed(self._root / folder)
                if deeper:
                    raise SourceError(f"{where}: {folder}/{deeper[0]} is a folder in a folder; move its images up")
                files += [(name, folder, classes.index(folder)) for name in images]
        except OSError as error:
            raise SourceError(f"{where}: {error.strerror or error}; give a folder of images") from None
        if not files:
            raise SourceError(f"{where}: no {', '.join(sorted(SUFFIXES))} file is in it; give a folder of images")
        self._files = sorted(files, key=lambda file: file[:2])

    def skip_to(self, position: int) -> None:
        _check_position(position, len(self._files), str(self._root))
        self._start = position

    def __iter__(self) -> Iterator[Sample | Damaged]:
        for position in range(self._start, len(self._files)):
            name, folder, y = self._files[position]
            try:
                x = self._image(self._root / folder / name)
            except Exception as error:  # the decoders raise whatever they meet, from SyntaxError to struct.error
                yield Damaged(position, f"{Path(folder) / name}: {_line(error)}")
            else:
                yield Sample(position, x, y)

    def _image(self, path: Path) -> npt.NDArray[np.uint8]:
        with self._open(path, formats=FORMATS) as image:
            if image.size != (self._width, self._height):  # before decoding, so a bomb never goes off
                width, height = image.size
                raise _UnfitError(
                    f"{width}x{height} pixels where the bundle takes {self._width}x{self._height}; resize it"
                )
            if image.mode not in _DEPTH_8:
                raise _UnfitError(f"an image of mode {image.mode}; convert it to 8 bits a channel")
            x = np.array(image.convert(self._mode)).reshape(self._height, self._width, -1)
        x.flags.writeable = False
        return x


class Npz:
    """Arrays in a numpy archive."""

    live = False

    def __init__(self, where: str, given: Input, classes: Sequence[str]) -> None:
        self._path = Path(where)
        self._given = given
        self._classes = len(classes)
        self._start = 0
        try:
            with zipfile.ZipFile(self._path) as archive:
                x_shape, x_dtype = _array_header(archive, "x.npy")
                self._labels: np.dtype[Any] | None = None
                if "y.npy" in archive.namelist():
                    y_shape, self._labels = _array_header(archive, "y.npy")
        except SourceError as error:
            raise SourceError(f"{where}: {error}") from None
        except Exception as error:  # zipfile and its decoders raise ten kinds of errors on damaged files
            raise SourceError(f"{where}: {_line(error)}; give a file that numpy.savez wrote") from None
        if not x_shape or x_shape[1:] != given.shape or x_dtype != _dtype(given):
            raise SourceError(f"{where}: x is {x_dtype}{list(x_shape)}, the bundle takes {_shown(given)}; convert it")
        self._count = x_shape[0]
        if self._labels is not None and (y_shape != (self._count,) or self._labels.kind not in "iu"):
            raise SourceError(f"{where}: y is {self._labels}{list(y_shape)}, not {self._count} integers; convert it")

    def skip_to(self, position: int) -> None:
        _check_position(position, self._count, str(self._path))
        self._start = position

    def __iter__(self) -> Iterator[Sample | Damaged]:
        size = _sample_bytes(self._given)
        position = self._start
        try:
            with contextlib.ExitStack() as stack:
                archive = stack.enter_context(zipfile.ZipFile(self._path))
                x = _array_data(archive, "x.npy", stack, self._start * size)
                if self._labels is not None:
                    y = _array_data(archive, "y.npy", stack, self._start * self._labels.itemsize)
                for position in range(self._start, self._count):
                    data = x.read(size)
                    label = None if self._labels is None else _label(y, self._labels)
                    if label is not None and not 0 <= label < self._classes:
                        yield Damaged(position, f"label {label}, the bundle has {self._classes} classes")
                    else:
                        yield _sample(position, data, self._given, label)
        except Exception as error:  # see __init__
            yield Damaged(position, f"{self._path}: {_line(error)}; what follows cannot be read")


class Readable(Protocol):
    """What bytes come from: `read` gives all that it was asked for, or what there is before the end."""

    def read(self, size: int, /) -> bytes: ...


class Frames:
    """Samples back to back in a byte stream."""

    live = True

    def __init__(self, stream: Readable, given: Input) -> None:
        self._stream = stream
        self._given = given
        self._start = 0

    def skip_to(self, position: int) -> None:
        self._start = position

    def __iter__(self) -> Iterator[Sample | Damaged]:
        size = _sample_bytes(self._given)
        for position in itertools.count(self._start):
            data = self._stream.read(size)
            if not data:
                return
            yield _sample(position, data, self._given, None)


def _stdin(where: str, given: Input, classes: Sequence[str]) -> Source:
    return Frames(sys.stdin.buffer, given)


SOURCES: Final[dict[str, Callable[[str, Input, Sequence[str]], Source]]] = {
    "folder": Folder,
    "npz": Npz,
    "stdin": _stdin,
}

_PLACED: Final = frozenset(("folder", "npz"))
"""Kinds that are followed by a path."""

RECORDED: Final = _PLACED
"""Kinds whose samples can be had again: learning may take its time with them."""


class _UnfitError(Exception):
    """An image that the bundle cannot take."""


def _dtype(given: Input) -> np.dtype[Any]:
    return np.dtype("uint8" if given.kind == "image" else "<f4")


def _sample_bytes(given: Input) -> int:
    return math.prod(given.shape) * _dtype(given).itemsize


def _shown(given: Input) -> str:
    return f"{_dtype(given)}[{', '.join(map(str, ('n', *given.shape)))}]"


def _sample(position: int, data: bytes, given: Input, y: int | None) -> Sample | Damaged:
    if len(data) != _sample_bytes(given):
        return Damaged(position, f"cut off after {len(data)} of {_sample_bytes(given)} bytes")
    x = np.frombuffer(data, _dtype(given)).reshape(given.shape)
    if given.kind == "vector" and not np.isfinite(x).all():
        return Damaged(position, "it holds numbers that are not finite")
    return Sample(position, x, y)


def _check_position(position: int, count: int, where: str) -> None:
    if position > count:
        raise SourceError(f"{where}: it has {count} samples, the run goes on at {position}; give the run's own source")


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in a folder, without hidden ones."""
    images, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file() and Path(entry.name).suffix.lower() in SUFFIXES:
                images.append(entry.name)
    return images, sorted(folders)


def _array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array, which is all there and can be read row by row."""
    with archive.open(name) as member:
        shape, fortran, dtype = _read_header(member)
        if dtype.hasobject:
            raise SourceError(f"{name} holds Python objects, which are never unpickled; save plain numbers")
        if fortran and len(shape) > 1:
            raise SourceError(f"{name} is in Fortran order; save numpy.ascontiguousarray of it")
        if archive.getinfo(name).file_size != member.tell() + math.prod(shape) * dtype.itemsize:
            raise SourceError(f"{name} does not have the size that its header says; save it again")
    return shape, dtype


def _array_data(archive: zipfile.ZipFile, name: str, stack: contextlib.ExitStack, skip_bytes: int) -> IO[bytes]:
    member = stack.enter_context(archive.open(name))
    _read_header(member)
    while skip_bytes and (skipped := member.read(min(skip_bytes, _SKIP_BYTES))):  # seek would take 16 MiB at a time
        skip_bytes -= len(skipped)
    return member


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    if np.lib.format.read_magic(member) == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _label(y: IO[bytes], dtype: np.dtype[Any]) -> int:
    return int(np.frombuffer(y.read(dtype.itemsize), dtype)[0])


def _line(error: Exception) -> str:
    """What an error says, in one line of sane length."""
    return " ".join(str(error).split())[:200] or type(error).__name__
