"""`edgecl agent`: answers a host on stdin and stdout. Hosts start it, over SSH for one; nobody types it."""

import os
import signal
from pathlib import Path

import click

from edgecl import agent as agents
from edgecl import line as lines
from edgecl.board import Board
from edgecl.channel import STALL_S
from edgecl.streams import FdStream


@click.command()
@click.option("--store", type=click.Path(path_type=Path), help="State directory of the board.")
def agent(store: Path | None) -> None:
    """Answer a host on stdin and stdout, until it goes."""
    store = store or default_store()
    output = os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints beside the messages
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that a terminal is left as it was found
    line = lines.opened(0)
    stream = FdStream(0, output, stall_s=STALL_S)
    try:
        agents.serve(stream, Board(store.absolute()), line=line)
    finally:
        stream.close()
        if line:
            line.close()


def default_store() -> Path:
    """Where `edgecl provision` puts it: the service's, or else the user's own."""
    service = Path("/var/lib/edgecl")
    if os.access(service, os.W_OK):
        return service
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "edgecl" / "state"
