"""The part of an encoder above a tap gives what the whole gives."""

import pytest
import torch
from torch import nn

from export.above import above
from tests.export import nets, pipeline

TAPS = {
    nets.ResNet: ("layer1:in", "layer1", "layer2", "layer3"),
    nets.Depthwise: ("block1:in", "block1"),
    nets.Mlp: ("first", "second"),
    nets.Waves: ("conv1", "conv2"),
}


@pytest.mark.parametrize("kind", TAPS)
def test_the_part_above_a_tap_goes_on_from_it(kind: type[nn.Module]) -> None:
    encoder = pipeline.captured(kind, torch.float64, taps=TAPS[kind])
    for size in (1, 4):
        whole = encoder(nets.batch(kind, size, seed=size).double())
        for place in range(len(TAPS[kind])):
            upper = above(encoder, place)
            assert upper is not None and [tap.name for tap in upper.taps] == list(TAPS[kind][place:])
            rest = upper(whole.taps[place])
            assert pipeline.apart(rest.logits, whole.logits) < 1e-12
            for got, want in zip(rest.taps, whole.taps[place:], strict=True):
                assert pipeline.apart(got, want) < 1e-12


def test_there_is_no_part_above_what_a_shortcut_goes_around() -> None:
    assert above(pipeline.captured(nets.ResNet, taps=("layer2.conv1",)), 0) is None
