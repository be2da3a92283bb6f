"""Whether this machine has what a bundle requires."""

import os

from edgecl import __version__, _runtime, resident
from edgecl.bundle import check_requirements
from edgecl.manifest import Manifest


def check_here(manifest: Manifest) -> None:
    """Raises BundleError: it was made for another edgecl, ExecuTorch or processor, or for more memory than there is."""
    check_requirements(
        manifest,
        edgecl_version=__version__,
        arch=os.uname().machine,
        executorch_version=_runtime.EXECUTORCH_VERSION,
        available_memory_bytes=resident.available_bytes(),
    )
