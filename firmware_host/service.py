"""Asking the service of a board, through its agent: the requests of docs/formats/control.md."""

from typing import Any

import msgspec

from edgecl.errors import EdgeclError
from edgecl.orders import ASK, AskAnswer, AskRequest
from edgecl.requests import Request
from firmware_host.client import Client


class _Reply(msgspec.Struct):
    done: msgspec.Raw = msgspec.Raw()
    refused: str | None = None
    code: int = 1


def ask(client: Client, request: Request, kind: Any) -> Any:
    """What the service answers, as the type named. Raises EdgeclError: it refuses. RequestError: none runs there."""
    line = client.request(ASK, AskRequest(line=msgspec.json.encode(request)), AskAnswer).line
    try:
        reply = msgspec.json.decode(line, type=_Reply)
        if reply.refused is None:
            return msgspec.json.decode(reply.done, type=kind)
    except msgspec.DecodeError as error:
        raise EdgeclError(f"{client.link.address}: its service answers what is not understood: {error}") from None
    refused = EdgeclError(reply.refused)
    refused.exit_code = reply.code
    raise refused
