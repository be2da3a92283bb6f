"""A host without anything of this user's, a store on this machine, and the server that reaches it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edgecl import stores
from tests.firmware_host import reported, sshd
from tests.firmware_host.hosts import Host


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    """A real sshd on loopback."""
    with sshd.running(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A state directory of a board in development mode."""
    return stores.made(tmp_path / "store")


@pytest.fixture
def host(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A user in an empty folder."""
    folder = tmp_path / "host"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.delenv("EDGECL_FLEET", raising=False)
    return Host(capsys)


@pytest.fixture(scope="session")
def boards(looped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host store of two boards that really ran, one of them without labels, and a hostile one."""
    root = tmp_path_factory.mktemp("boards")
    reported.lived(looped, root, "cam-1", seed=1, labelled=0.6)
    reported.lived(looped, root, "cam-2", seed=2, labelled=0)
    reported.hostile(root)
    return root
