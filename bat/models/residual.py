"""Residual networks for small images: bodies from images (n, channels, h, w) to features, with their number.

Each starts with a 3 x 3 convolution of stride 1 and no pooling, and ends with the mean over all places, resnet9 with
the maximum. Convolutions start from He's normal distribution over what leaves them (He et al. 2015), as in torchvision;
those of resnet9 as torch starts them, with which its recipes were found.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def resnet(depth: int, channels: int, width: int) -> tuple[nn.Module, int]:
    """Return torchvision's ResNet of 18 or 50 layers (He et al. 2016, arXiv 1512.03385) with the first layers replaced.

    Of width 64, 11,173,962 parameters with a head of 10 classes for 18 layers, 23,520,842 for 50.
    """
    import torchvision  # seconds to import, which small networks need not wait for

    network = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}[depth](weights=None)
    outputs = network.fc.in_features
    network.conv1 = _convolution(channels, width, 3)
    if width == 64:
        _start(network.conv1)
    else:
        # torchvision has no argument for it
        block, network.inplanes, network.bn1 = type(network.layer1[0]), width, nn.BatchNorm2d(width)
        for group, layers in enumerate((network.layer1, network.layer2, network.layer3, network.layer4)):
            made = network._make_layer(block, width * 2**group, len(layers), stride=1 + (group > 0))
            setattr(network, f"layer{group + 1}", made)
        _start(network)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network, outputs * width // 64


def preact_resnet18(channels: int, width: int) -> tuple[nn.Module, int]:
    """Return a pre-activation ResNet of 18 layers (He et al. 2016, arXiv 1603.05027), as Rice et al. 2020 use it.

    Of width 64, 11,172,170 parameters with a head of 10 classes: batch normalisation and ReLU stand before the pooling,
    which some public code leaves out (11,171,146).
    """
    return _preactivation(channels, stem=width, widths=(width, 2 * width, 4 * width, 8 * width), blocks=2)


def wide_resnet(depth: int, factor: int, channels: int, width: int) -> tuple[nn.Module, int]:
    """Return WRN-depth-factor (Zagoruyko and Komodakis 2016, arXiv 1605.07146), without dropout; depth is 6 b + 4.

    Of width 16, WRN-28-10 has 36,479,194 parameters with a head of 10 classes, 36,536,884 with 100; WRN-34-10
    46,160,474 with 10.
    """
    widths = tuple(width * factor * times for times in (1, 2, 4))
    return _preactivation(channels, stem=width, widths=widths, blocks=(depth - 4) // 6)


def resnet9(channels: int, width: int) -> tuple[nn.Module, int]:
    """Return the ResNet-9 of fast CIFAR-10 training, as FFCV's example has it after KakaoBrain's torchskeleton.

    Images have at least 11 x 11 pixels. Features come scaled by 0.2, which is that example's factor on the logits; its
    last layer has no bias, the head here has one. Of width 64, 2,274,890 parameters with a head of 10 classes.
    """

    def layer(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, padding: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = [
        *layer(channels, width),
        *layer(width, 2 * width, 5, stride=2, padding=2),
        _Residual(*layer(2 * width, 2 * width), *layer(2 * width, 2 * width)),
        *layer(2 * width, 4 * width),
        nn.MaxPool2d(2),
        _Residual(*layer(4 * width, 4 * width), *layer(4 * width, 4 * width)),
        *layer(4 * width, 2 * width, padding=0),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        _Scale(0.2),
    ]
    return nn.Sequential(*layers), 2 * width


class _Residual(nn.Sequential):
    """Layers beside a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        changed = x
        for layer in self:
            changed = layer(changed)
        return x + changed


class _Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def _preactivation(channels: int, *, stem: int, widths: Sequence[int], blocks: int) -> tuple[nn.Module, int]:
    """Return a group of ``blocks`` for each of ``widths``; each group but the first halves height and width."""
    layers: list[nn.Module] = [_convolution(channels, stem, 3)]
    inputs = stem
    for group, outputs in enumerate(widths):
        for block in range(blocks):
            layers.append(_Block(inputs, outputs, stride=2 if group and not block else 1))
            inputs = outputs
    tail = [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    body = nn.Sequential(*layers, *tail)
    _start(body)
    return body, inputs


class _Block(nn.Module):
    """Normalisation, ReLU and a 3 x 3 convolution, twice, beside a shortcut.

    The shortcut is the input itself, or, where channels or size change, a 1 x 1 convolution of the activated input.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), _convolution(inputs, outputs, 3, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(outputs), _convolution(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else _convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active)), inplace=True))
        return changed + shortcut


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


def _start(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
