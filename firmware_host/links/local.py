"""An agent on this machine: for trying things out, and for a computer that is its own board."""

import sys
from dataclasses import dataclass

from edgecl.errors import LinkError
from firmware_host.links.address import LocalAddress
from firmware_host.links.link import USUAL, Options
from firmware_host.links.process import Process


class _Agent(Process):
    def __init__(self, to: LocalAddress, options: Options) -> None:
        python = [sys.executable, "-P", "-m", "edgecl"]
        command = [*([options.agent] if options.agent else python), "agent"]
        if store := to.directory or options.store:
            command += ["--store", str(store)]
        try:
            super().__init__(command, stall_s=options.stall_s)
        except OSError as error:
            raise LinkError(f"{to.text}: {command[0]}: {error.strerror}; name another agent") from None
        self._address = to.text

    def failure(self, found: str) -> LinkError:
        if found == "silent":
            self.give_up()
        code, said = self.outcome()
        told = [line for line in said.splitlines() if line.strip()]
        what = f"the agent ended with code {code}" if code is not None else f"the agent {found}"
        return LinkError(f"{self._address}: {what}{': ' + told[-1].strip() if told else ''}; try again")


@dataclass(frozen=True)
class Local:
    """A child process."""

    to: LocalAddress
    options: Options = USUAL

    @property
    def address(self) -> str:
        return self.to.text

    def open(self) -> _Agent:
        return _Agent(self.to, self.options)
