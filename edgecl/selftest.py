"""Runs a bundle's own vectors through its program, in a process of its own: a damaged program may end that process.

`python -m edgecl.selftest DIRECTORY ENGINE THREADS` runs every method of a bundle that was verified into a directory,
and prints the JSON of a `Result` a line. The vectors hold what the program gave where it was built.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl import _runtime, disk
from edgecl.bundle import Bundle, read_vectors
from edgecl.errors import BundleError, EdgeclError, StoreError
from edgecl.manifest import MANIFEST, Method
from edgecl.manifest_reader import decode
from edgecl.programs import Programs

TOLERANCE: Final = 0.01
"""Allowed distance. Another processor adds up in another order, which costs about 1e-6, and may round an int8 the other
way, which costs a part of 1 %; a wrong weight or operator costs more."""

STATE_TOLERANCE: Final = 0.1
"""Allowed distance of theta and slots: the change of a step is small, and small numbers lose more to rounding."""

NOTHING: Final = 1e-3
"""A sum that should be zero comes out as some rounding; numbers this small are not told from zero."""

REPEATS: Final = 5
"""Calls that the time is taken of, after the first, which makes room in memory."""

TIMEOUT_S: Final = 600.0
"""No self-test takes so long on the slowest board; a damaged program may never end."""

Array = npt.NDArray[Any]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one method did, or why it was refused."""

    method: str
    distance: float = 0.0
    """Of the output that is furthest from what was expected: its largest difference relative to the largest number, for
    theta and slots relative to the largest change that the step should make."""
    output: str = ""
    """Name of that output."""
    difference: float = 0.0
    """Largest difference of any number."""
    ms: float = 0.0
    """Median of a call."""
    refused: str = ""

    @property
    def within(self) -> bool:
        """Whether the method computed what it should."""
        tolerance = STATE_TOLERANCE if self.output in ("theta", "slots") else TOLERANCE
        return not self.refused and self.distance <= tolerance


def require(results: list[Result], where: str) -> None:
    """Raises BundleError: a method did not compute what it should."""
    for result in results:
        if not result.within:
            raise BundleError(
                f"{where}: {result.method}: {result.output} is {result.distance:.2g} off on this machine; rebuild it"
            )


def once(bundle: Bundle, marker: Path, *, engine: str) -> None:
    """Test a bundle, unless the marker says that this bundle was tested with this engine here.

    Raises BundleError: it did not pass. StoreError: the marker cannot be written.
    """
    tested = f"{bundle.id} {engine} {_runtime.EXECUTORCH_VERSION} {os.uname().machine}\n".encode()
    try:
        if marker.exists() and marker.read_bytes() == tested:
            return
        require(run(bundle, engine=engine), bundle.origin)
        marker.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(marker, tested, durable=False)  # what a power cut damages is not equal, and tested again
    except OSError as error:
        raise StoreError(f"{marker}: {error.strerror or error}; make room, or give another --state") from None


def run(bundle: Bundle, *, engine: str = "executorch", threads: int = 1) -> list[Result]:
    """The result of every method, from a child process.

    Raises BundleError: a method could not be run, or ended its process.
    """
    command = [sys.executable, "-P", "-m", "edgecl.selftest", str(bundle.directory), engine, str(threads)]
    try:
        child = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BundleError(f"{bundle.origin}: no end after {TIMEOUT_S:.0f} s; get another bundle") from None
    results = [msgspec.json.decode(line, type=Result) for line in child.stdout.splitlines()]
    for result in results:
        if result.refused:
            raise BundleError(result.refused.replace(str(bundle.directory), bundle.origin))
    if child.returncode or len(results) < len(bundle.manifest.methods):
        at = [method.name for method in bundle.manifest.methods][len(results) :][:1]
        raise BundleError(
            f"{bundle.origin}: {' '.join(at) or 'the end'}: its process ended with "
            f"{_ending(child.returncode)}; get another bundle"
        )
    return results


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _test(bundle: Bundle, method: Method, programs: Programs) -> Result:
    """Run one method on its vectors."""
    vectors = read_vectors(bundle, method)
    given = dict(zip((tensor.name for tensor in method.inputs), vectors.inputs, strict=True))
    expected = dict(zip((tensor.name for tensor in method.outputs), vectors.outputs, strict=True))
    found = programs.call(method, **given)
    times_ns = []
    for _ in range(REPEATS):
        start_ns = time.monotonic_ns()
        programs.call(method, **given)
        times_ns.append(time.monotonic_ns() - start_ns)
    far = [(_distance(found[name], expected[name], given.get(name)), name) for name in expected]
    distance, output = max(far, default=(0.0, ""))
    difference = max((_largest(found[name] - expected[name]) for name in expected), default=0.0)
    ms = float(np.median(times_ns)) / 1e6
    return Result(method=method.name, distance=distance, output=output, difference=difference, ms=ms)


def _distance(found: Array, expected: Array, before: Array | None) -> float:
    if before is None:
        return _largest(found - expected) / (_largest(expected) + NOTHING)
    return _largest(found - expected) / (_largest(expected - before) + 1e-5 * _largest(expected) + 1e-12)


def _largest(numbers: Array) -> float:
    largest = float(np.abs(numbers.astype(np.float64)).max(initial=0.0))
    return largest if np.isfinite(largest) else 1e30  # JSON has no infinity, and nothing allows it


def _main(directory: Path, engine: str, threads: int) -> None:
    manifest = decode((directory / MANIFEST).read_bytes())
    bundle = Bundle(manifest, "", directory, str(directory))
    for method in manifest.methods:
        try:
            with Programs(bundle, engine=engine, threads=threads) as programs:
                result = _test(bundle, method, programs)
        except EdgeclError as error:
            result = Result(method=method.name, refused=str(error))
        print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
