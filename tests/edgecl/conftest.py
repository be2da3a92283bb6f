"""Inputs and eager outputs of the real programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest


@pytest.fixture
def vectors(programs: Path) -> Callable[[str, str], list[npt.NDArray[Any]]]:
    """Inputs ("in") and eager outputs ("out") of a method."""
    with np.load(programs / "vectors.npz") as file:
        arrays = dict(file)

    def of(method: str, side: str) -> list[npt.NDArray[Any]]:
        return [arrays[name] for name in arrays if name.startswith(f"{method}.{side}.")]

    return of
