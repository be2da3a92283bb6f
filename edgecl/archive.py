"""The `.ecl` archive: plain files in a tar of one exact form (POSIX USTAR), inside one zstd frame.

Name and size fix all 512 bytes of a member's header: mode 0644, owner and group 0, time 0, no links, no extensions. A
reader builds the header that must stand there and compares, so nothing but a plain file can ever be a member.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import zstandard

from edgecl.errors import BundleError

LEVEL: Final = 10
"""zstd level: weights hardly shrink further above it, and building stays fast."""

WINDOW_LOG: Final = 21
"""2 MiB: what decompression costs the board in memory."""

MAX_WINDOW_BYTES: Final = 8 << 20
"""A frame that asks for more memory is refused; RFC 8878 tells every decoder to support this much."""

MAX_NAME_BYTES: Final = 100
"""The name field of a USTAR header; its prefix field is not used."""

MAX_MEMBER_BYTES: Final = 8**11 - 1
"""What the eleven octal digits of a USTAR size hold."""

PIECE_BYTES: Final = 256 << 10
"""Content is handed out in pieces no larger than this."""

_SLICE_BYTES: Final = 512
"""Compressed bytes taken at a time. A zstd block grows 4 bytes to 128 KiB at worst, so a slice of a bomb to 16 MiB."""

_BLOCK: Final = 512
_PLAIN_FILE: Final = b"0"
_KINDS: Final = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a directory",
    b"6": "a fifo", b"x": "an extended header", b"g": "an extended header", b"L": "an extended header",
}  # fmt: skip


def pack(members: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """The bytes of an archive of these members, in this order; the same members give the same bytes.

    Raises BundleError: a name or a content that the form cannot hold.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, write_checksum=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for name, content in members:
        encoded = name.encode()
        if len(encoded) > MAX_NAME_BYTES or len(content) > MAX_MEMBER_BYTES:
            raise BundleError(f"{name}: too long a name or content for an archive; write a directory instead")
        yield frame.compress(_header(encoded, len(content)))
        yield frame.compress(content)
        yield frame.compress(bytes(-len(content) % _BLOCK))
    yield frame.compress(bytes(2 * _BLOCK))
    yield frame.flush()


def unpack(file: BinaryIO, where: str) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Name, size and content of each member. The content must be used up before the next member is asked for.

    Raises BundleError: truncated, damaged, of another form, or with anything after its end.
    """
    stream = _Inflated(file, where)
    while True:
        header = stream.exactly(_BLOCK)
        if header == bytes(_BLOCK):
            break
        name, size = _parsed(header, where)
        yield name, size, stream.pieces(size)
        if any(stream.exactly(-size % _BLOCK)):
            raise BundleError(f"{where}: {name}: padding that is not zero; rebuild the bundle")
    if any(stream.exactly(_BLOCK)):
        raise BundleError(f"{where}: one end block where two are needed; rebuild the bundle")
    stream.end()


def _header(name: bytes, size: int) -> bytes:
    """The USTAR header of a plain file. Its checksum counts its own field as spaces."""
    start = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0
    rest = _PLAIN_FILE + bytes(100) + b"ustar\x0000" + bytes(247)
    return start + b"%06o\0 " % (sum(start) + sum(rest) + 8 * ord(" ")) + rest


def _parsed(header: bytes, where: str) -> tuple[str, int]:
    name = header[:MAX_NAME_BYTES].rstrip(b"\0")
    try:
        size = int(header[124:135], 8)
        exact = size >= 0 and header == _header(name, size)
        shown = name.decode()
    except (ValueError, UnicodeDecodeError):
        raise BundleError(f"{where}: {name!r}: damaged tar header; get the bundle again") from None
    if not exact:
        kind = _KINDS.get(header[156:157], "not a plain file in the exact form")
        raise BundleError(f"{where}: {shown!r} is {kind}; rebuild the bundle")
    return shown, size


class _Inflated:
    """Exact reads from one zstd frame, in bounded memory."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._ready = bytearray()

    def exactly(self, size: int) -> bytes:
        while len(self._ready) < size:
            if not self._more():
                raise BundleError(f"{self._where}: the archive ends too early; get the bundle again")
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken

    def pieces(self, size: int) -> Iterator[bytes]:
        for start in range(0, size, PIECE_BYTES):
            yield self.exactly(min(PIECE_BYTES, size - start))

    def end(self) -> None:
        """Check that frame and file end here."""
        while not self._ready and self._more():
            pass
        if self._ready or not self._frame.eof or self._frame.unused_data or self._file.read(1):
            raise BundleError(f"{self._where}: something follows the end of the archive; get the bundle again")

    def _more(self) -> bool:
        """Take one more slice of the frame; False where frame or file end."""
        try:
            if self._frame.eof or not (compressed := self._file.read(_SLICE_BYTES)):
                return False
            self._ready += self._frame.decompress(compressed)
        except OSError as error:
            raise BundleError(f"{self._where}: {error.strerror or error}; give a readable bundle") from None
        except zstandard.ZstdError as error:
            raise BundleError(f"{self._where}: not a bundle, or a damaged one ({error}); get it again") from None
        return True
