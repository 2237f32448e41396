"""A network and how it is built. Normalisation is its first layer, so that attacks see pixels in [0, 1]."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bat.config import LibraryModel, Model, OwnModel, ResidualModel, SizedModel, WideModel
from bat.data.dataset import Part
from bat.errors import BatError
from bat.models.library import library_body
from bat.models.own import own_network
from bat.models.residual import preact_resnet18, resnet, resnet9, wide_resnet
from bat.models.small import mlp, small_cnn

_M = TypeVar("_M", bound=nn.Module)


class Network(nn.Module):
    """A classifier in two halves: ``features`` and a linear ``head``.

    mean, std: (c,) of the training pixels, kept with the weights. precision: of the body in mixed precision, None for
    that of the weights; features come out as float32, so that head and losses are computed in it.
    """

    precision: torch.dtype | None = None

    def __init__(self, body: nn.Module, head: nn.Linear, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])
        self.mean: Tensor
        self.std: Tensor
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate features (n, d) of images x: (n, c, h, w) in [0, 1]."""
        with torch.autocast(x.device.type, self.precision, enabled=self.precision is not None):
            features: Tensor = self.body((x - self.mean) / self.std)
        return features if self.precision is None else features.float()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images x: (n, c, h, w) in [0, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


def build(model: Model, train: Part, *, classes: int, seed: int) -> Network:
    """Build a network for the images of ``train``, normalised by their pixel statistics.

    Its initial weights depend on ``seed`` alone, and none are trained; the global random state is left as it was.

    Raises:
        BatError: a network that does not take such images, or of another library and not there.
    """
    mean, std = _statistics(train)
    with seeded(seed, torch.device("cpu")):
        body, head = _halves(model, train.pixels.shape[1:], classes)
        # a channel without any contrast must not divide by 0
        network = Network(body, head, mean.float(), std.float().clamp(min=1e-3))
    return network.to(train.labels.device)


def _statistics(part: Part) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, in [0, 1], from counts of pixel values: (c,) float64 each.

    Counts are exact, and a large data set needs no second copy as floats.
    """
    channels = part.pixels.transpose(0, 1)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in channels]).double().cpu()
    values, n = torch.arange(256).double() / part.pixel_max, counts.sum(1)
    mean = counts @ values / n
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / (n - 1)
    return mean, variance.sqrt()


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
    ``Network`` in evaluation mode, or one in mixed precision, is returned itself, and layers that do anything but what
    torch's class does (a subclass, a parametrized weight, a hook) stay as they are.
    """
    if not (_plain(model, Network) and _plain(model.body, nn.Sequential)) or model.training or model.precision:
        return model
    layers: list[nn.Module] = []
    for layer in model.body:
        if layers and _plain(layers[-1], nn.Conv2d) and _plain(layer, nn.BatchNorm2d) and _has_statistics(layer):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        else:
            layers.append(layer)
    return nn.Sequential(_Normalise(model.mean, model.std), *layers, model.head)


def _plain(module: nn.Module, kind: type[_M]) -> TypeGuard[_M]:
    """Return whether a module computes what its class does: it is of no subclass, and has no hook or own forward."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return type(module) is kind and "forward" not in vars(module) and not any(vars(module).get(name) for name in hooks)


def _has_statistics(layer: nn.BatchNorm2d) -> bool:
    return layer.running_mean is not None and not layer.training


@contextmanager
def lowered(model: Network, precision: torch.dtype | None) -> Iterator[None]:
    """Let the body of ``model`` compute in mixed precision, with None as before."""
    found, model.precision = model.precision, precision
    try:
        yield
    finally:
        model.precision = found


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let what draws from torch's global random state (initial weights, dropout) depend on ``seed`` alone.

    The state of the CPU and of ``device`` is left as it was found.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # not torch.manual_seed, which seeds all GPUs
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


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


def _halves(model: Model, shape: torch.Size, classes: int) -> tuple[nn.Module, nn.Linear]:
    if isinstance(model, OwnModel):
        return own_network(model, shape, classes)
    body, width = _body(model, shape)
    return body, nn.Linear(width, classes)


def _body(model: SizedModel | ResidualModel | WideModel | LibraryModel, shape: torch.Size) -> tuple[nn.Module, int]:
    if isinstance(model, SizedModel):
        return {"small_cnn": small_cnn, "mlp": mlp}[model.name](shape, model.width)
    if isinstance(model, LibraryModel):
        return library_body(model.name, shape)
    if model.name == "resnet9" and min(shape[1:]) < 11:
        raise BatError(
            f"model resnet9: takes images of at least 11 x 11 pixels, not {shape[1]} x {shape[2]}: choose another"
        )
    return _RESIDUAL[model.name](shape[0], model.width)


_RESIDUAL: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "resnet9": resnet9,
    "resnet18": partial(resnet, 18),
    "preact_resnet18": preact_resnet18,
    "resnet50": partial(resnet, 50),
    "wrn_28_10": partial(wide_resnet, 28, 10),
    "wrn_34_10": partial(wide_resnet, 34, 10),
}


@contextmanager
def attackable(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode with its parameters out of the graph, and restore both."""
    found = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with mode(model, training=False):
        for parameter, _ in found:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, required in found:
                parameter.requires_grad_(required)
