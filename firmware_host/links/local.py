"""An agent on this machine: for trying things out, and for a computer that is its own board."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from edgecl.errors import LinkError
from firmware_host.links.link import Options
from firmware_host.links.process import Process


class _Agent(Process):
    def __init__(self, address: str, options: Options, directory: Path | None) -> None:
        python = [sys.executable, "-P", "-m", "edgecl"]
        command = [*([options.agent] if options.agent else python), "agent"]
        if store := directory or options.store:
            command += ["--store", str(store)]
        try:
            super().__init__(command, stall_s=options.stall_s)
        except OSError as error:
            raise LinkError(f"{address}: {command[0]}: {error.strerror}; name another agent") from None
        self._address = address

    def failure(self, found: str) -> LinkError:
        code, said = self.outcome() if found == "ended" else (None, "")
        told = [line for line in said.splitlines() if line.strip()]
        what = f"the agent ended with code {code}" if code is not None else f"the agent {found}"
        return LinkError(f"{self._address}: {what}{': ' + told[-1].strip() if told else ''}; try again")


@dataclass(frozen=True)
class Local:
    """A child process."""

    address: str
    directory: Path | None = None
    """Its store; None for the agent's own choice."""
    options: Options = field(default_factory=Options)

    def open(self) -> _Agent:
        return _Agent(self.address, self.options, self.directory)
