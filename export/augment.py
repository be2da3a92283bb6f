"""What a camera or a sensor may do to source samples, for warm-up: one random domain a batch, as in a deployment.

Images: brightness, contrast, saturation, defocus, grey, sensor noise, and mirroring by sample. The corruptions of the
benchmarks are not among them as such. Vectors: gain and offset by feature, and noise.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

JITTER = 0.4
"""Half the range of brightness, contrast and saturation, as in EcoTTA's warm-up."""
SHARE = {"jitter": 0.4, "blur": 0.2, "grey": 0.1, "noise": 0.3}
"""How many of the batches meet each."""
BLUR = (0.1, 2.0)
"""Range of sigma, pixels."""
BLUR_SIZE = 5
NOISE = 0.1
"""Largest standard deviation, of a pixel range of 1."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


def image_domain(x: Tensor, random: torch.Generator) -> Tensor:
    """A batch of images [B, C, H, W] in 0..1, in a random domain."""

    def draw() -> float:
        return torch.rand((), generator=random).item()

    def around_one() -> float:
        return 1 + JITTER * (2 * draw() - 1)

    if draw() < SHARE["jitter"]:
        x = (x * around_one()).clamp(0, 1)
        mean = _grey(x).mean((2, 3), keepdim=True)
        x = ((x - mean) * around_one() + mean).clamp(0, 1)
        grey = _grey(x)
        x = ((x - grey) * around_one() + grey).clamp(0, 1)
    if draw() < SHARE["blur"] and min(x.shape[2:]) > BLUR_SIZE // 2:
        x = _blur(x, BLUR[0] + (BLUR[1] - BLUR[0]) * draw())
    if draw() < SHARE["grey"]:
        x = _grey(x).expand_as(x)
    if draw() < SHARE["noise"]:
        x = (x + NOISE * draw() * torch.randn(x.shape, generator=random)).clamp(0, 1)
    return x


def mirror(x: Tensor, random: torch.Generator) -> Tensor:
    """Half of the images [B, C, H, W] left to right."""
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=random) < 0.5, x.flip(3), x)


def vector_domain(x: Tensor, spread: Tensor, random: torch.Generator) -> Tensor:
    """A batch of vectors [B, ...] in a random domain.

    `spread` is the standard deviation of each feature on source data.
    """
    gain = 1 + JITTER * (2 * torch.rand(x.shape[1:], generator=random) - 1)
    offset = JITTER * spread * (2 * torch.rand(x.shape[1:], generator=random) - 1)
    noise = NOISE * torch.rand((), generator=random) * spread * torch.randn(x.shape, generator=random)
    return x * gain + offset + noise


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != len(LUMA):
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(LUMA).reshape(1, -1, 1, 1)).sum(1, keepdim=True)


def _blur(x: Tensor, sigma: float) -> Tensor:
    place = torch.arange(BLUR_SIZE) - BLUR_SIZE // 2
    line = torch.exp(-(place**2) / (2 * sigma**2))
    line = line / line.sum()
    half, channels = BLUR_SIZE // 2, x.shape[1]
    padded = pad(x, (half, half, half, half), mode="reflect")
    down = conv2d(padded, line.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return conv2d(down, line.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
