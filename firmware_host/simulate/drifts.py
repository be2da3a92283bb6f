"""What may happen to samples on their way: the light, the lens, the sensor, the mounting. `DRIFTS` is the table.

A drift takes a sample and a severity from 0, where nothing happens, to 1, where a person would complain. What it draws
comes from the generator that it is given, so the same call gives the same sample.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Drift = Callable[[npt.NDArray[Any], float, np.random.Generator], npt.NDArray[Any]]


def brighter(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """More light."""
    return _pixels(x + np.float32(120 * severity))


def darker(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """Less light."""
    return _pixels(x * np.float32(1 - 0.75 * severity))


def contrast(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """Haze: everything is nearer to the mean."""
    mean = np.float32(x.mean())
    return _pixels((x - mean) * np.float32(1 - 0.8 * severity) + mean)


def blur(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """Out of focus: a Gaussian of up to 2 % of the width."""
    width = severity * max(1.5, 0.02 * x.shape[1])
    reach = int(np.ceil(2 * width))
    if reach == 0:
        return x
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    out = x.astype(np.float32)
    for axis in (0, 1):
        edges = [(reach, reach) if place == axis else (0, 0) for place in range(3)]
        padded, size = np.pad(out, edges, mode="edge"), x.shape[axis]
        parts = (padded[place : place + size] if axis == 0 else padded[:, place : place + size]
                 for place in range(2 * reach + 1))  # fmt: skip
        out = sum((weight * part for weight, part in zip(weights, parts, strict=True)), np.zeros_like(out))
    return _pixels(out)


def noise(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """A sensor in the dark: Gaussian noise."""
    return _pixels(x + np.float32(70 * severity) * chance.standard_normal(x.shape, np.float32))


def dust(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """Pixels that are black or white."""
    struck = chance.random(x.shape[:2], np.float32)
    share = 0.25 * severity
    out = x.copy()
    out[struck < share / 2] = 0
    out[struck > 1 - share / 2] = 255
    return out


def rotation(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """A camera that has slipped, by up to 40 degrees."""
    height, width = x.shape[:2]
    angle = np.deg2rad(40 * severity)
    y, z = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    rows = np.rint(np.cos(angle) * y - np.sin(angle) * z + (height - 1) / 2).astype(np.intp).clip(0, height - 1)
    columns = np.rint(np.sin(angle) * y + np.cos(angle) * z + (width - 1) / 2).astype(np.intp).clip(0, width - 1)
    turned: Pixels = x[rows, columns]
    return turned


def pixelate(x: Pixels, severity: float, chance: np.random.Generator) -> Pixels:
    """A lower resolution."""
    size = 1 + round(severity * max(2, x.shape[1] // 16))
    rows, columns = (np.arange(length) // size * size for length in x.shape[:2])
    coarse: Pixels = x[rows][:, columns]
    return coarse


def gain(x: Floats, severity: float, chance: np.random.Generator) -> Floats:
    """A sensor that tells less than there is."""
    return x * np.float32(1 - 0.7 * severity)


def offset(x: Floats, severity: float, chance: np.random.Generator) -> Floats:
    """A zero that has moved, by up to what the sample itself varies."""
    return x + np.float32(severity * (x.std() + 1e-6))


def hiss(x: Floats, severity: float, chance: np.random.Generator) -> Floats:
    """Noise."""
    return x + np.float32(severity * (x.std() + 1e-6)) * chance.standard_normal(x.shape, np.float32)


def stuck(x: Floats, severity: float, chance: np.random.Generator) -> Floats:
    """Numbers that do not change any more."""
    return np.where(np.arange(x.size).reshape(x.shape) % 10 < 5 * severity, np.float32(x.flat[0]), x)


DRIFTS: Final[Mapping[str, Mapping[str, Drift]]] = {
    "image": {
        "brighter": brighter,
        "darker": darker,
        "contrast": contrast,
        "blur": blur,
        "noise": noise,
        "dust": dust,
        "rotation": rotation,
        "pixelate": pixelate,
    },
    "vector": {"gain": gain, "offset": offset, "hiss": hiss, "stuck": stuck},
}
"""By the kind of input that a bundle takes."""


def _pixels(x: npt.NDArray[Any]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    return rounded
