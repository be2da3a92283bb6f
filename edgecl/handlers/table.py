"""Every request that the agent answers: operation, group and command -> what it says, and who answers it."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from edgecl import messages, orders
from edgecl.board import Board
from edgecl.handlers import basic, files

Handler = tuple[type[msgspec.Struct], Callable[[Board, Any], msgspec.Struct]]
"""The struct that the request is, and a function of the board and it, which may raise any EdgeclError."""


def _late(module: str, function: str) -> Callable[[Board, Any], msgspec.Struct]:
    """A function of a module that is imported when it is asked for: each connection starts an agent."""

    def handler(board: Board, request: Any) -> msgspec.Struct:
        found: Callable[[Board, Any], msgspec.Struct] = getattr(importlib.import_module(module), function)
        return found(board, request)

    return handler


_DEPLOYING: Final = "edgecl.handlers.deploying"
_PULLING: Final = "edgecl.handlers.pulling"

HANDLERS: Final[Mapping[messages.Code, Handler]] = {
    messages.ECHO: (messages.EchoRequest, basic.echo),
    messages.ECHO_READ: (messages.EchoRequest, basic.echo),
    messages.PARAMETERS: (messages.Nothing, basic.parameters),
    messages.UPLOAD: (messages.UploadRequest, files.upload),
    messages.DOWNLOAD: (messages.DownloadRequest, files.download),
    messages.STATUS: (messages.StatusRequest, files.status),
    messages.HASH: (messages.HashRequest, files.hashed),
    messages.HASHES: (messages.Nothing, files.hashes),
    messages.HELLO: (messages.HelloRequest, basic.hello),
    messages.FACTS: (messages.Nothing, _late("edgecl.handlers.facts", "facts")),
    messages.WANTED: (messages.WantedRequest, files.wanted),
    orders.BEGIN: (orders.BeginRequest, _late(_DEPLOYING, "begin")),
    orders.DEPLOYMENT: (orders.NumberRequest, _late(_DEPLOYING, "follow")),
    orders.RECEIVED: (orders.NumberRequest, _late(_DEPLOYING, "received")),
    orders.HISTORY: (orders.HistoryRequest, _late(_DEPLOYING, "history")),
    orders.CANCEL: (orders.CancelRequest, _late(_DEPLOYING, "cancel")),
    orders.BACK: (orders.BackRequest, _late(_DEPLOYING, "back")),
    orders.APPLY: (orders.ApplyRequest, _late(_DEPLOYING, "apply")),
    orders.ASK: (orders.AskRequest, _late(_PULLING, "ask")),
    orders.LIST: (orders.ListRequest, _late(_PULLING, "listing")),
    orders.ACKNOWLEDGE: (orders.AcknowledgeRequest, _late(_PULLING, "acknowledge")),
    orders.LOG: (orders.LogRequest, _late(_PULLING, "log")),
}
