"""What a project of the demo names in its edgecl.toml: the network, and the data that it was trained on.

The data are scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 24x24 as a camera would see them.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

Images = npt.NDArray[np.uint8]
"""[N, height, width, 1]"""
Labels = npt.NDArray[np.int64]

SIDE: Final = 24
BLACK, WHITE = 40, 180
"""What a camera makes of the darkest and the brightest of 17 greys: it has some range left at both ends."""
CHANNELS: Final = (16, 32, 64)
SPLIT: Final = 0
"""Seed of the order in which the digits are divided."""
TRAINED_ON: Final = 1297
"""Of all digits; the other 500 are held out."""


def make() -> nn.Module:
    """The network, untrained: `model.factory`."""
    return Network()


def train() -> tuple[Images, Labels]:
    """What it is trained on: `data.train`."""
    x, y = _digits()
    return x[:TRAINED_ON], y[:TRAINED_ON]


def held_out() -> tuple[Images, Labels]:
    """What it never saw: `data.held_out`."""
    x, y = _digits()
    return x[TRAINED_ON:], y[TRAINED_ON:]


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.around: nn.Module = nn.Identity()
        if stride > 1 or entering != leaving:
            self.around = nn.Sequential(nn.Conv2d(entering, leaving, 1, stride, bias=False), nn.BatchNorm2d(leaving))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.around(x))


class Network(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three = CHANNELS
        self.stem = nn.Sequential(nn.Conv2d(1, one, 3, 1, 1, bias=False), nn.BatchNorm2d(one), nn.ReLU())
        self.layer1 = Block(one, one, 1)
        self.layer2 = Block(one, two, 2)
        self.layer3 = Block(two, three, 2)
        self.linear = nn.Linear(three, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _digits() -> tuple[Images, Labels]:
    from sklearn.datasets import load_digits  # late: a process that only wants the network has no use for it

    found = load_digits()
    order = np.random.default_rng(SPLIT).permutation(len(found.target))
    small = (BLACK + (WHITE - BLACK) / 16 * found.images[order]).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in small]
    return np.stack(large)[..., None], found.target[order].astype(np.int64)
