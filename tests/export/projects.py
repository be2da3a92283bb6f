"""A small project as a user would write it: a network, its weights, labelled images and edgecl.toml."""

from pathlib import Path

MODEL = """
import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def make():
    torch.manual_seed(1)
    return Net()


def not_a_model():
    return "model"


def two_outputs():
    class Two(Net):
        def forward(self, x):
            y = super().forward(x)
            return y, y

    return Two()


def samples(seed=0, n=96):
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = random.integers(0, 120, (n, 8, 8, 3))
    x[np.arange(n), :, :, y] += 100
    return x.astype(np.uint8), y


def floats():
    x, y = samples()
    return x / 255, y


def wrong_labels():
    x, y = samples()
    return x, y + 1
"""

LEARNER = '''
import torch

from export.learners import Answer, Step, answer
from export.objectives import entropy


class Offset:
    """Moves the logits towards answers that are all as frequent."""

    open_norms = False
    hyper = {"rate": 0.1}
    report = ("entropy",)
    noise = 0
    trained = ("offset",)

    def __init__(self, encoder, scale: float = 1.0):
        self.encoder, self.scale = encoder, scale

    def theta(self):
        return {"offset": torch.zeros(self.encoder.classes)}

    def slots(self):
        return {}

    def infer(self, theta, x):
        out = answer(self.encoder(x))
        return Answer(out.logits + self.scale * theta["offset"], out.taps)

    def adapt(self, theta, slots, x, noise, hyper):
        out = self.infer(theta, x)
        share = torch.softmax(out.logits, 1).mean(0)
        moved = theta["offset"] - hyper["rate"] * (share - 1 / self.encoder.classes)
        return Step(out, {"offset": moved}, {}, {"entropy": entropy(out.logits).mean()})
'''

TOML = """
name = "small"

[model]
factory = "model:make"
classes = ["red", "green", "blue"]
taps = ["body:in", "body"]

[input]
shape = [8, 8, 3]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[data]
train = "model:samples"

[learner]
name = "norm"
batch = 4

[warmup]
epochs = 1
batch = 32

[build]
memory = "200 MB"
canaries = 9
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """A project in the folder, with parts of its edgecl.toml replaced."""
    text = TOML
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "mine.py").write_text(LEARNER)
    (folder / "edgecl.toml").write_text(text)
    return folder


def named(learner: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """The changes for another learner."""
    return [('name = "norm"', f'name = "{learner}"'), *more]
