"""A learner run by PyTorch on the host behind the interface of a program.

The reference that compiled methods are held against.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgecl.errors import ProgramError
from export import trace
from export.learners import Learner
from export.trace import Flat

Array = npt.NDArray[Any]


class EagerProgram:
    """An `edgecl.engine.Program` over eager functions. With float64 it is the yardstick of the tests."""

    def __init__(self, methods: Sequence[Flat], dtype: torch.dtype = torch.float32) -> None:
        self._methods = {method.name: method for method in methods}
        self._dtype = dtype

    def method_names(self) -> list[str]:
        return sorted(self._methods)

    def execute(self, method: str, inputs: Sequence[Array]) -> list[Array]:
        if method not in self._methods:
            raise ProgramError(f"{method}: no such method; there are {' '.join(self.method_names())}")
        given = [torch.from_numpy(np.ascontiguousarray(array)).to(self._dtype) for array in inputs]
        return [out.detach().numpy() for out in self._methods[method].run(*given)]

    def trace(self) -> bytes:
        raise ProgramError("eager: it records nothing")

    def close(self) -> None:
        self._methods = {}


def eager(
    learner: Learner, kind: str, batch: int, shape: Sequence[int], classes: int, dtype: torch.dtype
) -> EagerProgram:
    """One method of a learner, eagerly, for samples of this shape."""
    x = torch.zeros(batch, *shape, dtype=dtype)
    return EagerProgram([trace.methods(learner, kind, batch, x, classes)], dtype)
