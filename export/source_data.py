"""Samples as the board feeds them, turned into what the model takes, in torch."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgecl.manifest import Input

WHOLE = 255.0
"""The pixel value that counts as 1."""


class SourceData:
    """Labelled samples [N, ...], uint8 images or float vectors, and how they become model inputs."""

    def __init__(self, x: npt.NDArray[Any], y: npt.NDArray[np.int64], given: Input) -> None:
        self.x, self.y, self.given = x, y, given
        dims = (1, -1, 1, 1) if given.kind == "image" else (1, -1, *[1] * (len(given.shape) - 1))
        self._scale = torch.tensor(given.scale).reshape(dims)
        self._shift = torch.tensor(given.shift).reshape(dims)

    def __len__(self) -> int:
        return len(self.x)

    def raw(self, places: slice | npt.NDArray[np.int64]) -> Tensor:
        """Samples in 0..1 with channels first, or vectors as they are."""
        picked = torch.from_numpy(np.ascontiguousarray(self.x[places]))
        return picked.permute(0, 3, 1, 2).to(torch.float32) / WHOLE if self.given.kind == "image" else picked

    def scaled(self, raw: Tensor) -> Tensor:
        """What `raw` gave as model inputs."""
        unit = WHOLE if self.given.kind == "image" else 1.0
        return (raw * unit * self._scale + self._shift).contiguous()

    def inputs(self, places: slice | npt.NDArray[np.int64]) -> Tensor:
        """Samples as model inputs, float32."""
        return self.scaled(self.raw(places))

    def labels(self, places: slice | npt.NDArray[np.int64]) -> Tensor:
        """int64 [n]."""
        return torch.from_numpy(self.y[places])

    def spread_out(self, count: int) -> npt.NDArray[np.int64]:
        """Places of `count` samples evenly over the whole, so that data sorted by class gives all classes."""
        return np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64))
