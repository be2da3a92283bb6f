"""Processes that are forked from one that has loaded everything: a deployer, or a service, starts in no time."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgecl import control, deployments
from edgecl.bundle import open_bundle
from edgecl.checkpoints import Checkpoints, Resumed
from edgecl.commands.interrupt import Interrupt
from edgecl.service import Service
from edgecl.store import Store
from tests.edgecl import stores


def forked(work: Callable[[], object]) -> int:
    """The id of a child that does some work."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    return child


def ended(child: int) -> int:
    """How a child has ended: its exit code, or a signal, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    """There is no process any more, from here on."""
    os.kill(os.getpid(), signal.SIGKILL)


def copied(store: Path, to: Path) -> Path:
    """A store with all its hard links."""
    subprocess.run(["cp", "-a", store, to], check=True)
    return to


class Running:
    """A service that runs on a store, as `edgecl serve` does but for the deployers that it starts."""

    def __init__(self, store: Path, *, changed: Callable[[Service], object] = lambda service: None) -> None:
        """`changed` is called with the service, in its process, before it begins."""
        self.store = store
        if not (store / "service.toml").exists():
            (store / "service.toml").write_text('source = "stdin"\nkeep = "32 kB"\n')
        self._end, self._input = os.pipe()
        self.process = forked(lambda: self._serve(changed))
        os.close(self._end)

    def feed(self, images: Any) -> None:
        """Give it samples."""
        data = memoryview(images.tobytes())
        while data:
            data = data[os.write(self._input, data) :]

    def close(self, number: int = signal.SIGTERM) -> int:
        """End it; how it ended."""
        os.close(self._input)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)
        return ended(self.process)

    def _serve(self, changed: Callable[[Service], object]) -> None:
        os.close(self._input)
        os.dup2(self._end, 0)
        service = Service(self.store, say=lambda line: None)
        changed(service)
        try:
            with Interrupt() as interrupt, control.answering(service.perform, self.store):
                for item in interrupt.until(service.items()):
                    if item is not None:
                        service.take(item)
        finally:
            service.close("ended")


@contextlib.contextmanager
def running(store: Path, **how: Any) -> Iterator[Running]:
    """A service that has opened its bundle, until the block ends."""
    service = Running(store, **how)
    try:
        stores.until(lambda: stores.status(store), lambda now: now is not None and bool(now.bundle))
        yield service
    finally:
        service.close()


def learned(store: Path, identity: str) -> Resumed:
    """What a bundle has learned, by its newest checkpoint, which must be whole."""
    held = Store(store)
    manifest = held.manifest(identity)
    found = Checkpoints(held.learned(manifest.lineage, identity)).newest(*manifest.layouts.values())
    assert found and not found.passed_over, found
    return found


def prepared(store: Path, first: Path, second: Path, samples: int = 40, **changes: Any) -> deployments.Deployment:
    """A store whose first bundle has learned a little, and where the second has been received."""
    from edgecl import deployer

    def begin() -> None:
        stores.made(store)
        stores.begun(store, first)
        deployer.carry_on(store)
        with running(store) as service:
            service.feed(stores.noise(samples))
            stores.until(lambda: stores.status(store), lambda now: now is not None and now.samples == samples)

    assert ended(forked(begin)) == 0
    changes = {"probation_s": 0.1} | changes
    return stores.begun(store, second, **changes)


def version_two(make_bundle: Callable[..., Path], path: Path, **changes: Any) -> Path:
    """The looped bundle's next version."""
    return make_bundle(path, version=2, **changes)


def identity(path: Path) -> str:
    """Of a bundle."""
    with open_bundle(path) as bundle:
        return bundle.id


def removed(path: Path) -> None:
    """A directory that is needed no more."""
    shutil.rmtree(path, ignore_errors=True)
