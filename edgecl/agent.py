"""Answers one host on a stream of bytes, until the stream ends. It opens no port, and keeps nothing but files.

Whoever can start `edgecl agent` on the board, or write on the serial line where it runs, may ask what
`edgecl/handlers/table.py` lists: the stream, SSH's or a cable, is what keeps others out.
"""

import contextlib
import sys
import traceback
from collections.abc import Mapping
from typing import Final

from edgecl import channel, smp
from edgecl.board import Board
from edgecl.channel import PIPE, Channel
from edgecl.errors import BundleError, EdgeclError, RequestError
from edgecl.handlers.table import HANDLERS, Handler
from edgecl.line import Line
from edgecl.messages import CONSOLE_BYTES, EDGECL, Code, Failure, PlainFailure, Refusal
from edgecl.smp import MalformedError, Message
from edgecl.streams import ByteStream

CODES: Final = {RequestError: smp.NOT_FOUND, BundleError: smp.CORRUPT}
"""What errors are to clients that only know SMP."""


def serve(
    stream: ByteStream,
    board: Board,
    *,
    line: Line | None = None,
    handlers: Mapping[Code, Handler] = HANDLERS,
    stall_s: float = channel.STALL_S,
    alive_s: float = channel.ALIVE_EVERY_S,
) -> None:
    """Answer requests until the stream ends. `line` is the terminal that the stream is on, where it is on one."""

    def revert() -> None:
        board.greeted = False
        board.release()
        if line:
            line.revert()
            ends.pace = line.pace

    ends = Channel(stream, line.pace if line else PIPE, serves=True, stall_s=stall_s, lost=revert)
    if line:
        board.change_baud = line.ask
    repeated: tuple[bytes, bytes] | None = None
    with contextlib.suppress(EOFError), ends.kept_alive(alive_s) as busy:
        while True:
            try:
                request = ends.receive(line.silence_s if line else None, idle=True)
            except TimeoutError:
                if not line:
                    return  # the host takes nothing any more
                revert()
                continue
            if line:
                line.heard()
            board.console = ends.framing == "console"
            if board.console and repeated and repeated[0] == request:
                ends.send(repeated[1])  # over a console, it is the host that repeats what may have been lost
                continue
            busy(True)
            answer = respond(board, request, handlers)
            busy(False)
            writes = len(request) > 0 and request[0] & 7 == smp.WRITE
            repeated = (request, answer) if board.console and writes else None
            with contextlib.suppress(TimeoutError):  # whoever asked has gone; on a line another may come
                ends.send(answer)
            if line:
                line.answered()
                ends.pace = line.pace


def respond(board: Board, request: bytes, handlers: Mapping[Code, Handler] = HANDLERS) -> bytes:
    """The message that answers one. What is no request at all is answered too, as far as it has a header."""
    try:
        asked = smp.decode(request)
    except MalformedError as error:
        asked = Message(smp.READ, 0, 0, 0)
        return _plain(asked, smp.INVALID, str(error))
    found = handlers.get((asked.operation, asked.group, asked.command))
    if not found:
        return _plain(asked, smp.UNSUPPORTED, f"group {asked.group} command {asked.command}: not known to this agent")
    kind, function = found
    try:
        answer = smp.pack(function(board, smp.unpack(asked.body, kind)))
    except MalformedError as error:
        return _plain(asked, smp.INVALID, str(error))
    except EdgeclError as error:
        return _failed(board, asked, type(error).__name__, error.exit_code, str(error), CODES.get(type(error)))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)  # of the agent, which goes on
        message = f"{type(error).__name__}: {error}; this is a bug in edgecl"
        return _failed(board, asked, "EdgeclError", EdgeclError.exit_code, message, None)
    if len(answer) > (CONSOLE_BYTES * 4 if board.console else smp.MAX_BODY_BYTES):
        return _plain(asked, smp.TOO_LARGE, f"an answer of {len(answer)} bytes does not fit; ask for less")
    return asked.answer(answer).encode()


def _failed(board: Board, asked: Message, kind: str, exit_code: int, message: str, code: int | None) -> bytes:
    if not board.greeted:
        return _plain(asked, code or smp.UNKNOWN, message)
    failure = Failure(err=Refusal(group=EDGECL, rc=exit_code), edgecl=message[:4000], kind=kind)
    return asked.answer(smp.pack(failure)).encode()


def _plain(asked: Message, code: int, reason: str) -> bytes:
    return asked.answer(smp.pack(PlainFailure(rc=code, rsn=reason[:400]))).encode()
