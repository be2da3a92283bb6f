"""Small trained-looking networks for the tests of the compiler, and the steps from one of them to a graph."""

from typing import TypeVar

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a way around them, as in ResNet."""

    def __init__(self, entered: int, left: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entered, left, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(left)
        self.conv2 = nn.Conv2d(left, left, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(left)
        plain = stride == 1 and entered == left
        around = [] if plain else [nn.Conv2d(entered, left, 1, stride, bias=False), nn.BatchNorm2d(left)]
        self.around = nn.Sequential(*around)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(inner + self.around(x))


class ResNet(nn.Module):
    """Input [B, 3, 16, 16]: a stem and three blocks, the second and third at half the size and double the width."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = Block(width, width, 1)
        self.layer2 = Block(width, 2 * width, 2)
        self.layer3 = Block(2 * width, 4 * width, 2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.fc(self.drop(hidden.mean((2, 3))))
        return logits


class Depthwise(nn.Module):
    """Input [B, 3, 16, 16]: inverted bottlenecks as in MobileNetV2 (1x1, depthwise with a stride, 1x1), ReLU6."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()

        def conv(entered: int, left: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
            layer = nn.Conv2d(entered, left, kernel, stride, kernel // 2, groups=groups, bias=False)
            return [layer, nn.BatchNorm2d(left)]

        self.stem = nn.Sequential(*conv(3, width, 3), nn.ReLU6())
        self.block1 = nn.Sequential(
            *conv(width, 3 * width, 1), nn.ReLU6(), *conv(3 * width, 3 * width, 3, 2, 3 * width), nn.ReLU6(),
            *conv(3 * width, width, 1),
        )  # fmt: skip
        self.block2 = nn.Sequential(
            *conv(width, 3 * width, 1), nn.ReLU6(), *conv(3 * width, 3 * width, 3, 1, 3 * width), nn.ReLU6(),
            *conv(3 * width, width, 1),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.block1(self.stem(x))
        logits: Tensor = self.fc(self.pool(hidden + self.block2(hidden)).flatten(1))
        return logits


class Mlp(nn.Module):
    """Input [B, 12]: linear layers; the second normalisation has no layer before it to fold into."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first, self.bn1 = nn.Linear(12, 16), nn.BatchNorm1d(16)
        self.second, self.bn2 = nn.Linear(16, 16), nn.BatchNorm1d(16)
        self.last = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.first(x)))
        logits: Tensor = self.last(self.bn2(torch.relu(self.second(hidden))))
        return logits


class Waves(nn.Module):
    """Input [B, 2, 24]: one-dimensional convolutions; the first normalisation stands before all layers."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm1d(2)
        self.conv1, self.bn1 = nn.Conv1d(2, 8, 5, 2, 2), nn.BatchNorm1d(8)
        self.conv2, self.bn2 = nn.Conv1d(8, 8, 3, 1, 1), nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(self.bn0(x))))
        hidden = torch.relu(self.bn2(self.conv2(hidden)))
        logits: Tensor = self.fc(hidden.mean(2))
        return logits


SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    ResNet: (3, 16, 16),
    Depthwise: (3, 16, 16),
    Mlp: (12,),
    Waves: (2, 24),
}


Net = TypeVar("Net", bound=nn.Module)


def trained(model: Net, seed: int = 1) -> Net:
    """The model with statistics and affine parameters that differ from channel to channel, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
            ):  # fmt: skip
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.data *= 4  # a trained network is sure of most of its answers
    return model.eval()


def batch(kind: type[nn.Module], size: int, seed: int = 0) -> Tensor:
    """Random samples for a network."""
    return torch.randn(size, *SHAPES[kind], generator=torch.Generator().manual_seed(seed))
