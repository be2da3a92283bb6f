"""The loaded methods of a bundle, called with arrays by name."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from edgecl.bundle import Bundle
from edgecl.contents import ONNX, PROGRAM
from edgecl.engine import Program, open_program
from edgecl.manifest import Kind, Manifest, Method

Array = npt.NDArray[Any]


class Programs:
    """Opens the bundle's program once for each group of methods that is loaded together."""

    def __init__(self, bundle: Bundle, *, engine: str = "executorch", threads: int = 1, trace: bool = False) -> None:
        self._bundle, self._engine, self._threads, self._trace = bundle, engine, threads, trace
        self._opened: list[Program] = []
        self._programs: dict[str, Program] = {}

    def load(self, *methods: Method, isolated: bool = False) -> None:
        """Load methods, the largest first; those loaded already stay as they are.

        Raises BundleError: the bundle has no program for this engine. ProgramError: it cannot be loaded.
        """
        names = list(dict.fromkeys(method.name for method in methods if method.name not in self._programs))
        if names:
            program = open_program(
                self._path(names),
                engine=self._engine,
                methods=names,
                threads=self._threads,
                isolated=isolated,
                trace=self._trace,
            )
            self._opened.append(program)
            self._programs |= dict.fromkeys(names, program)

    def call(self, method: Method, **given: Array) -> dict[str, Array]:
        """Run a method on the arrays it takes, by name, and give its outputs by name. It is loaded if it was not.

        Raises ProgramError.
        """
        self.load(method)
        values = self._programs[method.name].execute(method.name, [given[tensor.name] for tensor in method.inputs])
        return dict(zip((tensor.name for tensor in method.outputs), values, strict=True))

    def trace(self) -> bytes:
        """What the program loaded first recorded since the last call; only if made with trace=True."""
        return self._opened[0].trace()

    def close(self) -> None:
        """Free everything."""
        while self._opened:
            self._opened.pop().close()
        self._programs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _path(self, names: list[str]) -> Path:
        if self._engine != "onnxruntime":
            return self._bundle.path(PROGRAM)
        return self._bundle.path(f"{ONNX}/{names[0]}.onnx").parent


def preload(programs: Programs, manifest: Manifest, *, routed: bool, labels: bool, sync: bool) -> None:
    """Load what every run needs, so that it cannot fail later, and methods that share a workspace together.

    `routed`: any form may be chosen. `labels`: some may come. `sync`: answers and learning take turns in one program.
    """
    answering: list[Method] = []
    learning: list[Method] = []
    for form in manifest.layouts if routed else ("",):
        kinds: list[Kind] = ["adapt", "infer"] if manifest.has("adapt") else []
        kinds += ["learn"] if labels and manifest.has("learn") else []
        kinds += ["score"] if routed and manifest.forms else []
        learning += [manifest.method(kind, form=form) for kind in kinds]
        answering += [manifest.method("infer", 1, form)]
    if sync:
        programs.load(*learning, *answering)
    else:
        programs.load(*answering, isolated=True)
        programs.load(*learning)
