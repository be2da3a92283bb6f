"""One thread for torch, as others may share the processor; and what another process makes of the same learner."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.export import digests

torch.set_num_threads(1)

DIGESTS = Path(__file__).parent / "digests.py"


@pytest.fixture(scope="session")
def here() -> dict[str, str]:
    """Digests of what this process compiles."""
    return digests.compiled()


@pytest.fixture(scope="session")
def elsewhere() -> dict[str, str]:
    """Digests of what a process with other hashes of strings compiles."""
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, DIGESTS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found
