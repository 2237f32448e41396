"""Networks. Normalisation is their first layer, so that attacks see pixels in [0, 1]."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bat.config import Model
from bat.data import Part


class Network(nn.Module):
    """A classifier in two halves: ``features`` and a linear ``head``.

    mean, std: (c,) of the training pixels, kept with the weights.
    """

    def __init__(self, body: nn.Module, width: int, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])
        self.mean: Tensor
        self.std: Tensor
        self.body = body
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (n, d) of images x: (n, c, h, w) in [0, 1]."""
        features: Tensor = self.body((x - self.mean) / self.std)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images x: (n, c, h, w) in [0, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def build(model: Model, train: Part, *, classes: int, seed: int) -> Network:
    """Build a network for the images of ``train``, normalised by their pixel statistics.

    Its initial weights depend on ``seed`` alone; the global random state is left as it was.
    """
    images = train.images()
    mean = images.mean(dim=(0, 2, 3))
    # a channel without any contrast must not divide by 0
    std = images.std(dim=(0, 2, 3)).clamp(min=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, width = _BODIES[model.name](images.shape[1:], model.width)
        network = Network(body, width, classes, mean.cpu(), std.cpu())
    return network.to(images.device)


class _Normalise(nn.Module):
    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def for_attacks(model: nn.Module) -> nn.Module:
    """Return a faster model for the many passes of an attack, with the outputs of ``model`` up to rounding.

    Where batch normalisation in evaluation mode follows a convolution in a sequence, the two become one convolution,
    which spares a quarter of the time of a gradient on a CPU. Weights are those of this moment. Any model but a
    ``Network`` in evaluation mode is returned itself.
    """
    if not isinstance(model, Network) or not isinstance(model.body, nn.Sequential) or model.training:
        return model
    layers: list[nn.Module] = []
    for layer in model.body:
        if isinstance(layer, nn.BatchNorm2d) and layers and isinstance(layers[-1], nn.Conv2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(_Normalise(model.mean, model.std), *layers, model.head)


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``model`` in training or evaluation mode, and each module back in the mode it was found in."""
    found = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in found:
            module.training = was_training


@contextmanager
def running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation in training mode use a batch's statistics without moving its running ones."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for module in found:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in found:
            module.track_running_stats = True


def _small_cnn(shape: torch.Size, width: int) -> tuple[nn.Module, int]:
    channels, height, side = shape

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = block(channels, width, 1) + block(width, 2 * width, 2) + block(2 * width, 4 * width, 2)
    # ceil(ceil(h / 2) / 2): what two convolutions of stride 2 leave
    area = -(-height // 4) * -(-side // 4)
    return nn.Sequential(*layers, nn.Flatten()), 4 * width * area


def _mlp(shape: torch.Size, width: int) -> tuple[nn.Module, int]:
    layers = [nn.Flatten(), nn.Linear(shape.numel(), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers), width


_BODIES: dict[str, Callable[[torch.Size, int], tuple[nn.Module, int]]] = {
    "small_cnn": _small_cnn,
    "mlp": _mlp,
}
