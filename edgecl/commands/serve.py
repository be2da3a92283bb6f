"""`edgecl serve`: answer with the bundle that is deployed to a store, and learn, until told to end.

Exit codes: 0 after SIGTERM or Ctrl-C: what was learned is written. 1 where the store cannot be used.
"""

import contextlib
import logging
import logging.handlers
import time
from pathlib import Path
from typing import Final

import click

from edgecl import control, deployer_start
from edgecl.commands.interrupt import Interrupt
from edgecl.commands.printer import Printer
from edgecl.errors import EdgeclError, StoreError
from edgecl.notify import Notifier
from edgecl.service import Service

LOG: Final = "log/edgecl.log"
LOG_BYTES: Final = 1 << 20
"""Of the log; one older part of it is kept."""

LOOK_S: Final = 2.0
"""Between two looks for a deployment that nobody carries on."""


@click.command()
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Directory of the store.")
@click.option("--json", "as_json", is_flag=True, help="Print every record as a line of JSON.")
def serve(store: Path, as_json: bool) -> int:
    """Answer with the bundle that is deployed to a store.

    STORE/service.toml names the source of samples. Bundles come by `edgecl deploy`, and each follows the one before
    without a restart.
    """
    log = _log(store)
    printer = Printer(as_json=as_json, also=log.info)
    notifier = Notifier()
    service = Service(store, say=printer.say, on_record=printer.note)
    reason = "ended"
    try:
        with Interrupt() as interrupt, control.answering(service.perform, store):
            notifier.ready()
            looked_s = 0.0
            for item in interrupt.until(service.items()):
                if item is not None:
                    service.take(item)
                notifier.alive()
                if time.monotonic() - looked_s > LOOK_S:
                    looked_s = time.monotonic()
                    with contextlib.suppress(StoreError):  # whoever asks for the history is told
                        deployer_start.begin(store)
                    notifier.status(_line(service))
            reason = interrupt.caught or reason
            notifier.stopping()
    except EdgeclError as error:
        log.error("%s", error)
        raise
    finally:
        service.close(reason)
    return 0


def _line(service: Service) -> str:
    now = service.status()
    if not now.bundle:
        return "no bundle is deployed"
    return f"{now.name} version {now.version}: {now.samples} samples, step {now.step}, {now.domain}"


def _log(store: Path) -> logging.Logger:
    """What is said also goes to a file, which `edgecl logs` reads; it never becomes large."""
    path = store / LOG
    try:
        path.parent.mkdir(mode=0o750, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give the directory of a store") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("edgecl.serve")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    return log
