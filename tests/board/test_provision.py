"""`edgecl provision` as users of a board meet it: once more, without root where it is wanted, and with root."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from edgecl.facts import Facts
from tests.board import machine, remote

pytestmark = pytest.mark.usefixtures("board")

ROOT = f"root@{machine.HOST}"

REMOVE = (
    "rm -rf /opt/edgecl /var/lib/edgecl /usr/local/bin/edgecl /etc/systemd/system/edgecl.service "
    "/root/.cache/edgecl; if getent passwd edgecl; then userdel edgecl; fi"
)
"""So that the agent of the user's own is found again."""


def as_root(command: str) -> str:
    return remote.ssh(command, user="root")


def steps(out: str) -> dict[str, dict[str, Any]]:
    return {step["step"]: step for step in map(json.loads, out.splitlines())}


def test_a_board_that_has_it_is_left_as_it_is() -> None:
    found = steps(remote.provision(machine.HOST, "--user-only", "--development", "--json"))
    assert not [name for name, step in found.items() if step["changed"]]
    assert found["service"]["remark"].startswith("there is no systemd to start it; run /home/pi/.local/share/edgecl/")
    facts = msgspec.json.decode(remote.here("probe", machine.HOST, "--json"), type=Facts)
    assert (facts.arch, facts.user, facts.development, facts.systemd) == ("aarch64", machine.USER, True, False)


def test_a_user_who_may_not_become_root_is_told_what_to_do() -> None:
    with pytest.raises(remote.BoardError, match="pi may not become root there without a password; give --user-only"):
        remote.provision(machine.HOST)


@pytest.fixture
def system() -> Iterator[dict[str, dict[str, Any]]]:
    """Installed for the whole system, and what became of each step."""
    as_root(REMOVE)
    try:
        yield steps(remote.provision(ROOT, "--development", "--json"))
    finally:
        as_root(REMOVE)


def test_with_root_it_runs_as_a_user_of_its_own(system: dict[str, dict[str, Any]]) -> None:
    assert "; run runuser -u edgecl -- /opt/edgecl/venv/bin/edgecl serve" in system["service"]["remark"]
    changed = [name for name, step in system.items() if step["changed"]]
    assert changed == ["wheels", "user", "folders", "environment", "command", "trust", "unit"]
    assert as_root("stat -c '%U %a' /opt/edgecl/venv/bin/python /var/lib/edgecl").splitlines() == [
        "root 777",
        "edgecl 750",
    ]
    facts = msgspec.json.decode(remote.here("probe", ROOT, "--json"), type=Facts)
    assert (facts.user, facts.disk.path, facts.development) == ("edgecl", "/var/lib/edgecl", True)
    again = steps(remote.provision(ROOT, "--development", "--json"))
    assert not [name for name, step in again.items() if step["changed"]]
