"""Requests about the connection itself: echo, limits, hello."""

from edgecl import __version__, disk
from edgecl.board import Board
from edgecl.errors import RequestError, StoreError
from edgecl.messages import (
    CONSOLE_BYTES,
    DATA_BYTES,
    MAX_OBJECT_BYTES,
    PROTOCOL,
    EchoAnswer,
    EchoRequest,
    HelloAnswer,
    HelloRequest,
    Nothing,
    ParametersAnswer,
)

CAPABILITIES = ("objects", "files")
"""What this agent can beyond hello; a later one may add to it without a new protocol."""


def echo(board: Board, request: EchoRequest) -> EchoAnswer:
    """Say it again."""
    return EchoAnswer(r=request.d)


def parameters(board: Board, request: Nothing) -> ParametersAnswer:
    """The largest message over a console. One at a time."""
    board.greeted = False  # other clients than edgecl's begin with this
    return ParametersAnswer(buf_size=CONSOLE_BYTES, buf_count=1)


def hello(board: Board, request: HelloRequest) -> HelloAnswer:
    """Who this is. Raises RequestError: the host speaks no protocol that this one does. StoreError."""
    board.greeted = True
    if request.protocol < PROTOCOL:
        raise RequestError(
            f"this board speaks protocol {PROTOCOL}, the host {request.protocol} (edgecl {request.edgecl}); "
            f"install edgecl {__version__} on the host"
        )
    try:
        board.store.mkdir(parents=True, exist_ok=True)
        free = disk.free_bytes(board.store)
    except OSError as error:
        raise StoreError(f"{board.store}: {error.strerror}; give the agent another --store") from None
    return HelloAnswer(
        protocol=PROTOCOL,
        oldest=PROTOCOL,
        edgecl=__version__,
        capabilities=CAPABILITIES,
        store=str(board.store),
        data_bytes=DATA_BYTES,
        object_bytes=MAX_OBJECT_BYTES,
        free_bytes=free,
        baud=board.change_baud(request.baud) if request.baud else None,
    )
