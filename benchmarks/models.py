"""The networks of the benchmarks in plain PyTorch, each as a stem, partitions and a head."""

from typing import Final

import data
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES: Final = 1001
"""Of the MobileNetV2; class 0 is background."""


class Split(nn.Module):
    """head(partitions(stem(x))): what EcoTTA needs to know of a network."""

    taps: tuple[str, ...]
    """Where the first partition begins, and where each one ends, as `model.taps` of a project names them."""
    size = 32
    """Height and width of its input, pixels."""

    def stem(self, x: Tensor) -> Tensor:
        """What comes before the first partition."""
        return x

    def partitions(self) -> list[nn.Module]:
        """Applied one after the other."""
        return []

    def head(self, x: Tensor) -> Tensor:
        """From the last partition to logits."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for partition in self.partitions():
            x = partition(x)
        return self.head(x)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    follows = (("conv1", "bn1"), ("conv2", "bn2"))
    """Convolutions, and the normalisation behind each."""

    def __init__(self, entered: int, left: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entered, left, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(left)
        self.conv2 = nn.Conv2d(left, left, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(left)
        self.pad = (left - entered) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class ResNet(Split):
    """ResNet for CIFAR-10 (He et al. 2016, section 4.2)."""

    taps = ("layer1:in", "layer1", "layer2", "layer3")
    follows = (("conv1", "bn1"),)

    def __init__(self, depth: int) -> None:
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*[BasicBlock(16, 16, 1) for _ in range(n)])
        self.layer2 = nn.Sequential(*[BasicBlock(32 if i else 16, 32, 1 if i else 2) for i in range(n)])
        self.layer3 = nn.Sequential(*[BasicBlock(64 if i else 32, 64, 1 if i else 2) for i in range(n)])
        self.linear = nn.Linear(64, 10)

    def stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def partitions(self) -> list[nn.Module]:
        return [self.layer1, self.layer2, self.layer3]

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class WideBlock(nn.Module):
    """Normalisation and ReLU before each of two convolutions (Zagoruyko and Komodakis 2016)."""

    follows = (("conv1", "bn2"),)

    def __init__(self, entered: int, left: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(entered)
        self.conv1 = nn.Conv2d(entered, left, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(left)
        self.conv2 = nn.Conv2d(left, left, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(entered, left, 1, stride, bias=False) if entered != left else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        z: Tensor = self.conv2(F.relu(self.bn2(self.conv1(y))))
        return z + (x if self.shortcut is None else self.shortcut(y))


class WideResNet(Split):
    """WRN-40-2, cut into four partitions of 3, 3, 6 and 6 blocks as EcoTTA's authors do."""

    taps = ("conv1", "blocks.2", "blocks.5", "blocks.11", "blocks.17")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        widths = [16, *[32] * 6, *[64] * 6, *[128] * 6]
        strides = [2 if place in (6, 12) else 1 for place in range(18)]
        self.blocks = nn.Sequential(*[WideBlock(*sizes) for sizes in zip(widths, widths[1:], strides, strict=False)])
        self.bn = nn.BatchNorm2d(128)
        self.fc = nn.Linear(128, 10)

    def stem(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv1(x)
        return features

    def partitions(self) -> list[nn.Module]:
        return [self.blocks[:3], self.blocks[3:6], self.blocks[6:12], self.blocks[12:]]

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.relu(self.bn(x)).mean((2, 3)))
        return logits


class Convolution(nn.Module):
    """Convolution with bias, and ReLU6 unless it projects; with stride 2 it pads right and bottom only."""

    def __init__(self, entered: int, left: int, kernel: int, stride: int, groups: int, relu: bool) -> None:
        super().__init__()
        self.c = nn.Conv2d(entered, left, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)
        self.pad, self.relu = stride == 2, relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(F.pad(x, (0, 1, 0, 1)) if self.pad else x)
        return F.relu6(x) if self.relu else x


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al. 2018)."""

    def __init__(self, entered: int, left: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = entered * expansion
        layers = [Convolution(entered, wide, 1, 1, 1, True)] if expansion > 1 else []
        layers += [Convolution(wide, wide, 3, stride, wide, True), Convolution(wide, left, 1, 1, 1, False)]
        self.m = nn.Sequential(*layers)
        self.residual = stride == 1 and entered == left

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.m(x)
        return x + y if self.residual else y


class MobileNetV2(Split):
    """MobileNetV2 1.0 for ImageNet (Sandler et al. 2018), its batch normalisations folded."""

    taps = ("body.3", "body.6", "body.13", "body.17")
    size = 224

    def __init__(self) -> None:
        super().__init__()
        body: list[nn.Module] = [Convolution(3, 32, 3, 2, 1, True)]
        entered = 32
        stages = [
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]
        for expansion, left, repeats, stride in stages:
            for place in range(repeats):
                body.append(InvertedResidual(entered, left, 1 if place else stride, expansion))
                entered = left
        body.append(Convolution(320, 1280, 1, 1, 1, True))
        self.body = nn.Sequential(*body)
        self.classifier = nn.Linear(1280, CLASSES)

    def stem(self, x: Tensor) -> Tensor:
        features: Tensor = self.body[:4](x)
        return features

    def partitions(self) -> list[nn.Module]:
        return [self.body[4:7], self.body[7:14], self.body[14:18]]

    def head(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body[18](x).mean((2, 3)))
        return logits


def resnet20() -> ResNet:
    """With weights trained on CIFAR-10."""
    model = ResNet(20)
    model.load_state_dict(safetensors.torch.load_file(data.weights("resnet20_cifar10")))
    return model.eval()


def wrn40_2() -> WideResNet:
    """With random weights: only bytes are counted."""
    torch.manual_seed(0)
    return WideResNet().eval()


def mobilenet_v2() -> MobileNetV2:
    """With weights trained on ImageNet."""
    model = MobileNetV2()
    given = safetensors.torch.load_file(data.weights("mobilenetv2_imagenet"))
    model.load_state_dict({name.replace("head.", "classifier."): value for name, value in given.items()})
    return model.eval()
