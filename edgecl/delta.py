"""An object as a difference from another one: weights trained further, in fewer bytes than the weights.

A delta is a header and pieces. The header says what it makes and out of what:

    magic 8 | version u8 | reserved 3 | pieces u32 | base_bytes u64 | target_bytes u64 | base sha256 | target sha256

in little-endian order; the fields of the base are zero where none is needed. Each piece makes PIECE_BYTES of the
target, the last one what is left: `form u8 | element u8 | reserved 2 | bytes u32`, then a zstd frame of so many bytes,
which tells the size of its content. What is in the frame depends on the form:

* PLAIN        the piece
* SHUFFLED     the exclusive or of the piece and the base at the same offset, its bytes in another order: the first byte
               of every element, then the second of every one, and so on; a rest comes last, as it is
* DICTIONARY   the piece, with the bytes of the base around the same offset for a dictionary (raw content)

A piece has the form that makes it smallest, so a delta is never larger than the compressed object by more than its
headers. Making and applying one hold a few pieces in memory, of objects of any size.
"""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import zstandard

from edgecl.errors import BundleError, StoreError

PIECE_BYTES: Final = 2 << 20
REACH_BYTES: Final = 2 << 20
"""Of the base, so much before and behind a piece is in its dictionary: content moves by inserted bytes."""

MAX_OBJECT_BYTES: Final = 1 << 30
"""As much as a whole bundle may have."""

LEVEL: Final = 12
"""zstd level: a quarter of a second for a piece, of which the board notices nothing."""

ELEMENTS: Final = (1, 2, 4, 8)
"""Sizes of an element, in bytes, of which the best is taken."""

PLAIN, SHUFFLED, DICTIONARY = range(3)

_MAGIC: Final = b"ecldelta"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sB3sIQQ32s32s")
_PIECE: Final = struct.Struct("<BB2sI")
_NOTHING: Final = bytes(32)


@dataclass(frozen=True)
class Header:
    """What a delta says of itself."""

    base: str | None
    """SHA-256 of the object that it needs; None where it needs none."""
    base_bytes: int
    target: str
    """SHA-256 of the object that it makes."""
    target_bytes: int


def make(base: bytes | Path | None, target: bytes | Path) -> bytes | None:
    """The delta that makes `target` out of `base`; None where it would not be smaller than the target itself.

    Without a base, the target is compressed. Raises StoreError: a file cannot be read.
    """
    with _Opened(base) as old, _Opened(target) as new:
        if new.bytes > MAX_OBJECT_BYTES or old.bytes > MAX_OBJECT_BYTES:
            return None
        pieces, needed = [], False
        for start in range(0, new.bytes, PIECE_BYTES):
            form, element, frame = _smallest(old, start, new.read(start, min(PIECE_BYTES, new.bytes - start)))
            needed = needed or form != PLAIN
            pieces.append(_PIECE.pack(form, element, b"", len(frame)) + frame)
        size, digest = (old.bytes, bytes.fromhex(old.sha256())) if needed else (0, _NOTHING)
        target_digest = bytes.fromhex(new.sha256())
        header = _HEADER.pack(_MAGIC, _VERSION, b"", len(pieces), size, new.bytes, digest, target_digest)
        made = b"".join((header, *pieces))
        return made if len(made) < new.bytes else None


def read_header(data: bytes) -> Header:
    """The header of a delta, of which the first bytes will do. Raises BundleError: it is none."""
    if len(data) < _HEADER.size:
        raise BundleError("delta: cut off in its header; send it again")
    magic, version, reserved, pieces, base_bytes, target_bytes, base, target = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or any(reserved):
        raise BundleError(f"delta: not a delta of version {_VERSION}; send the whole object")
    if max(base_bytes, target_bytes) > MAX_OBJECT_BYTES or (base == _NOTHING) != (base_bytes == 0):
        raise BundleError(f"delta: sizes {base_bytes} and {target_bytes} that no delta has; send the whole object")
    if pieces != -(-target_bytes // PIECE_BYTES):
        raise BundleError(f"delta: {pieces} pieces for {target_bytes} bytes; send the whole object")
    return Header(base.hex() if base_bytes else None, base_bytes, target.hex(), target_bytes)


def apply(delta: bytes | Path, base: bytes | Path | None, write: Callable[[bytes], object]) -> str:
    """Write what a delta makes out of `base`, piece by piece, and give its SHA-256, which is that of the header.

    What was written is good for nothing unless this returns: write it where nobody looks, and discard it otherwise.

    Raises BundleError: not a delta, a damaged one, or one of another base. StoreError: a file cannot be read.
    """
    with _Opened(delta) as given, _Opened(base) as old:
        header = read_header(given.read(0, min(_HEADER.size, given.bytes)))
        if header.base is None:
            old.close()
        elif old.bytes != header.base_bytes or old.sha256() != header.base:
            raise BundleError(f"delta: made from {header.base}, which this base is not; send the whole object")
        digest, place = hashlib.sha256(), _HEADER.size
        for start in range(0, header.target_bytes, PIECE_BYTES):
            size = min(PIECE_BYTES, header.target_bytes - start)
            if given.bytes - place < _PIECE.size:
                raise BundleError(f"delta: cut off before byte {start} of its object; send it again")
            form, element, reserved, length = _PIECE.unpack(given.read(place, _PIECE.size))
            place += _PIECE.size
            if any(reserved) or length > given.bytes - place or length > 2 * PIECE_BYTES:
                raise BundleError(f"delta: cut off or damaged at byte {start} of its object; send it again")
            piece = _piece(form, element, given.read(place, length), old, start, size)
            place += length
            digest.update(piece)
            write(piece)
        if place != given.bytes:
            raise BundleError("delta: something follows its end; send it again")
    if digest.hexdigest() != header.target:
        raise BundleError(f"delta: damaged: it does not make {header.target}; send the whole object")
    return header.target


class _Opened:
    """Bytes at hand or in a file, read by offset; None is empty."""

    def __init__(self, source: bytes | Path | None) -> None:
        self._where = str(source) if isinstance(source, Path) else "delta"
        self._data = source if isinstance(source, bytes) else b""
        self._file: BinaryIO | None = None
        self.bytes = len(self._data)
        if isinstance(source, Path):
            try:
                self._file = source.open("rb")
                self.bytes = self._file.seek(0, 2)
            except OSError as error:
                raise StoreError(f"{self._where}: {error.strerror or error}; give a readable object") from None

    def read(self, start: int, size: int) -> bytes:
        """Exactly so many bytes. Raises StoreError."""
        if not self._file:
            return self._data[start : start + size]
        try:
            self._file.seek(start)
            data = self._file.read(size)
        except OSError as error:
            raise StoreError(f"{self._where}: {error.strerror or error}; give a readable object") from None
        if len(data) < size:
            raise StoreError(f"{self._where}: became shorter while it was read; try again")
        return data

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.bytes, PIECE_BYTES):
            digest.update(self.read(start, min(PIECE_BYTES, self.bytes - start)))
        return digest.hexdigest()

    def close(self) -> None:
        """There is nothing to read any more."""
        self._data, self.bytes = b"", 0
        if self._file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _smallest(old: _Opened, start: int, piece: bytes) -> tuple[int, int, bytes]:
    """Form, element size and frame of a piece, in the form that takes the fewest bytes."""
    found = [(PLAIN, 1, _packed(piece))]
    if len(piece) <= old.bytes - start:
        changed = _xor(piece, old.read(start, len(piece)))
        if not any(changed):
            return SHUFFLED, 1, _packed(changed)
        found += [(SHUFFLED, element, _packed(_shuffled(changed, element))) for element in ELEMENTS]
    if dictionary := _around(old, start, len(piece)):
        found.append((DICTIONARY, 1, _packed(piece, dictionary)))
    return min(found, key=lambda one: len(one[2]))


def _piece(form: int, element: int, frame: bytes, old: _Opened, start: int, size: int) -> bytes:
    """What a piece of a delta makes. Raises BundleError."""
    if form == PLAIN and element == 1:
        return _unpacked(frame, size)
    if form == SHUFFLED and element in ELEMENTS and size <= old.bytes - start:
        return _xor(_unshuffled(_unpacked(frame, size), element), old.read(start, size))
    if form == DICTIONARY and element == 1 and (dictionary := _around(old, start, size)):
        return _unpacked(frame, size, dictionary)
    raise BundleError(f"delta: a piece of form {form}, elements of {element} bytes, at {start}; send the whole object")


def _around(old: _Opened, start: int, size: int) -> bytes:
    """The bytes of the base that are a piece's dictionary."""
    begin, end = max(0, start - REACH_BYTES), min(old.bytes, start + size + REACH_BYTES)
    return old.read(begin, end - begin) if end - begin >= 8 else b""  # zstd takes no smaller dictionary


def _packed(content: bytes, dictionary: bytes = b"") -> bytes:
    # The window holds the piece, so that its end may still refer to the dictionary.
    given = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, source_size=len(content) + len(dictionary))
    return zstandard.ZstdCompressor(dict_data=given, compression_params=parameters).compress(content)


def _unpacked(frame: bytes, size: int, dictionary: bytes = b"") -> bytes:
    """The content of a frame, which must have the size. Raises BundleError."""
    given = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    try:
        told = zstandard.get_frame_parameters(frame)  # the room for the content is made by what it tells
        if told.content_size != size or told.window_size > 8 * PIECE_BYTES:
            raise BundleError(f"delta: a piece of {told.content_size} bytes where {size} belong; send it again")
        content = zstandard.ZstdDecompressor(dict_data=given).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BundleError(f"delta: a damaged piece ({error}); send it again") from None
    if len(content) != size:
        raise BundleError(f"delta: a piece of {len(content)} bytes where {size} belong; send it again")
    return content


def _xor(one: bytes, other: bytes) -> bytes:
    return (np.frombuffer(one, np.uint8) ^ np.frombuffer(other, np.uint8)).tobytes()


def _shuffled(content: bytes, element: int) -> bytes:
    whole = len(content) // element * element
    return np.frombuffer(content, np.uint8, whole).reshape(-1, element).T.tobytes() + content[whole:]


def _unshuffled(content: bytes, element: int) -> bytes:
    whole = len(content) // element * element
    return np.frombuffer(content, np.uint8, whole).reshape(element, -1).T.tobytes() + content[whole:]
