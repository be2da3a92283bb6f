"""A store on this machine, and the server that reaches it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.firmware_host import sshd


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A real sshd on loopback."""
    with sshd.running(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A state directory of a board."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder
