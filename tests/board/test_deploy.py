"""`edgecl deploy` and `edgecl pull` to an emulated 64-bit Arm board, over the system's ssh and the board's own sshd."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgecl.bundle import open_bundle, write
from edgecl.errors import EXIT_REFUSED
from edgecl.journal import Update
from export import project as projects
from export.build import build
from tests.board import compare, machine, remote
from tests.export import projects as small

pytestmark = pytest.mark.usefixtures("board")

PLAIN = (("canaries = 9", "canaries = 0"), ('memory = "200 MB"', 'memory = "0 MB"'))
"""Answers of the untrained network are no measure; and the memory there is the emulator's too."""
SECOND = (*PLAIN, ('name = "small"', 'name = "small"\nversion = 2'))

END = "if [ -f serve.pid ]; then kill $(cat serve.pid); tail --pid $(cat serve.pid) -f /dev/null; rm serve.pid; fi"
"""Ends the service, and waits until what it learned is written."""

PROBATION = ("--probation", "5s")
UPDATES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a bundle, and a stream for six updates of four."""
    made = tmp_path_factory.mktemp("deploy")
    for number, changes in ((1, PLAIN), (2, SECOND)):
        project = small.write(made / f"project{number}", *small.named("tent", *changes))
        build(projects.read(project), made / f"{number}.ecl").bundle.close()
    images = np.random.default_rng(6).integers(0, 256, (4 * UPDATES, 8, 8, 3)).astype(np.uint8)
    np.savez(made / "stream.npz", x=images)
    return made


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[None]:
    """The learning process on an empty store, as a service manager would start it."""
    store = remote.STORE
    remote.ssh(END)  # one that an interrupted test has left
    remote.ssh(f"mkdir -p {store}; find {store} -mindepth 1 -maxdepth 1 ! -name trust.d -exec rm -rf {{}} +")
    remote.put(folder / "stream.npz", "stream.npz")
    remote.ssh(f"echo 'source = \"npz:/home/{machine.USER}/stream.npz\"' >{store}/service.toml")
    remote.ssh(f"setsid {remote.VENV}/edgecl serve --store {store} </dev/null >serve.log 2>&1 & echo $! >serve.pid")
    yield
    remote.ssh(END)


def status() -> dict[str, Any]:
    """What `edgecl status` tells of the service."""
    found: dict[str, Any] = json.loads(remote.here("status", machine.HOST, "--json"))["service"]
    return found


def learned_all() -> dict[str, Any]:
    """The same, once it has learned from all of the stream. Asking takes seconds, so there is no wait."""
    for _ in range(60):
        found = status()
        if found["ended"] and found["step"] == UPDATES:
            return found
    raise AssertionError(found)


def test_a_bundle_is_deployed_learns_is_pulled_and_followed(service: None, folder: Path, tmp_path: Path) -> None:
    """One story, as each command takes seconds there."""
    first, second = folder / "1.ecl", folder / "2.ecl"
    remote.here("deploy", first, machine.HOST, *PROBATION)
    assert learned_all()["version"] == 1

    remote.here("snapshot", machine.HOST)
    remote.here("pull", machine.HOST, "--into", tmp_path, "--cut", "--learned")
    remote.here("run", first, "--source", f"npz:{folder / 'stream.npz'}", "--state", tmp_path / "here")
    with open_bundle(first) as bundle:
        there, here = tmp_path / machine.HOST, tmp_path / "here"
        assert updates(there) == updates(here)
        assert compare.apart(bundle, here / "learned" / "small", there / "learned" / "small" / bundle.id) < 1e-3
    remote.edgecl("verify", f"{remote.STORE}/current")

    remote.here("deploy", second, machine.HOST, *PROBATION)
    found = status()
    assert (found["version"], found["step"]) == (2, UPDATES)  # what was learned has been carried over
    with open_bundle(second) as bundle:
        requires = msgspec.structs.replace(bundle.manifest.requires, arch=("x86_64",))
        files = {file.path: (bundle.directory / file.path).read_bytes() for file in bundle.manifest.files}
        changed = msgspec.structs.replace(bundle.manifest, requires=requires, version=3)
        write(changed, files, tmp_path / "other.ecl").close()
    remote.here("deploy", tmp_path / "other.ecl", machine.HOST, expect=EXIT_REFUSED)
    assert status()["version"] == 2

    history = [json.loads(line) for line in remote.here("history", machine.HOST, "--json").splitlines()]
    assert [one["outcome"] for one in history] == ["committed", "committed", "refused"]
    assert "aarch64" in history[-1]["reason"]


def updates(state: Path) -> list[tuple[object, ...]]:
    """What was decided about each, by a journal."""
    return [compare.decision(record) for record in compare.records(state) if isinstance(record, Update)]
