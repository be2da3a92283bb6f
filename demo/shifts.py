"""What may happen to a camera after deployment, and a stream of images to which it happens.

An image is uint8 [height, width, 1]. The same seed gives the same stream, bit by bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from demo.model import Images, Labels

Random = np.random.Generator

NOISE: Final = 30
"""Standard deviation, of 255 grey levels."""
DEFOCUS: Final = 2.2
"""Standard deviation of the blur, pixels."""
CONTRAST: Final = 0.6
"""Of the range that is left around mid-grey."""
BRIGHTNESS: Final = 60
"""Grey levels."""
ROTATION_DEG: Final = 25
OCCLUSION: Final = 9
"""Side of the square that is covered, pixels."""


def clean(x: Images, random: Random) -> Images:
    """Nothing happens."""
    return x


def noise(x: Images, random: Random) -> Images:
    """Night: the sensor amplifies."""
    return _whole(x + NOISE * random.standard_normal(x.shape))


def defocus(x: Images, random: Random) -> Images:
    """The lens is knocked out of focus."""
    return _each(x, lambda image: image.filter(ImageFilter.GaussianBlur(DEFOCUS)))


def contrast(x: Images, random: Random) -> Images:
    """Fog."""
    return _whole(127.5 + CONTRAST * (x - 127.5))


def brightness(x: Images, random: Random) -> Images:
    """Sun on the lens: what is bright is lost."""
    return _whole(x + BRIGHTNESS)


def rotation(x: Images, random: Random) -> Images:
    """The mount has turned."""
    return _each(x, lambda image: image.rotate(ROTATION_DEG, Image.Resampling.BILINEAR))


def occlusion(x: Images, random: Random) -> Images:
    """Something hangs in front of the lens, each time elsewhere."""
    x = x.copy()
    top, left = random.integers(0, x.shape[1] - OCCLUSION + 1, (2, len(x)))
    for image, row, column in zip(x, top, left, strict=True):
        image[row : row + OCCLUSION, column : column + OCCLUSION] = 0
    return x


SHIFTS: Final[dict[str, Callable[[Images, Random], Images]]] = {
    "clean": clean,
    "noise": noise,
    "defocus": defocus,
    "contrast": contrast,
    "brightness": brightness,
    "rotation": rotation,
    "occlusion": occlusion,
    "clean again": clean,
}
"""In the order in which they happen."""


@dataclass(frozen=True)
class Stream:
    """Images one after the other, with what happened to them; the labels are only for counting errors."""

    x: Images
    y: Labels
    names: tuple[str, ...]
    each: int
    """Images under each shift."""


def stream(x: Images, y: Labels, *, each: int, seed: int) -> Stream:
    """`each` images of x under every shift in turn, in a random order that differs from shift to shift."""
    random = np.random.default_rng(seed)
    images, labels = [], []
    for shift in SHIFTS.values():
        places = random.permutation(len(x))[:each]
        images.append(shift(x[places], random))
        labels.append(y[places])
    return Stream(np.concatenate(images), np.concatenate(labels), tuple(SHIFTS), each)


def _whole(x: npt.NDArray[Any]) -> Images:
    return x.clip(0, 255).round().astype(np.uint8)


def _each(x: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    return np.stack([np.asarray(change(Image.fromarray(image[..., 0]))) for image in x])[..., None]
