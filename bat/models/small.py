"""The small networks of a chosen width: bodies from images to features, with the number of features."""

import torch
from torch import nn


def small_cnn(shape: torch.Size, width: int) -> tuple[nn.Module, int]:
    """Return three convolutions with batch normalisation, of width, 2 width and 4 width channels. shape: (c, h, w)."""
    channels, height, side = shape

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = block(channels, width, 1) + block(width, 2 * width, 2) + block(2 * width, 4 * width, 2)
    # ceil(ceil(h / 2) / 2): what two convolutions of stride 2 leave
    area = -(-height // 4) * -(-side // 4)
    return nn.Sequential(*layers, nn.Flatten()), 4 * width * area


def mlp(shape: torch.Size, width: int) -> tuple[nn.Module, int]:
    """Return two hidden layers of ``width`` units. shape: (c, h, w)."""
    layers = [nn.Flatten(), nn.Linear(shape.numel(), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers), width
