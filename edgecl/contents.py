"""The safetensors files of a bundle: what must be in them, checked against the manifest before anything is used.

* `state.safetensors`     a state file (`edgecl/state.py`) of the manifest's layout, at step 0; and
                          `state.<form>.safetensors` of each form behind the first
* `vectors.safetensors`   `<method>/in/<tensor>` and `<method>/out/<tensor>` for every tensor of every method
* `canaries.safetensors`  `x` [n, *input.shape], uint8 for images or float32 for vectors, and `y` int64 [n]
* `detector.safetensors`  `mean` and `scale` [features] and `prototypes`, a row a class: float32 [C, D], or uint8
                          [C, D / 8] where the manifest's detector keeps bits
* `router.safetensors`    `mean` [features], `blocks` float32, those of `edgecl/whitening.py` one after another, and
                          `prototype` of the source, uint8 [D / 8]
* `head.safetensors`      sums of source samples, as `edgecl/head.py` writes them

The functions take the directory in which a verified bundle lies, and the bundle's name for messages.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors

from edgecl import head, state, whitening
from edgecl.detector import Detector, Fit
from edgecl.errors import BundleError, StoreError
from edgecl.head import HEADS, Sums
from edgecl.hypervectors import Bits
from edgecl.manifest import Manifest, Method
from edgecl.signature import Signatures

PROGRAM: Final = "program.pte"
STATE: Final = "state.safetensors"
VECTORS: Final = "vectors.safetensors"
CANARIES: Final = "canaries.safetensors"
DETECTOR: Final = "detector.safetensors"
ROUTER: Final = "router.safetensors"
HEAD: Final = "head.safetensors"
ONNX: Final = "onnx"
"""The folder of the optional `<method>.onnx`, the only folder in a bundle."""

MAX_HEADER_BYTES: Final = 1 << 20
"""The JSON in front of a safetensors file; the format itself allows 100 MB, which would cost a board a gigabyte."""

_DTYPES: Final = {"float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
_FLOATS: Final = ("F16", "F32", "F64")

Array = npt.NDArray[Any]
Needed = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Vectors:
    """One call of a method: inputs and the outputs it must give, in the manifest's order."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


@dataclass(frozen=True)
class Canaries:
    """Labelled source samples, as the board's sources deliver them; none gives arrays of length 0."""

    x: Array
    y: npt.NDArray[np.int64]


def state_file(form: str) -> str:
    """The state as built of a form; of the first one, whose name is empty, `state.safetensors`."""
    return f"state.{form}.safetensors" if form else STATE


def allowed(manifest: Manifest) -> tuple[frozenset[str], frozenset[str]]:
    """Files that the bundle must have, and those that it may have."""
    must = {PROGRAM, VECTORS, *map(state_file, manifest.layouts)} | ({CANARIES} if manifest.canaries.count else set())
    must |= {DETECTOR} if manifest.detector else set()
    must |= {ROUTER} if manifest.router else set()
    must |= {HEAD} if manifest.head else set()
    may = must | {CANARIES} | {f"{ONNX}/{method.name}.onnx" for method in manifest.methods}
    return frozenset(must), frozenset(may)


def check(directory: Path, manifest: Manifest, where: str) -> None:
    """Check every safetensors file. Raises BundleError."""
    for form in manifest.layouts:
        load_state(directory, manifest, where, form)
    _check_tensors(directory / VECTORS, _needed_vectors(manifest), where)
    if (directory / CANARIES).exists():
        load_canaries(directory, manifest, where)
    if manifest.detector:
        load_detector(directory, manifest, where)
    if manifest.router:
        load_router(directory, manifest, where)
    if manifest.head:
        load_head(directory, manifest, where)


def load_state(directory: Path, manifest: Manifest, where: str, form: str = "") -> state.State:
    """The state of a form as built. Raises BundleError."""
    layout, name = manifest.layouts[form], state_file(form)
    _check_tensors(
        directory / name, {"theta": ("F32", (layout.theta_size,)), "slots": ("F32", (layout.slots_size,))}, where
    )
    _check_finite(directory / name, where)
    try:
        loaded = state.load(directory / name, layout)
    except (BundleError, StoreError):
        raise BundleError(f"{where}: {name}: not a state of this bundle's layout; rebuild the bundle") from None
    if loaded.step or loaded.seen:
        raise BundleError(f"{where}: {name}: made at step {loaded.step}, a bundle starts at 0; rebuild the bundle")
    return loaded


def load_vectors(directory: Path, method: Method) -> Vectors:
    """The self-test of one method."""
    with safetensors.safe_open(directory / VECTORS, framework="numpy") as file:
        return Vectors(
            tuple(file.get_tensor(f"{method.name}/in/{tensor.name}") for tensor in method.inputs),
            tuple(file.get_tensor(f"{method.name}/out/{tensor.name}") for tensor in method.outputs),
        )


def load_canaries(directory: Path, manifest: Manifest, where: str) -> Canaries:
    """The canaries. Raises BundleError."""
    given, count = manifest.input, manifest.canaries.count
    dtype, shape = "uint8" if given.kind == "image" else "float32", (count, *given.shape)
    path = directory / CANARIES
    if not count and not path.exists():
        return Canaries(np.zeros(shape, dtype), np.zeros(0, np.int64))
    _check_tensors(path, {"x": (_DTYPES[dtype], shape), "y": ("I64", (count,))}, where)
    _check_finite(path, where)
    with safetensors.safe_open(path, framework="numpy") as file:
        canaries = Canaries(file.get_tensor("x"), file.get_tensor("y"))
    if count and (canaries.y.min() < 0 or canaries.y.max() >= len(manifest.classes)):
        raise BundleError(f"{where}: {CANARIES}: a label is none of the {len(manifest.classes)} classes; rebuild")
    return canaries


def load_detector(directory: Path, manifest: Manifest, where: str) -> Detector:
    """The detector, of a bundle that has one. Raises BundleError."""
    path, record, features = directory / DETECTOR, manifest.detector, manifest.features
    assert record
    prototypes = ("U8", record.dimensions // 8) if record.form == "bits" else ("F32", record.dimensions)
    needed = {
        "mean": ("F32", (features,)),
        "scale": ("F32", (features,)),
        "prototypes": (prototypes[0], (len(manifest.classes), prototypes[1])),
    }
    _check_tensors(path, needed, where)
    _check_finite(path, where)
    with safetensors.safe_open(path, framework="numpy") as file:
        fit = Fit(file.get_tensor("mean"), file.get_tensor("scale"), file.get_tensor("prototypes"))
    if not (fit.scale > 0).all():
        raise BundleError(f"{where}: {DETECTOR}: a scale that is not above zero; rebuild the bundle")
    try:
        return Detector(record, fit)
    except ValueError as error:
        raise BundleError(f"{where}: detector: {error}; rebuild the bundle") from None


@dataclass(frozen=True)
class Routing:
    """What a bundle knows of its source, to tell other domains from it."""

    signatures: Signatures
    prototype: Bits


def load_router(directory: Path, manifest: Manifest, where: str) -> Routing:
    """What routes, of a bundle that has it. Raises BundleError."""
    path, record, widths = directory / ROUTER, manifest.router, [tap.channels for tap in manifest.taps]
    assert record
    numbers = sum(math.prod(size) for size in whitening.sizes(widths))
    needed = {
        "mean": ("F32", (manifest.features,)),
        "blocks": ("F32", (numbers,)),
        "prototype": ("U8", (record.dimensions // 8,)),
    }
    _check_tensors(path, needed, where)
    _check_finite(path, where)
    with safetensors.safe_open(path, framework="numpy") as file:
        white = whitening.unflat(file.get_tensor("mean"), file.get_tensor("blocks"), widths)
        prototype = file.get_tensor("prototype")
    try:
        return Routing(Signatures(white, record.dimensions, record.seed), prototype)
    except ValueError as error:
        raise BundleError(f"{where}: router: {error}; rebuild the bundle") from None


def load_head(directory: Path, manifest: Manifest, where: str) -> Sums:
    """The sums of source samples, of a bundle that has them. Raises BundleError."""
    record = manifest.head
    assert record
    like = HEADS[record.form].empty(manifest.features, len(manifest.classes), record.seed)
    try:
        loaded = head.load(directory / HEAD, like)
    except StoreError as error:
        raise BundleError(f"{where}: {HEAD}: {str(error).partition(': ')[2]}; rebuild the bundle") from None
    if loaded.classes != len(manifest.classes) or not loaded.n:
        raise BundleError(f"{where}: {HEAD}: {loaded.n} samples of {loaded.classes} classes; rebuild the bundle")
    return loaded


def _needed_vectors(manifest: Manifest) -> Needed:
    return {
        f"{method.name}/{side}/{tensor.name}": (_DTYPES[tensor.dtype], tensor.shape)
        for method in manifest.methods
        for side, tensors in (("in", method.inputs), ("out", method.outputs))
        for tensor in tensors
    }


def _check_tensors(path: Path, needed: Needed, where: str) -> None:
    """Check that the file is sound and has exactly these tensors."""
    with path.open("rb") as raw:
        header_bytes = int.from_bytes(raw.read(8), "little")
    if header_bytes > min(MAX_HEADER_BYTES, os.stat(path).st_size):
        raise BundleError(f"{where}: {path.name}: header of {header_bytes} bytes; rebuild the bundle")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            have = {name: _shape(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{where}: {path.name}: not a safetensors file: {error}; rebuild the bundle") from None
    for name, (dtype, shape) in have.items():
        if name not in needed:
            raise BundleError(f"{where}: {path.name}: {name!r} is not in the manifest; rebuild the bundle")
        if (dtype, shape) != needed[name]:
            raise BundleError(
                f"{where}: {path.name}: {name!r} is {dtype}{list(shape)}, "
                f"the manifest says {needed[name][0]}{list(needed[name][1])}; rebuild the bundle"
            )
    if missing := needed.keys() - have.keys():
        raise BundleError(f"{where}: {path.name}: it has no {min(missing)!r}; rebuild the bundle")


def _shape(entry: Any) -> tuple[str, tuple[int, ...]]:
    return str(entry.get_dtype()), tuple(entry.get_shape())


def _check_finite(path: Path, where: str) -> None:
    with safetensors.safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            if _shape(file.get_slice(name))[0] in _FLOATS and not np.isfinite(file.get_tensor(name)).all():
                raise BundleError(f"{where}: {path.name}: {name!r} holds numbers that are not finite; rebuild")
