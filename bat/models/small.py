"""The small networks of a chosen width: bodies from images to features, with the number of features."""

import torch
from torch import nn


def small_cnn(shape: torch.Size, width: int) -> tuple[nn.Module, int]:
    """Return three convolutions with batch normalisation, of width, 2 width and 4 width channels. shape: (c, h, w).

    Features are its channels' means over the four quarters of the image: for 8 x 8 pixels just the last 2 x 2 places.
    A head on every place of larger images has thousands of inputs, and blows up at learning rates that suit small ones.
    """
    channels, height, side = shape

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = block(channels, width, 1) + block(width, 2 * width, 2) + block(2 * width, 4 * width, 2)
    # ceil(ceil(h / 2) / 2): what two convolutions of stride 2 leave
    rows, columns = -(-height // 4), -(-side // 4)
    if max(rows, columns) > 2:
        # the halves, which share the middle of an odd number: adaptive pooling to 2 x 2, whose gradients on a GPU
        # depend on the order of sums
        kernel, stride = (-(-rows // 2), -(-columns // 2)), (max(rows // 2, 1), max(columns // 2, 1))
        layers.append(nn.AvgPool2d(kernel, stride))
        rows, columns = min(rows, 2), min(columns, 2)
    return nn.Sequential(*layers, nn.Flatten()), 4 * width * rows * columns


def mlp(shape: torch.Size, width: int) -> tuple[nn.Module, int]:
    """Return two hidden layers of ``width`` units. shape: (c, h, w)."""
    layers = [nn.Flatten(), nn.Linear(shape.numel(), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers), width
