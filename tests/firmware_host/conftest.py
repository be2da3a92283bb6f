"""Hosts without anything of this user's."""

from pathlib import Path

import pytest

from tests.edgecl import stores
from tests.firmware_host.hosts import Host


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


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Of a board in development mode."""
    return stores.made(tmp_path / "store")
