"""Finds and reads the data of the benchmarks: CIFAR-10, nine corruptions of its test images at severity 5, and weights;
gas sensors, and spoken digits.

They lie in the folder that EDGECL_DATA names, `../shared/data` beside the checkout otherwise, and are no part of it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

Labelled = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]
"""uint8 images [N, height, width, channel], and their classes [N]."""

CLASSES: Final = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN: Final = (0.485, 0.456, 0.406)
"""Of ImageNet, which the ResNets were trained with."""
STD: Final = (0.229, 0.224, 0.225)

CORRUPTIONS: Final = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
)

HELD_OUT: Final = slice(9000, 10000)
"""Test images that no benchmark counts: a build measures its accuracy with them."""

LARGE_COUNT: Final = 64
LARGE: Final = 224
"""Height and width, pixels."""


def root() -> Path:
    """The folder of the data. Exits with one line where there is none."""
    folder = Path(os.environ.get("EDGECL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "cifar10_test.npz").is_file():
        raise SystemExit(f"{folder}: no CIFAR-10 in it (cifar10_test.npz); set EDGECL_DATA to the folder that has it")
    return folder


def weights(name: str) -> Path:
    """A file of trained weights."""
    return root() / f"{name}.safetensors"


def train() -> Labelled:
    """10,000 training images."""
    return _read("cifar10_train")


def clean() -> Labelled:
    """10,000 test images."""
    return _read("cifar10_test")


def held_out() -> Labelled:
    """1,000 of them."""
    x, y = clean()
    return x[HELD_OUT], y[HELD_OUT]


def corrupted(corruption: str) -> Labelled:
    """The first 1,000 test images under one of CORRUPTIONS."""
    with np.load(root() / "cifar10_corrupted_s5.npz") as file:
        return file[corruption], file["y"]


def large() -> Labelled:
    """A few training images enlarged to 224 pixels: natural inputs for a network whose answers are not counted."""
    x, y = train()
    size = (LARGE, LARGE)
    x = np.stack(
        [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in x[:LARGE_COUNT]]
    )
    return x, y[:LARGE_COUNT]


def objects() -> npt.NDArray[np.uint8]:
    """2,000 images of CIFAR-100, of other classes than CIFAR-10's."""
    return _read("cifar100_test")[0]


def digits() -> npt.NDArray[np.uint8]:
    """4,000 handwritten digits, with a black border up to 32 pixels, in three equal channels."""
    x = _read("mnist_test")[0].reshape(-1, 28, 28)
    return np.repeat(np.pad(x, ((0, 0), (2, 2), (2, 2)))[..., None], 3, axis=3)


def gas(batch: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """One batch of the gas sensor array drift data: 128 features, and the gas, 0 to 5."""
    with np.load(root() / "gas_drift.npz") as file:
        return file[f"x{batch}"].astype(np.float32), file[f"y{batch}"].astype(np.int64)


@dataclass(frozen=True)
class Spoken:
    """A digit, spoken once."""

    wave: npt.NDArray[np.int16]
    """At 8 kHz."""
    digit: int
    speaker: str
    take: int


def spoken() -> list[Spoken]:
    """3,000 recordings by six speakers."""
    with np.load(root() / "spoken_digits.npz") as file:
        waves = np.split(file["wave"], file["offset"][1:-1])
        parts = zip(waves, file["digit"], file["speaker"], file["take"], strict=True)
        return [Spoken(wave, int(digit), str(speaker), int(take)) for wave, digit, speaker, take in parts]


def _read(name: str) -> Labelled:
    with np.load(root() / f"{name}.npz") as file:
        return file["x"], file["y"]
