"""A ResNet-20 that knows five of the ten classes of CIFAR-10: trained here once, and kept in the user's cache.

SGD with Nesterov momentum for 25 epochs over the training images of airplane, automobile, bird, cat and deer, mirrored
and moved by up to 4 pixels; about 8 minutes of one core.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import data
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from models import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

Set = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]

KNOWN: Final = 5
"""Of `data.CLASSES`, the first ones."""
EPOCHS: Final = 25
BATCH: Final = 64
RATE: Final = 0.1
DECAY: Final = 5e-4
MARGIN: Final = 4
SEED: Final = 0


def known(given: Set) -> Set:
    """The samples of the classes that it knows."""
    x, y = given
    return x[y < KNOWN], y[y < KNOWN]


def train_set() -> Set:
    """What it is trained on."""
    return known(data.train())


def held_out() -> Set:
    """Test images that no benchmark counts."""
    return known(data.held_out())


def resnet() -> ResNet:
    """Of the classes that it knows."""
    model = ResNet(20)
    model.linear = nn.Linear(64, KNOWN)
    model.load_state_dict(safetensors.torch.load_file(_trained()))
    return model.eval()


def with_room() -> ResNet:
    """With random rows in the linear layer for the other classes too, of the mean norm and bias of the trained ones.

    It answers less well than `resnet` before it has seen them.
    """
    model, trained = ResNet(20), resnet()
    generator = torch.Generator().manual_seed(SEED)
    state = trained.state_dict()
    count, features = len(data.CLASSES) - KNOWN, state["linear.weight"].shape[1]
    rows = F.normalize(torch.randn(count, features, generator=generator)) * state["linear.weight"].norm(dim=1).mean()
    state["linear.weight"] = torch.cat([state["linear.weight"], rows])
    state["linear.bias"] = torch.cat([state["linear.bias"], state["linear.bias"].mean().expand(count)])
    model.load_state_dict(state)
    return model.eval()


def _trained() -> Path:
    """The file of weights; trained first where there is none for this recipe."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecl-benchmarks"
    recipe = f"{KNOWN} {EPOCHS} {BATCH} {RATE} {DECAY} {MARGIN} {SEED} {torch.__version__}"
    path = folder / f"resnet20-five-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        safetensors.torch.save_file(_train().state_dict(), new)
        new.rename(path)
    return path


def _train() -> ResNet:
    torch.manual_seed(SEED)
    model = ResNet(20)
    model.linear = nn.Linear(64, KNOWN)
    x, y = train_set()
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (data.MEAN, data.STD))
    images, labels = (torch.from_numpy(x).permute(0, 3, 1, 2) / 255 - mean) / std, torch.from_numpy(y)
    steps = len(x) // BATCH
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    model.train()
    for _ in range(EPOCHS):
        for places in torch.randperm(len(x))[: steps * BATCH].reshape(steps, BATCH):
            loss = F.cross_entropy(model(_moved(images[places])), labels[places])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model


def _moved(x: Tensor) -> Tensor:
    """A batch moved and mirrored by chance: each half of it alike."""
    parts = []
    for part in x.chunk(2):
        down, right = torch.randint(0, 2 * MARGIN + 1, (2,)).tolist()
        size = part.shape[2]
        moved = F.pad(part, (MARGIN, MARGIN, MARGIN, MARGIN))[:, :, down : down + size, right : right + size]
        parts.append(moved.flip(3) if torch.rand(()) < 0.5 else moved)
    return torch.cat(parts)
