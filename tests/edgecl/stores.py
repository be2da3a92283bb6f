"""Stores as boards have them: bundles put into objects, deployments begun, services that run."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from edgecl import control, deployments, trust
from edgecl.boot import boot_id
from edgecl.bundle import open_bundle
from edgecl.deployments import Deployment
from edgecl.manifest import MANIFEST
from edgecl.objects import Objects
from edgecl.requests import Status, TellStatus

T = TypeVar("T")


def made(directory: Path) -> Path:
    """An empty store in development mode."""
    directory.mkdir()
    trust.set_development(directory / "trust.d", True)
    return directory


def put(store: Path, path: Path) -> str:
    """The files of a bundle become objects; its id."""
    objects = Objects(store)
    with open_bundle(path) as bundle:
        objects.add(bundle.id, [(bundle.directory / MANIFEST).read_bytes()])
        for file in bundle.manifest.files:
            objects.add(file.sha256, [(bundle.directory / file.path).read_bytes()])
        return bundle.id


def begun(store: Path, path: Path, **changes: Any) -> Deployment:
    """A deployment that has received all its files."""
    identity = put(store, path)
    with open_bundle(path) as bundle, deployments.changing(store) as change:
        manifest, known = bundle.manifest, change.control.deployments
        link = store / "current"
        deployment = Deployment(
            number=known[-1].number + 1 if known else 1,
            bundle=identity,
            signature="",
            name=manifest.name,
            lineage=manifest.lineage,
            version=manifest.version,
            previous=os.readlink(link)[-64:] if link.is_symlink() else "",
            by="test@here",
            learned=manifest.learned,
            latency_ms=0.0,
            probation_s=0.0,
            boot=boot_id(),
            begun_ns=time.monotonic_ns(),
            deadline_s=3600.0,
            state="VERIFY",
        )
        deployment = msgspec.structs.replace(deployment, **changes)
        change.write(change.control.put(deployment))
    return deployment


def states(deployment: Deployment) -> list[str]:
    """The states that it entered."""
    return [entered.state for entered in deployment.trace]


def noise(count: int, seed: int = 5) -> Any:
    """Images that the looped bundle takes."""
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


@contextlib.contextmanager
def serving(store: Path, source: str, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A service that runs on a store, until the block ends."""
    lines = [
        f'source = "{source}"',
        *(f"{name} = {_toml(value)}" for name, value in settings.items()),
    ]
    (store / "service.toml").write_text("\n".join(lines) + "\n")
    with (store / "service.err").open("ab") as errors:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgecl", "serve", "--store", str(store)],
            stdin=subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(one)}' for name, one in value.items())} }}"
    return msgspec.json.encode(value).decode()


def status(store: Path) -> Status | None:
    """Of the service that runs there."""
    with control.asking(store) as ask:
        found: Status | None = ask(TellStatus(), Status) if ask else None
    return found


def until(look: Callable[[], T], good: Callable[[T], bool]) -> T:
    """Look again and again, until it is good; a test that waits in vain is ended by the limit of the whole run."""
    while not good(found := look()):
        time.sleep(0.05)
    return found
