"""Trains a learner's own parameters on source data with the encoder frozen, before deployment.

As in Song et al. 2023, section 3.2, with the augmentations of export/augment.py.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from edgecl.errors import ProjectError
from export import augment
from export.learners import Pieces, Warms
from export.project import Warmup
from export.source_data import SourceData

MOMENTUM = 0.9
RISE = 0.1
"""Share of the steps over which the learning rate rises; it falls as a cosine over the rest."""

SETTLE_VALUES = 10_000_000
"""Input values that statistics are measured on at once: 1,024 images of 32x32x3 take 3 million."""
SETTLE_SAMPLES = 1024


def warm_up(learner: Warms, data: SourceData, settings: Warmup, say: Callable[[str], None] = lambda _: None) -> None:
    """Make the learner ready to deploy: its parameters trained for `settings.epochs`, its statistics measured.

    Raises ProjectError: it diverged.
    """
    calm = data.inputs(data.spread_out(min(SETTLE_SAMPLES, SETTLE_VALUES // data.x[0].size)))
    learner.begin(calm)
    learner.settle(learner.start, calm)
    if settings.epochs:
        learner.settle(_train(learner, data, settings, say), calm)


def _train(learner: Warms, data: SourceData, settings: Warmup, say: Callable[[str], None]) -> Pieces:
    random = torch.Generator().manual_seed(settings.seed)
    params = {name: piece.clone().requires_grad_(True) for name, piece in learner.start.items()}
    optimizer = torch.optim.SGD(params.values(), lr=settings.lr, momentum=MOMENTUM)
    batch = min(settings.batch, len(data))
    steps = len(data) // batch
    spread = torch.from_numpy(data.x.std(0)) if data.given.kind == "vector" else None
    for epoch in range(settings.epochs):
        order = torch.randperm(len(data), generator=random).numpy().astype(np.int64)
        total = 0.0
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _schedule((epoch * steps + step + 1) / (settings.epochs * steps))
            places = order[step * batch : (step + 1) * batch]
            raw = data.raw(places)
            if spread is None:
                raw = (
                    augment.mirror(augment.image_domain(raw, random), random)
                    if settings.mirror
                    else augment.image_domain(raw, random)
                )
            else:
                raw = augment.vector_domain(raw, spread, random)
            loss = torch.nn.functional.cross_entropy(learner.warm(params, data.scaled(raw)), data.labels(places))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
        if not math.isfinite(total):
            raise ProjectError(
                f"warmup: the loss is not finite in epoch {epoch + 1}; lower warmup.lr, now {settings.lr}"
            )
        say(f"warm-up {epoch + 1}/{settings.epochs}: loss {total / steps:.3f}")
    return {name: piece.detach() for name, piece in params.items()}


def _schedule(done: float) -> float:
    return done / RISE if done < RISE else 0.5 * (1 + math.cos(math.pi * done))
