"""Neither the service nor the agent has anything to do with a network: every socket of theirs is a Unix one."""

import os
import subprocess
import sys
from pathlib import Path

from edgecl import deployer
from tests.edgecl import stores

TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet")


def internet(process: int) -> set[str]:
    """Sockets of a process that are in any table of the network."""
    known = set()
    for table in TABLES:
        path = Path(f"/proc/{process}/net/{table}")
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        known |= {line.split()[8 if table == "packet" else 9] for line in lines}
    links = [os.readlink(file) for file in Path(f"/proc/{process}/fd").iterdir() if file.is_symlink()]
    return {link for link in links if link.startswith("socket:[") and link[8:-1] in known}


def test_the_service_has_no_network(looped: Path, tmp_path: Path) -> None:
    store = stores.made(tmp_path / "store")
    stores.begun(store, looped)
    deployer.carry_on(store)
    with stores.serving(store, "stdin") as service:
        stores.until(lambda: stores.status(store), lambda now: now is not None and bool(now.bundle))
        assert internet(service.pid) == set()


def test_the_agent_has_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "edgecl", "agent", "--store", str(stores.made(tmp_path / "store"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdin
        stores.until(lambda: os.readlink(f"/proc/{agent.pid}/fd/2") if agent.poll() is None else "", bool)
        assert internet(agent.pid) == set()
        agent.stdin.close()


def test_the_tables_are_read_as_they_are(tmp_path: Path) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert internet(os.getpid()) == {os.readlink(f"/proc/self/fd/{listener.fileno()}")}
