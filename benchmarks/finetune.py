"""All parameters of a network, adapted in eager PyTorch by the entropy of its answers: what adaptors are compared with.

As TENT (Wang et al. 2021), but for what it trains: everything. Every batch is answered with its own statistics.
"""

from typing import Any, Final

import data
import models
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

MOMENTUM: Final = 0.9
EVALUATED: Final = 50


class FineTuned:
    """SGD with momentum, from the network as trained. At rate 0, that network with the statistics of its training."""

    def __init__(self, rate: float, batch: int) -> None:
        self._batch = batch
        self._model, self._rate = models.resnet20(), rate
        for module in self._model.modules():
            if rate and isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None
        self._optimizer = torch.optim.SGD(self._model.parameters(), rate, momentum=MOMENTUM)

    def stream(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Answers, each from the step that learns from its batch; what does not fill a batch is answered only."""
        if not self._rate:
            return self.answer(x)
        answers = []
        for start in range(0, len(x), self._batch):
            some = x[start : start + self._batch]
            if len(some) < self._batch:
                answers.append(self.answer(x[-self._batch :])[-len(some) :])
                continue
            logits = self._model(_inputs(some))
            answers.append(logits.argmax(1).numpy())
            loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return np.concatenate(answers)

    def answer(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Answers of images of one domain, in batches; nothing is learned."""
        parts = np.array_split(x, max(1, len(x) // EVALUATED))
        with torch.no_grad():
            return np.concatenate([self._model(_inputs(part)).argmax(1).numpy() for part in parts])


def _inputs(x: npt.NDArray[Any]) -> Tensor:
    images = torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (data.MEAN, data.STD))
    return (images - mean) / std
