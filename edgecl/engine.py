"""Opening compiled programs: ENGINES names what can run them, `open_program` gives one with its methods loaded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy.typing as npt

from edgecl import _runtime
from edgecl.errors import ProgramError

if TYPE_CHECKING:
    import onnxruntime

Array = npt.NDArray[Any]


class Program(Protocol):
    """Loaded methods. Safe to call from several threads; every failure is a ProgramError."""

    def method_names(self) -> list[str]:
        """All methods of the file, loaded or not, sorted."""
        ...

    def execute(self, method: str, inputs: Sequence[Array]) -> list[Array]:
        """Run a loaded method. The inputs must be what it takes; not-a-number passes through. The outputs are new."""
        ...

    def trace(self) -> bytes:
        """What was recorded since the last call, in the engine's own format; only if opened with trace=True."""
        ...

    def close(self) -> None:
        """Free everything. Closing twice is allowed, nothing else is after it."""
        ...


def open_program(
    path: Path,
    *,
    engine: str = "executorch",
    methods: Sequence[str],
    threads: int = 1,
    isolated: bool = False,
    trace: bool = False,
) -> Program:
    """Open a program and load these methods, in this order.

    Give the largest first: a shared workspace that has to grow exists twice for a moment. An isolated program never
    waits for another one, at the price of a workspace for each method and of one thread; of any two programs that run
    at the same time, at least one should be. `threads` is one number for the process: it cannot change while any
    ExecuTorch program is open.

    Raises ProgramError: unknown engine, missing package, unreadable or damaged file, missing method.
    """
    if engine not in ENGINES:
        raise ProgramError(f"engine {engine}: unknown; choose {' or '.join(ENGINES)}")
    return ENGINES[engine](path, methods, threads, isolated, trace)


def _executorch(path: Path, methods: Sequence[str], threads: int, isolated: bool, trace: bool) -> Program:
    _runtime.set_threads(threads)
    program = _runtime.Program(path, trace=trace)
    try:
        for method in methods:
            program.load(method, isolated=isolated)
    except ProgramError:
        program.close()
        raise
    return program


def _onnxruntime(path: Path, methods: Sequence[str], threads: int, isolated: bool, trace: bool) -> Program:
    if trace:
        raise ProgramError(f"{path}: the onnxruntime engine records nothing; open it without trace")
    return _OnnxProgram(path, methods, threads)


ENGINES: Final[dict[str, Callable[[Path, Sequence[str], int, bool, bool], Program]]] = {
    "executorch": _executorch,  # path is a .pte file
    "onnxruntime": _onnxruntime,  # path is a folder with a file <method>.onnx for each method
}

FATAL: Final = 4
"""onnxruntime's log level: what it would print below that, it also raises."""

PROVIDERS: Final = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
"""Of onnxruntime's execution providers, those used where present, preferred first."""


class _OnnxProgram:
    """A folder of ONNX files, one session a method; sessions share nothing, so it is always isolated."""

    def __init__(self, path: Path, methods: Sequence[str], threads: int) -> None:
        self._path = path
        self._sessions: dict[str, onnxruntime.InferenceSession] | None = {}
        self._wanted: dict[str, list[_runtime.TensorSpec]] = {}
        if not path.is_dir():
            raise ProgramError(f"{path}: no folder of ONNX files; build the bundle with them")
        for method in methods:
            if method not in self.method_names():
                raise ProgramError(f"{path}: no method {method}; it has {' '.join(self.method_names())}")
            session = _session(path / f"{method}.onnx", threads)
            self._sessions[method] = session
            self._wanted[method] = [_spec(f"{method}: input {i}", arg) for i, arg in enumerate(session.get_inputs())]

    def method_names(self) -> list[str]:
        self._open()
        return sorted(file.stem for file in self._path.glob("*.onnx"))

    def execute(self, method: str, inputs: Sequence[Array]) -> list[Array]:
        sessions = self._open()
        if method not in sessions:
            raise ProgramError(f"{method}: not loaded; name it when opening the program")
        _runtime.check_inputs(method, self._wanted[method], inputs)
        names = [arg.name for arg in sessions[method].get_inputs()]
        try:
            return list(sessions[method].run(None, dict(zip(names, inputs, strict=True))))
        except Exception as error:
            raise ProgramError(f"{self._path}: {method}: {_one_line(error)}") from None

    def trace(self) -> bytes:
        raise ProgramError(f"{self._path}: the onnxruntime engine records nothing; use engine executorch")

    def close(self) -> None:
        self._sessions = None

    def _open(self) -> "dict[str, onnxruntime.InferenceSession]":
        if self._sessions is None:
            raise ProgramError(f"{self._path}: the program is closed; open it again")
        return self._sessions


def _session(file: Path, threads: int) -> "onnxruntime.InferenceSession":
    try:
        import onnxruntime
    except ImportError as error:
        raise ProgramError(f"engine onnxruntime: {error}; pip install 'edgecl[onnx]'") from None
    onnxruntime.set_default_logger_severity(FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    providers = [name for name in PROVIDERS if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(file, options, providers)
    except Exception as error:  # its errors have no common class
        raise ProgramError(f"{file}: {_one_line(error)}; build the bundle again") from None


def _spec(where: str, arg: "onnxruntime.NodeArg") -> _runtime.TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None or not all(isinstance(size, int) for size in arg.shape):
        raise ProgramError(
            f"{where} is {arg.type}{arg.shape}; export it with fixed sizes as {', '.join(_DTYPES.values())}"
        )
    return _runtime.TensorSpec(dtype, arg.shape)


_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
