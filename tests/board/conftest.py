"""The board, running and with edgecl installed, for as long as the tests of this folder take."""

import os
from collections.abc import Iterator

import pytest

from tests.board import machine, remote


@pytest.fixture(scope="session")
def board() -> Iterator[None]:
    """Whoever had it running keeps it running."""
    if os.environ.get("EDGECL_BOARD") != "1":
        pytest.skip("emulates a board, which takes minutes; make test-board")
    was_running = machine.running()
    machine.build()
    machine.start()
    try:
        remote.install()
        yield
    finally:
        if not was_running:
            machine.stop()
