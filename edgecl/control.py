"""The socket of a running loop: whoever may write its state directory may ask it for what `edgecl/operations.py` does.

`STATE/socket` is a Unix stream socket that only its user can open. A request is one line of JSON, one of
`edgecl/requests.py` by its `do`; the answer is one line, `{"done": ...}`, or `{"refused": message, "code": exit code}`.
A connection may ask again.

Without a loop running, a request of LEARNED is done on the state directory itself: `opened` gives whichever there is.
Those of SERVICE are for `edgecl serve` alone (`edgecl/service.py`).
"""

import contextlib
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from edgecl.errors import EdgeclError, RequestError, StoreError
from edgecl.labels import Labelled
from edgecl.loop import Loop
from edgecl.operations import ClassFacts, DomainFacts, Operations
from edgecl.requests import (
    REQUESTS,
    AddClass,
    DropDomain,
    ExportDomain,
    Label,
    ListClasses,
    ListDomains,
    MergeDomains,
    RenameDomain,
    Request,
    Status,
)
from edgecl.settings import Settings
from edgecl.store import Store

SOCKET: Final = "socket"
MAX_LINE_BYTES: Final = 1 << 24
"""Of a request; more labels than that come in several."""


Facts = tuple[DomainFacts, ...] | tuple[ClassFacts, ...] | Labelled | Status | int | None


def perform(operations: Operations, request: Request) -> Facts:
    """Do what is asked for. Raises EdgeclError."""
    match request:
        case ListDomains():
            return operations.domains()
        case ListClasses():
            return operations.classes()
        case AddClass(name=name):
            return operations.add_class(name)
        case Label(labels=labels):
            return operations.label(labels)
        case RenameDomain(name=name, to=to):
            operations.rename(name, to)
        case MergeDomains(name=name, other=other):
            operations.merge(name, other)
        case DropDomain(name=name):
            operations.drop(name)
        case ExportDomain(name=name, file=file):
            operations.export(name, Path(file))
        case _:
            raise RequestError("no service runs here, only a loop; start edgecl serve")
    return None


class _Reply(msgspec.Struct, omit_defaults=True):
    done: msgspec.Raw = msgspec.Raw()
    refused: str | None = None
    code: int = 0
    ended: bool = False
    """Nobody answers here any more, so nothing was refused."""


Perform = Callable[[Request], Facts]
"""Does a request. Raises EdgeclError."""

Ask = Callable[[Request, Any], Any]
"""Does a request, and gives its answer as the type named. Raises EdgeclError."""


@contextmanager
def opened(directory: Path, *, budget_bytes: int | None = None) -> Iterator[Ask]:
    """Who answers for a state directory: the loop that runs there, or else one opened for this, with a budget.

    Raises StoreError: there is no state directory, or another process has it that cannot be asked. BundleError,
    ProgramError, JournalError, LinkError as opening a loop does.
    """
    with asking(directory) as ask:
        if ask:
            yield ask
            return
    bundle, learned = _bundle(directory)
    with Loop(bundle, directory, Settings(sync=True, budget_bytes=budget_bytes), source=None, learned=learned) as loop:
        yield lambda request, kind: perform(loop.operations, request)


def served(operations: Operations, directory: Path) -> contextlib.AbstractContextManager[None]:
    """Answer requests to a loop in threads of their own while the block runs. Raises StoreError."""
    return answering(partial(perform, operations), directory)


@contextmanager
def answering(perform: Perform, directory: Path) -> Iterator[None]:
    """Answer requests by a function, in threads of their own, while the block runs. Raises StoreError."""
    with contextlib.ExitStack() as stack:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        path = f"/proc/self/fd/{folder}/{SOCKET}"  # the name of a socket has 107 bytes at most
        try:
            _unlink(path)  # of a process that was killed: this one owns the directory
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(path)
            listener.listen()
        except OSError as error:
            raise StoreError(f"{directory / SOCKET}: {error.strerror}; give another --state") from None
        stack.callback(_unlink, path)
        closing, busy = threading.Event(), threading.Lock()
        thread = threading.Thread(target=_accept, args=(listener, perform, closing, busy), daemon=True)
        thread.start()
        try:
            yield
        finally:
            with busy:  # what is being done is done before the loop closes
                closing.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes up accept
            thread.join()


@contextmanager
def asking(directory: Path) -> Iterator[Ask | None]:
    """Who answers for the loop or service that runs there; None where none does. Raises StoreError."""
    connection = _connected(directory)
    if not connection:
        yield None
        return
    with connection, connection.makefile("rwb") as stream:
        yield lambda request, kind: _ask(stream, request, kind)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _accept(listener: socket.socket, perform: Perform, closing: threading.Event, busy: threading.Lock) -> None:
    while not closing.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection, perform, closing, busy), daemon=True).start()


def _answer(connection: socket.socket, perform: Perform, closing: threading.Event, busy: threading.Lock) -> None:
    with connection, contextlib.suppress(OSError), connection.makefile("rwb") as stream:
        while line := stream.readline(MAX_LINE_BYTES):
            with busy:
                over = _Reply(refused="the loop has ended; ask again", code=1, ended=True)
                reply = over if closing.is_set() else _reply(perform, line)
            stream.write(msgspec.json.encode(reply) + b"\n")
            stream.flush()


def _reply(perform: Perform, line: bytes) -> _Reply:
    try:
        request = msgspec.json.decode(line, type=REQUESTS)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _Reply(refused=f"not a request: {error}; see docs/formats/control.md", code=1)
    try:
        return _Reply(done=msgspec.Raw(msgspec.json.encode(perform(request))))
    except EdgeclError as error:
        return _Reply(refused=str(error), code=error.exit_code)
    except Exception as error:
        traceback.print_exc()  # of the loop, which goes on
        return _Reply(refused=f"{type(error).__name__}: {error}; this is a bug in edgecl", code=1)


def _ask(stream: Any, request: Request, kind: Any) -> Any:
    try:
        stream.write(msgspec.json.encode(request) + b"\n")
        stream.flush()
        line = stream.readline()
    except OSError as error:
        raise StoreError(f"the loop has gone: {error.strerror}; ask again") from None
    if not line:
        raise StoreError("the loop has gone before it answered; ask again")
    reply = msgspec.json.decode(line, type=_Reply)
    if reply.ended:
        raise StoreError(reply.refused or "")
    if reply.refused is not None:
        refused = EdgeclError(reply.refused)
        refused.exit_code = reply.code
        raise refused
    return msgspec.json.decode(reply.done, type=kind)


def _connected(directory: Path) -> socket.socket | None:
    """To the loop that runs there; None where there is none."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreError(f"{directory}: {error.strerror}; give the state directory of a run") from None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
        return connection
    except OSError:
        connection.close()
        return None
    finally:
        os.close(folder)


def _bundle(directory: Path) -> tuple[Path, Path | None]:
    """The bundle that a state directory was used with last, and where that keeps what it learned, if in its own place.

    Raises StoreError.
    """
    store = Store(directory)
    if store.current:
        lineage = store.manifest(store.current).lineage
        return store.place(store.current), store.learned(lineage, store.current)
    cached = directory / "cache"
    found = sorted(path for path in cached.iterdir() if not path.name.startswith(".")) if cached.is_dir() else []
    if len(found) != 1:
        raise StoreError(f"{directory}: no run has been here; give the --state of a run")
    return found[0], None
