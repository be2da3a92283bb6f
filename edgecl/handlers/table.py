"""Every request that the agent answers: operation, group and command -> what it says, and who answers it."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from edgecl import messages, orders
from edgecl.board import Board
from edgecl.handlers import basic, deploying, facts, files, pulling

Handler = tuple[type[msgspec.Struct], Callable[[Board, Any], msgspec.Struct]]
"""The struct that the request is, and a function of the board and it, which may raise any EdgeclError."""

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
    messages.FACTS: (messages.Nothing, facts.facts),
    messages.WANTED: (messages.WantedRequest, files.wanted),
    orders.BEGIN: (orders.BeginRequest, deploying.begin),
    orders.DEPLOYMENT: (orders.NumberRequest, deploying.follow),
    orders.RECEIVED: (orders.NumberRequest, deploying.received),
    orders.HISTORY: (orders.HistoryRequest, deploying.history),
    orders.CANCEL: (orders.CancelRequest, deploying.cancel),
    orders.BACK: (orders.BackRequest, deploying.back),
    orders.APPLY: (orders.ApplyRequest, deploying.apply),
    orders.ASK: (orders.AskRequest, pulling.ask),
    orders.LIST: (orders.ListRequest, pulling.listing),
    orders.ACKNOWLEDGE: (orders.AcknowledgeRequest, pulling.acknowledge),
    orders.LOG: (orders.LogRequest, pulling.log),
}
