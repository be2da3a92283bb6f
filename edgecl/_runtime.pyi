"""ExecuTorch without PyTorch. Whatever ExecuTorch or a check refuses raises edgecl.errors.ProgramError."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

EXECUTORCH_VERSION: str
"""Version of the ExecuTorch libraries in edgecl/lib."""

class TensorSpec:
    """Dtype and shape of an input or output."""

    def __init__(self, dtype: str, shape: Sequence[int]) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

class MethodSpec:
    """What a program says of a method."""

    @property
    def inputs(self) -> list[TensorSpec]: ...
    @property
    def outputs(self) -> list[TensorSpec]: ...
    @property
    def planned_bytes(self) -> int:
        """Buffers that ExecuTorch planned ahead of time; a delegate's workspace is not among them."""
    @property
    def delegates(self) -> int: ...
    @property
    def instructions(self) -> int: ...

class Program:
    """A .pte file. One call runs at a time; other programs are not held up by it if it was loaded isolated."""

    def __init__(self, path: str | os.PathLike[str], trace: bool = False) -> None: ...
    def method_names(self) -> list[str]: ...
    def describe(self, method: str) -> MethodSpec: ...
    def load(self, method: str, isolated: bool) -> None:
        """Load a method, once, before it is executed.

        Isolated, it has a workspace of its own and uses only the calling thread, so that nothing makes it wait.
        Otherwise it uses the thread pool, and the one workspace of all such methods: less memory, one at a time.
        """
    def execute(self, method: str, inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]: ...
    def trace(self) -> bytes:
        """ETDump of what was loaded and executed since the last call; empty when nothing was."""
    def close(self) -> None: ...

def check_inputs(method: str, wanted: Sequence[TensorSpec], inputs: Sequence[npt.NDArray[Any]]) -> None:
    """Raise ProgramError unless the inputs are what the method takes, in number, dtype, shape and memory order."""

def threads() -> int:
    """Threads of the pool that methods use unless they are isolated."""

def set_threads(count: int) -> None:
    """Resize the pool. Raises ProgramError when a method is loaded anywhere in the process and the count differs."""

def heap_bytes() -> int:
    """Bytes that this process has from malloc now, in all threads."""

def trim() -> None:
    """Give free heap back to the system."""

def to_planar(
    pixels: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], shift: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Uint8 [batch, height, width, channel] to float32 [batch, channel, height, width]: pixel * scale + shift."""
