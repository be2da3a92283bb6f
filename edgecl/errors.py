"""Every error a caller may want to catch, and the exit code the command gives it.

* EdgeclError (1)      base of all errors that are not bugs
  - ProjectError (1)   `edgecl.toml`, or what it names, cannot be used
  - BundleError (5)    the bundle is damaged, or made for something else
  - BudgetError (5)    it would need more memory than the budget allows
  - ProgramError (1)   the engine refused a program, a method or an input
  - JournalError (1)   a journal cannot be read or written
  - StoreError (1)     the state directory cannot be used
  - LinkError (4)      the device cannot be reached
  - DeployError (6)    a deployment was rolled back
  - ProfileError (1)   a device profile cannot be used
  - RequestError (1)   a domain, class or sample is not there, or there already
  - KeyFileError (1)   a key to sign or to verify with cannot be used

A message is one line: what, where, and the cure. Anything that is not an EdgeclError is a bug and keeps its traceback.
"""

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_DATA_LOST: Final = 3
EXIT_UNREACHABLE: Final = 4
EXIT_REFUSED: Final = 5
EXIT_ROLLED_BACK: Final = 6
EXIT_PARTIAL: Final = 7
EXIT_INTERRUPTED: Final = 130


class EdgeclError(Exception):
    """Base of all errors that are not bugs."""

    exit_code = EXIT_FAILED


class ProjectError(EdgeclError):
    """`edgecl.toml`, or what it names, cannot be used: edit the project."""


class BundleError(EdgeclError):
    """The bundle is damaged, or made for something else: get another bundle."""

    exit_code = EXIT_REFUSED


class BudgetError(EdgeclError):
    """It would need more memory than the budget allows: choose a smaller batch, another learner or a larger budget."""

    exit_code = EXIT_REFUSED


class ProgramError(EdgeclError):
    """The engine refused a program, a method or an input."""


class JournalError(EdgeclError):
    """A journal cannot be read or written."""


class StoreError(EdgeclError):
    """The state directory cannot be used: choose or repair the directory."""


class LinkError(EdgeclError):
    """The device cannot be reached."""

    exit_code = EXIT_UNREACHABLE


class DeployError(EdgeclError):
    """A deployment failed and was rolled back."""

    exit_code = EXIT_ROLLED_BACK


class ProfileError(EdgeclError):
    """A device profile cannot be used."""


class RequestError(EdgeclError):
    """A domain, class or sample is not there, or there already."""


class KeyFileError(EdgeclError):
    """A key to sign or to verify with cannot be used: give another one."""
