"""The emulated board as a user reaches it: commands over ssh, files over scp, and edgecl commands on both sides.

`python -m tests.board.remote` makes it ready and leaves it running, which is `make board`.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from edgecl.selftest import Result
from tests.board import machine, wheels

TIMEOUT_S: Final = 900.0
"""An import of numpy takes seconds there."""

VENV: Final = ".local/share/edgecl/venv/bin"
STORE: Final = ".local/share/edgecl/state"
"""Where `edgecl provision --user-only` puts edgecl and its store, from the home directory on."""


class BoardError(Exception):
    """A command on the board, or a copy, gave an exit code that nobody expected."""


def ssh(command: str, *, expect: int = 0, user: str = machine.USER) -> str:
    """What a shell command prints on the board. Raises BoardError."""
    return _run(["ssh", "-F", str(machine.SSH_CONFIG), "-l", user, machine.HOST, command], expect)


def edgecl(*words: str | Path, expect: int = 0) -> str:
    """What an edgecl command prints on the board. Raises BoardError."""
    return ssh(shlex.join([f"{VENV}/edgecl", *map(str, words)]), expect=expect)


def here(*words: str | Path, expect: int = 0) -> str:
    """What an edgecl command prints on this computer, which finds the board by its name. Raises BoardError."""
    return _run([sys.executable, "-m", "edgecl", *map(str, words)], expect)


def verified(name: str) -> list[Result]:
    """What `edgecl verify` finds of each method of a bundle that is there. Raises BoardError."""
    *methods, _ = edgecl("verify", "--json", name).splitlines()
    return [msgspec.json.decode(line, type=Result) for line in methods]


def put(path: Path, name: str) -> None:
    """Copy a file or a folder into the home directory there. Raises BoardError."""
    _run(["scp", "-q", "-r", "-F", str(machine.SSH_CONFIG), str(path), f"{machine.HOST}:{name}"])


def get(name: str, path: Path) -> None:
    """Copy a file or a folder from the home directory there. Raises BoardError."""
    _run(["scp", "-q", "-r", "-F", str(machine.SSH_CONFIG), f"{machine.HOST}:{name}", str(path)])


def install() -> None:
    """Bring edgecl there without root. Raises BoardError."""
    provision(machine.HOST, "--user-only", "--development")


def provision(device: str, *words: str) -> str:
    """What `edgecl provision` prints, which brings edgecl there out of wheels alone. Raises BoardError."""
    folder = wheels.fetch()
    (own,) = folder.glob("edgecl-*.whl")
    return here("provision", device, "--wheel", own, "--wheelhouse", folder, *words)


def _run(words: list[str], expect: int = 0) -> str:
    environment = os.environ | {"EDGECL_SSH": shlex.join(["ssh", "-F", str(machine.SSH_CONFIG)])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    if done.returncode != expect:
        raise BoardError(f"{shlex.join(words)}: exit code {done.returncode}, not {expect}: {done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Build, start and install, and say how to reach it. Raises SystemExit with what is missing."""
    try:
        machine.build()
        machine.start()
        install()
    except (BoardError, FileNotFoundError) as error:
        raise SystemExit(f"board: {error}") from None
    print(f"ssh -F {machine.SSH_CONFIG} {machine.HOST}    edgecl is {VENV}/edgecl there; make board-stop ends it")


if __name__ == "__main__":
    main()
