"""Holds every compiled method against its eager function, and keeps the calls as the self-test of the bundle.

Distance of an output: that of its change, relative to the change itself for theta and slots (so that a step in the
wrong direction is seen), relative to the largest number for all else.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from edgecl.contents import PROGRAM
from edgecl.engine import open_program
from edgecl.errors import ProjectError
from edgecl.learning import noise
from export.compile import Compiled
from export.source_data import SourceData
from export.trace import Flat

Array = npt.NDArray[Any]

TOLERANCE: Final = 0.01
INT8_TOLERANCE: Final = 0.25
"""One step of int8 in one place moves a gradient by more than float32 ever does; export/quantize.py."""


@dataclass(frozen=True)
class Parity:
    """What the check found."""

    vectors: Mapping[str, Array]
    """`<method>/in|out/<tensor>`: inputs, and what the compiled method made of them."""
    distance: Mapping[str, float]
    """Method: the largest distance of its outputs."""


def check(compiled: Compiled, noises: int, data: SourceData, *, int8: bool) -> Parity:
    """Run every method once, compiled and eagerly; `noises` are random numbers that a step takes.

    Raises ProjectError: one is not what its eager function is."""
    vectors: dict[str, Array] = {}
    distance: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PROGRAM
        path.write_bytes(compiled.lowered.pte)
        for name, method in compiled.methods.items():
            given = _inputs(method, noises, data)
            program = open_program(path, methods=[name])
            try:
                out = program.execute(name, [given[tensor] for tensor in method.inputs])
            finally:
                program.close()
            eager = method.run(*(torch.from_numpy(given[tensor]) for tensor in method.inputs))
            far = {
                tensor: _distance(tensor, mine, theirs.detach().numpy(), given)
                for tensor, mine, theirs in zip(method.outputs, out, eager, strict=True)
            }
            tensor, distance[name] = max(far.items(), key=lambda item: item[1])
            if not distance[name] <= (INT8_TOLERANCE if int8 else TOLERANCE):
                raise ProjectError(
                    f"{name}: {tensor} compiled is {distance[name]:.3g} from eager; the learner computes "
                    "something that float32 does not hold, or edgecl compiled it wrongly"
                )
            vectors |= {f"{name}/in/{tensor}": array for tensor, array in given.items()}
            vectors |= {f"{name}/out/{tensor}": array for tensor, array in zip(method.outputs, out, strict=True)}
    return Parity(vectors, distance)


def _inputs(method: Flat, noises: int, data: SourceData) -> dict[str, Array]:
    """State as built, and source samples."""
    given = dict(zip(method.inputs, (value.numpy() for value in method.example), strict=True))
    places = np.resize(data.spread_out(len(given["x"])), len(given["x"]))
    given["x"] = data.inputs(places).numpy()
    if "noise" in given:
        given["noise"] = noise(0, 0, noises)
    if "y" in given:
        given["y"] = np.eye(given["y"].shape[1], dtype=np.float32)[data.y[places]]
    return {name: np.ascontiguousarray(array) for name, array in given.items()}


def _distance(tensor: str, mine: Array, theirs: Array, given: Mapping[str, Array]) -> float:
    difference = (mine - theirs).astype(np.float64)
    if tensor in given:
        change = np.linalg.norm((theirs - given[tensor]).astype(np.float64))
        return float(np.linalg.norm(difference) / (change + 1e-4 * np.linalg.norm(theirs) + 1e-12))
    return float(np.abs(difference).max() / (np.abs(theirs).max() + 1e-3))
