"""Losses of adaptation, as means over a batch."""

import math

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the predicted distribution, nats, [B]: H = -sum_c p_c ln p_c (Wang et al. 2021, Eq. 1)."""
    log_p = torch.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-sum_c y_c ln p_c, nats, [B], for class probabilities y [B, C]; 0 where a row of y is all zero."""
    return -(y * torch.log_softmax(logits, 1)).sum(1)


def below(values: Tensor, threshold: float | Tensor) -> Tensor:
    """1.0 where a value is below the threshold, else 0.0; no gradient."""
    return (values.detach() < threshold).to(values.dtype)


def labelled(y: Tensor) -> Tensor:
    """1.0 where a row of class probabilities y [B, C] holds a label, else 0.0."""
    return torch.clamp(y.sum(1), max=1.0)


def mean_over(values: Tensor, selected: Tensor) -> Tensor:
    """Mean of the selected values, 0 when none is selected (never 0/0, whose gradient would be NaN)."""
    return (values * selected).sum() / torch.clamp(selected.sum(), min=1.0)


def distance(adapted: Tensor, source: Tensor) -> Tensor:
    """Mean absolute difference, the regulariser of EcoTTA (Song et al. 2023, Eq. 3)."""
    return (adapted - source).abs().mean()


def entropy_margin(classes: int, share: float = 0.4) -> float:
    """Entropy below which a sample counts as reliable: 0.4 ln C (Niu et al. 2022, Eq. 3)."""
    return share * math.log(classes)


def proxy_contrast(features: Tensor, proxies: Tensor, y: Tensor, temperature: float | Tensor = 0.09) -> Tensor:
    """Loss of proxy-based contrastive replay, nats, [B] (Lin et al. 2023, PCR).

    With cosines s_ic of features [B, D] and proxies [C, D] over the temperature, and n_c samples of class c in the
    batch: ln sum_c n_c exp(s_ic) - s_iy. Where all are labelled, its mean is the published double sum over pairs of
    samples; classes without a sample in the batch are not pushed away, and those with more weigh more. 0 where a row of
    class probabilities y [B, C] is all zero.
    """
    cosines = unit(features) @ unit(proxies).t() / temperature
    known = labelled(y)
    present = (torch.softmax(cosines, 1) * y.sum(0)).sum(1) + (1.0 - torch.clamp(known.sum(), max=1.0))
    return cross_entropy(cosines, y) + known * torch.log(present)


def unit(rows: Tensor) -> Tensor:
    """Rows [N, D] divided by their length; a row of zeros stays one."""
    return rows / torch.sqrt((rows * rows).sum(1, keepdim=True) + SQUARED_LENGTH)


SQUARED_LENGTH = 1e-12
"""Added to squared lengths, so that the gradient at a row of zeros is finite."""
