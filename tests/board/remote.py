"""The emulated board as a user reaches it: commands over ssh, files over scp, edgecl in a virtual environment.

`python -m tests.board.remote` makes it ready and leaves it running, which is `make board`.
"""

import shlex
import subprocess
from pathlib import Path
from typing import Final

from tests.board import machine, wheels

TIMEOUT_S: Final = 900.0
"""An import of numpy takes seconds there."""

INSTALLED: Final = "env/wheels"
"""File on the board that names the wheels its environment was made of."""


class BoardError(Exception):
    """A command on the board, or a copy, gave an exit code that nobody expected."""


def ssh(command: str, *, expect: int = 0) -> str:
    """What a shell command prints on the board. Raises BoardError."""
    return _run(["ssh", "-F", str(machine.SSH_CONFIG), machine.HOST, command], expect)


def edgecl(*words: str | Path, expect: int = 0) -> str:
    """What an edgecl command prints on the board. Raises BoardError."""
    return ssh(shlex.join(["env/bin/edgecl", *map(str, words)]), expect=expect)


def put(path: Path, name: str) -> None:
    """Copy a file or a folder into the home directory there. Raises BoardError."""
    _run(["scp", "-q", "-r", "-F", str(machine.SSH_CONFIG), str(path), f"{machine.HOST}:{name}"])


def get(name: str, path: Path) -> None:
    """Copy a file or a folder from the home directory there. Raises BoardError."""
    _run(["scp", "-q", "-r", "-F", str(machine.SSH_CONFIG), f"{machine.HOST}:{name}", str(path)])


def install() -> None:
    """Make an environment with edgecl out of wheels alone, unless it is there. Raises BoardError."""
    folder = wheels.fetch()
    if ssh(f"cat {INSTALLED} 2>/dev/null || true").strip() == folder.name:
        return
    ssh("rm -rf env wheels")
    put(folder, "wheels")
    ssh("python3 -m venv env")
    ssh("env/bin/pip install --quiet --no-index --no-compile --find-links wheels edgecl")
    ssh(f"rm -rf wheels && echo {folder.name} >{INSTALLED}")


def _run(words: list[str], expect: int = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
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
    print(f"ssh -F {machine.SSH_CONFIG} {machine.HOST}    edgecl is env/bin/edgecl there; make board-stop ends it")


if __name__ == "__main__":
    main()
