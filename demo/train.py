"""Trains the network of the demo with plain PyTorch, as anyone would; nothing in here knows of edgecl."""

from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from demo import model

EPOCHS: Final = 12
BATCH: Final = 64
LR: Final = 3e-3
MARGIN: Final = 2
"""Pixels by which a digit may lie off the middle."""


def train(weights: Path, *, epochs: int = EPOCHS) -> float:
    """Train it, save its weights, and give its error on what was held out."""
    torch.set_num_threads(1)  # the same bits on any number of cores, and no contest where others work
    torch.manual_seed(0)
    network = model.make()
    x, y = _tensors(*model.train())
    steps = len(x) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=epochs * steps)
    for _ in range(epochs):
        for places in torch.randperm(len(x))[: steps * BATCH].reshape(steps, BATCH):
            loss = cross_entropy(network(_moved(x[places])), y[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    safetensors.torch.save_file(network.state_dict(), weights)
    return _error(network.eval(), *_tensors(*model.held_out()))


def _error(network: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return 1 - float((network(x).argmax(1) == y).float().mean())


def _tensors(x: model.Images, y: model.Labels) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(x).permute(0, 3, 1, 2) / 255, torch.from_numpy(y)


def _moved(x: Tensor) -> Tensor:
    """A batch moved by a few pixels."""
    down, right = torch.randint(0, 2 * MARGIN + 1, (2,)).tolist()
    height, width = x.shape[2:]
    return pad(x, (MARGIN, MARGIN, MARGIN, MARGIN))[:, :, down : down + height, right : right + width]
