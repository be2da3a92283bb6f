"""Small networks for sensors and speech, trained here in plain PyTorch, and their projects."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.project import Project, Tables

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Set = tuple[Floats, Labels]

BATCH: Final = 32
RATE: Final = 3e-3
DECAY: Final = 1e-2
HEADED: Final = ("source", "norm")
"""Learners that have no `learn`."""
TAPS: Final = ("hidden1", "hidden2")


class Mlp(nn.Module):
    """Two hidden layers for gas sensors."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.hidden2 = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.last = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.hidden2(self.hidden1(x)))
        return logits


class Cnn(nn.Module):
    """Four convolutions for spectrograms."""

    def __init__(self) -> None:
        super().__init__()

        def convolution(entered: int, left: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(entered, left, 3, stride, 1, bias=False), nn.BatchNorm2d(left), nn.ReLU()]

        self.stem = nn.Sequential(*convolution(1, 16, 1))
        self.hidden1 = nn.Sequential(*convolution(16, 32, 2), *convolution(32, 32, 2))
        self.hidden2 = nn.Sequential(*convolution(32, 64, 2))
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.hidden2(self.hidden1(self.stem(x)))
        logits: Tensor = self.last(F.dropout(features.mean((2, 3)), 0.3, self.training))
        return logits


def gas() -> Mlp:
    """Untrained."""
    return Mlp()


def speech() -> Cnn:
    """Untrained."""
    return Cnn()


def train(network: nn.Module, x: Floats, y: Labels, *, epochs: int, noise: float, seed: int) -> Mapping[str, Tensor]:
    """Weights after so many passes of AdamW over samples [N, ...]; `noise` is added, in deviations."""
    torch.manual_seed(seed)
    network.apply(lambda one: one.reset_parameters() if hasattr(one, "reset_parameters") else None)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    steps = len(x) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    network.train()
    for _ in range(epochs):
        for places in torch.randperm(len(x))[: steps * BATCH].reshape(steps, BATCH):
            given = inputs[places]
            loss = F.cross_entropy(network(given + noise * torch.randn_like(given)), labels[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.state_dict()


def project(
    kind: str,
    folder: Path,
    learner: str,
    *,
    weights: Mapping[str, Tensor],
    train: Set,
    held_out: Set,
    classes: Sequence[str],
    settings: Mapping[str, Any],
) -> Project:
    """As an `edgecl.toml` would say it; the weights and the data are written into a folder. `kind`: `gas`, `speech`.

    Labels teach either: the learner where it has `learn`, or a head.
    """
    safetensors.torch.save_file(dict(weights), folder / "weights.safetensors")
    for name, (x, y) in (("train", train), ("held_out", held_out)):
        np.savez(folder / f"{name}.npz", x=x, y=y)
    tables = {
        "name": f"{kind}-{learner}",
        "model": {
            "factory": f"small:{kind}",
            "weights": str(folder / "weights.safetensors"),
            "classes": classes,
            "taps": TAPS,
        },
        "input": {"kind": "vector", "shape": train[0].shape[1:]},
        "data": {"train": str(folder / "train.npz"), "held_out": str(folder / "held_out.npz")},
        "learner": {"name": learner, "batch": 16, "settings": settings},
        "warmup": {"mirror": False},
        "head": {"form": "lda" if learner in HEADED else "none"},
        "build": {"memory": "0 MB"},
    }
    return Project(Path(__file__).parent, msgspec.convert(tables, Tables))
