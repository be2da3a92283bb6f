"""What host and board say to each other: the requests and answers of docs/formats/protocol.md, as structs.

Groups 0 and 8 are SMP's own, with its names of fields; group 64 is edgecl's.
"""

from typing import Annotated, Final, Literal

import msgspec

from edgecl.smp import READ, WRITE

PROTOCOL: Final = 1
"""What follows; goes up when one side can no longer understand the other."""

OS: Final = 0
FILES: Final = 8
EDGECL: Final = 64

DATA_BYTES: Final = 60 << 10
"""Of a file, in one message over frames."""
CONSOLE_BYTES: Final = 8 << 10
"""Of a message over a console; a line that is hit costs as much as that."""
CONSOLE_DATA_BYTES: Final = 1 << 10

MAX_OBJECT_BYTES: Final = 1 << 30
MAX_NAME: Final = 255
MAX_WANTED: Final = 512

Code = tuple[int, int, int]
"""Operation, group, command."""

ECHO: Final[Code] = (WRITE, OS, 0)
ECHO_READ: Final[Code] = (READ, OS, 0)
PARAMETERS: Final[Code] = (READ, OS, 6)
DOWNLOAD: Final[Code] = (READ, FILES, 0)
UPLOAD: Final[Code] = (WRITE, FILES, 0)
STATUS: Final[Code] = (READ, FILES, 1)
HASH: Final[Code] = (READ, FILES, 2)
HASHES: Final[Code] = (READ, FILES, 3)
HELLO: Final[Code] = (READ, EDGECL, 0)
FACTS: Final[Code] = (READ, EDGECL, 1)
WANTED: Final[Code] = (READ, EDGECL, 2)

Natural = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]


class Body(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The map of a message. Fields that one side does not know are passed over."""


class Nothing(Body, frozen=True, kw_only=True):
    """An empty map."""


class EchoRequest(Body, frozen=True, kw_only=True):
    """Answered by what it says."""

    d: str


class EchoAnswer(Body, frozen=True, kw_only=True):
    """What was said."""

    r: str


class ParametersAnswer(Body, frozen=True, kw_only=True):
    """What fits, for clients over a console."""

    buf_size: int
    """Bytes of the largest message, with length and check."""
    buf_count: int


class UploadRequest(Body, frozen=True, kw_only=True):
    """A part of an object, which is written where it continues what is there."""

    name: FileName
    """objects/<sha256>"""
    off: Natural
    data: bytes
    len: Natural | None = None
    """Of the whole object: in the first request of a connection for it."""


class UploadAnswer(Body, frozen=True, kw_only=True):
    """Where the next part belongs; at the end of the object, all of it is there and verified."""

    off: int


class DownloadRequest(Body, frozen=True, kw_only=True):
    """A part of a file."""

    name: FileName
    off: Natural
    most: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Bytes to give; fewer where fewer fit."""


class DownloadAnswer(Body, frozen=True, kw_only=True):
    """As much as fits; nothing behind the end."""

    off: int
    data: bytes
    len: int | None = None
    """Of the file: where `off` is 0."""


class StatusRequest(Body, frozen=True, kw_only=True):
    """How long a file is."""

    name: FileName


class StatusAnswer(Body, frozen=True, kw_only=True):
    """That."""

    len: int


class HashRequest(Body, frozen=True, kw_only=True):
    """The hash of a file, or of a part of it."""

    name: FileName
    type: Literal["sha256", "crc32"] | None = None
    """sha256 unless said otherwise."""
    off: Natural = 0
    len: Natural | None = None


class HashAnswer(Body, frozen=True, kw_only=True):
    """The hash of `len` bytes."""

    type: str
    len: int
    output: bytes | int
    """32 bytes, or a number."""
    off: int = 0


class HashKind(Body, frozen=True, kw_only=True):
    """`format`: 0 for a number, 1 for bytes."""

    format: int
    size: int


class HashesAnswer(Body, frozen=True, kw_only=True):
    """The hashes that can be asked for."""

    types: dict[str, HashKind]


class HelloRequest(Body, frozen=True, kw_only=True):
    """Who asks. From here on errors are edgecl's own."""

    protocol: Natural
    edgecl: str
    baud: Natural | None = None
    """The speed that a serial line should go on at, once this is answered."""


class HelloAnswer(Body, frozen=True, kw_only=True):
    """Who answers."""

    protocol: int
    """The newest that it speaks, and `oldest` the oldest."""
    oldest: int
    edgecl: str
    capabilities: tuple[str, ...]
    """What can be asked beyond this version of the protocol."""
    store: str
    """The state directory, for messages."""
    data_bytes: int
    """Of a file, in one message."""
    object_bytes: int
    """The largest object."""
    free_bytes: int
    """Of the file system of the store."""
    baud: int | None = None
    """The speed that the line goes on at; none where it stays as it is."""


class Wish(Body, frozen=True, kw_only=True):
    """An object that the board should have."""

    sha256: Digest
    size: Natural


class WantedRequest(Body, frozen=True, kw_only=True):
    """Which of these are missing?"""

    objects: Annotated[tuple[Wish, ...], msgspec.Meta(max_length=MAX_WANTED)]


class Missing(Body, frozen=True, kw_only=True):
    """An object that is not there, or not whole."""

    sha256: Digest
    held: int
    """Bytes that are there already."""


class WantedAnswer(Body, frozen=True, kw_only=True):
    """The missing ones, in the order asked."""

    missing: tuple[Missing, ...]


class Refusal(Body, frozen=True, kw_only=True):
    """`err` of an error."""

    group: int
    rc: int
    """The exit code of edgecl/errors.py."""


class Failure(Body, frozen=True, kw_only=True):
    """The answer instead of that to a request: edgecl's own, after a hello."""

    err: Refusal
    edgecl: str
    """what, where and the cure, in one line"""
    kind: str
    """Class of edgecl/errors.py."""


class PlainFailure(Body, frozen=True, kw_only=True):
    """The same to a client that has not said hello, and where a request could not be understood."""

    rc: int
    """Of edgecl/smp.py."""
    rsn: str
