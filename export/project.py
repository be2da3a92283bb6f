"""Reads `edgecl.toml`, which names the user's model, source data, learner, budget: docs/formats/project.md."""

import importlib.util
import math
import re
import sys
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edgecl.errors import ProjectError
from edgecl.manifest import MAX_DOMAINS, Input

FILE = "edgecl.toml"

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key is an error."""


class Model(Section, frozen=True, kw_only=True):
    """The trained network."""

    factory: str
    """`file:function`: a file beside `edgecl.toml` without `.py`, and what in it returns the `nn.Module`."""
    weights: str | None = None
    """A safetensors state dict to load into it; none when the factory loads its own."""
    classes: tuple[str, ...]
    taps: tuple[str, ...] = ()
    """Module names; `name:in` is the input of a module. See docs/guide/own-model.md."""


class Sample(Section, frozen=True, kw_only=True):
    """What one sample is."""

    kind: Literal["image", "vector"] = "image"
    shape: tuple[Count, ...]
    """Height, width, channels of an image; any shape of a vector."""
    mean: tuple[float, ...] = ()
    """Subtracted from a channel after an image's 0..255 has become 0..1; zero when left out."""
    std: tuple[float, ...] = ()
    """What a channel is then divided by; one when left out."""


class Data(Section, frozen=True, kw_only=True):
    """Labelled source data: `file:function` returning (x, y), or an `.npz` with `x` and `y`."""

    train: str
    """What the model was trained on, or a part of it: warm-up and calibration come from here."""
    held_out: str | None = None
    """Not trained on: the canaries and the accuracy as built come from here, or else from `train`."""


class LearnerChoice(Section, frozen=True, kw_only=True):
    """The learner and its settings."""

    name: str
    """One of `edgecl learners`, or `file:Class` for one of your own."""
    batch: Count = 16
    """Samples in one update."""
    settings: dict[str, Any] = {}
    """Passed to the learner as keyword arguments."""
    hyper: dict[str, float] = {}
    """Numbers that a step takes at run time, instead of the learner's defaults."""
    forms: dict[str, dict[str, Any]] = {}
    """Other settings of it, by name: the board chooses among these forms for each new domain."""


class Warmup(Section, frozen=True, kw_only=True):
    """Training of the learner's own parameters on source data, before deployment (for learners that have it)."""

    epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 3
    batch: Count = 64
    lr: Annotated[float, msgspec.Meta(gt=0)] = 0.01
    seed: int = 0
    mirror: bool = True
    """Whether an image and its mirror image are the same class; not so for digits."""


class DetectorChoice(Section, frozen=True, kw_only=True):
    """How inputs unlike the source are told, from the taps; a model without taps has no detector."""

    form: Literal["bits", "full", "none"] = "bits"
    """One bit a dimension, float32, or no detector."""
    dimensions: Count = 4096
    """Of a hypervector: a multiple of 64 and of the power of two that the channels of all taps fit in."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """The projection is made from it."""


class RouterChoice(Section, frozen=True, kw_only=True):
    """How domains are told apart, from the taps, and kept; without taps there is no routing."""

    domains: Annotated[int, msgspec.Meta(ge=1, le=MAX_DOMAINS)] = 1
    """That are kept at most, the source among them; 1: one state follows the stream. A run may say otherwise."""
    full: Literal["merge", "refuse"] = "merge"
    """What becomes of one more: the two most alike are merged, or it is not kept."""
    dimensions: Count = 4096
    """Of a signature: as for the detector."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 2)] = 0
    """Signatures are made from it."""


class HeadChoice(Section, frozen=True, kw_only=True):
    """The head without gradients that labels teach on the board; without taps there is none."""

    form: Literal["lda", "ridge", "none"] = "lda"
    """Discriminant analysis, ridge regression on random features, or no head."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    """Of the random features."""


class BuildChoice(Section, frozen=True, kw_only=True):
    """How it is compiled."""

    device: str = "linux-x86_64"
    """A profile of `edgecl devices`, which sets the budget unless `memory` does."""
    memory: str | None = None
    """Budget for the whole process, such as `"64 MB"`."""
    quantize: Literal["none", "int8"] = "none"
    """Precision of the frozen encoder."""
    backward: Literal["float", "int8"] = "float"
    """Precision of the gradients through a quantized encoder."""
    onnx: bool = False
    """Whether the bundle carries every method as ONNX too."""
    canaries: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 64
    """Labelled source samples kept for the guard."""


class Tables(Section, frozen=True, kw_only=True):
    """The whole file."""

    name: str
    lineage: str | None = None
    """Bundles of one lineage succeed each other; the name, when left out."""
    version: Annotated[int, msgspec.Meta(ge=0)] = 1
    min_version: Annotated[int, msgspec.Meta(ge=0)] = 0
    learned: Literal["discard", "carry", "rebase"] = "carry"
    model: Model
    input: Sample
    data: Data
    learner: LearnerChoice
    warmup: Warmup = Warmup()
    detector: DetectorChoice = DetectorChoice()
    router: RouterChoice = RouterChoice()
    head: HeadChoice = HeadChoice()
    build: BuildChoice = BuildChoice()


@dataclass(frozen=True)
class Project:
    """A project folder and what its `edgecl.toml` says."""

    folder: Path
    tables: Tables

    @property
    def given(self) -> Input:
        """How a sample becomes the program's input, for the manifest."""
        sample = self.tables.input
        channels = sample.shape[-1] if sample.kind == "image" else sample.shape[0]
        mean = np.array(sample.mean or [0.0] * channels)
        std = np.array(sample.std or [1.0] * channels)
        unit = 255.0 if sample.kind == "image" else 1.0
        scale, shift = 1 / (unit * std), -mean / std
        return Input(kind=sample.kind, shape=sample.shape, scale=tuple(scale.tolist()), shift=tuple(shift.tolist()))

    def function(self, name: str) -> Callable[..., Any]:
        """The function or class `file:name` of the project. Raises ProjectError where it is not."""
        return load(self.folder, name)

    def data(self, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Labelled samples, as the board would feed them. Raises ProjectError when they are of the wrong form."""
        if name.endswith(".npz"):
            x, y = _arrays(self.folder / name)
        else:
            pair = self.function(name)()
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ProjectError(f"data {name}: it must return a pair (x, y)")
            x, y = pair
        want = np.dtype(np.uint8 if self.tables.input.kind == "image" else np.float32)
        x, y = np.asarray(x), np.asarray(y)
        if (
            x.dtype != want
            or x.shape[1:] != self.tables.input.shape
            or y.shape != x.shape[:1]
            or y.dtype.kind not in "iu"
        ):
            raise ProjectError(
                f"data {name}: x {x.dtype}{list(x.shape)} and y {y.dtype}{list(y.shape)}; input says x "
                f"{want}[N, {', '.join(map(str, self.tables.input.shape))}] and y integers [N]"
            )
        if len(y) == 0 or y.min() < 0 or y.max() >= len(self.tables.model.classes):
            raise ProjectError(
                f"data {name}: labels must be 0 to {len(self.tables.model.classes) - 1}, and at least one"
            )
        return x, y.astype(np.int64)


def read(folder: Path) -> Project:
    """Read and check `folder/edgecl.toml`. Raises ProjectError: missing, not TOML, or a wrong field."""
    path = folder / FILE if folder.is_dir() else folder
    try:
        tables = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Tables)
    except OSError as error:
        raise ProjectError(f"{path}: {error.strerror}; give the folder of a project") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ProjectError(f"{path}: {error}; see docs/formats/project.md") from None
    project = Project(path.parent.resolve(), tables)
    sample = tables.input
    if sample.kind == "image" and len(sample.shape) != 3:
        raise ProjectError(f"{path}: input.shape {list(sample.shape)}: an image has height, width, channels")
    if not sample.shape:
        raise ProjectError(f"{path}: input.shape []: a vector has one number or more")
    channels = sample.shape[-1] if sample.kind == "image" else sample.shape[0]
    for name, values in (("mean", sample.mean), ("std", sample.std)):
        if values and len(values) != channels:
            raise ProjectError(f"{path}: input.{name} has {len(values)} numbers for {channels} channels")
    if not all(math.isfinite(value) for value in sample.mean):
        raise ProjectError(f"{path}: input.mean must be finite")
    if not all(0 < value < math.inf for value in sample.std):
        raise ProjectError(f"{path}: input.std must be finite and above zero")
    if len(tables.model.classes) < 2 or len(set(tables.model.classes)) != len(tables.model.classes):
        raise ProjectError(f"{path}: model.classes must name two or more different classes")
    return project


def _arrays(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file["y"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ProjectError(f"{path}: {error}; it needs arrays x and y") from None


def load(folder: Path, name: str) -> Callable[..., Any]:
    """The object `file:name` of a folder, from `folder/file.py`."""
    file, _, attribute = name.partition(":")
    path = folder / f"{file}.py"
    if not attribute or not path.is_file():
        raise ProjectError(f'"{name}" in {folder}: no such file; write it as "file:function" for function in file.py')
    module_name = f"edgecl_project_{file}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that its classes can be inspected
    sys.path.insert(0, str(folder))  # so that the file may import its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    if not hasattr(module, attribute):
        raise ProjectError(f"{path}: no {attribute} in it")
    found: Callable[..., Any] = getattr(module, attribute)
    return found


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_bytes(text: str) -> int:
    """`"64 MB"` (10^6) or `"64 MiB"` (2^20) in bytes. Raises ProjectError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B)\s*", text, re.IGNORECASE)
    if not found:
        raise ProjectError(f'"{text}" is no size; write it like "64 MB" or "64 MiB"')
    return int(float(found[1]) * _UNITS[found[2].upper()])
