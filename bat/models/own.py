"""Networks of the user's own: a body and the linear layer at its end."""

from itertools import chain
from typing import Protocol

import torch
from torch import Tensor, nn

from bat.config import OwnModel, own_function, users_code
from bat.errors import BatError

_FORM = (
    "give def network(*, shape, classes), which returns a torch.nn.Module from float32 images (n, c, h, w) to logits "
    "(n, classes), with one nn.Linear at its end"
)


class NetworkFunction(Protocol):
    """What a user's network is made by; it may take more keywords, its options."""

    def __call__(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        """Return the network, untrained."""


def own_network(model: OwnModel, shape: torch.Size, classes: int) -> tuple[nn.Module, nn.Linear]:
    """Return the body of a user's network for images of ``shape`` (c, h, w), and its head, the layer that it ends in.

    Raises:
        BatError: the function fails, or returns no such network.
    """
    where = f"model {model.name}"
    function: NetworkFunction = own_function(model.name, _FORM, keywords=("shape", "classes"), part=model)
    channels, height, width = shape
    network = function(shape=(channels, height, width), classes=classes)
    if not isinstance(network, nn.Module):
        raise BatError(f"{where}: returned {type(network).__name__}, not a torch.nn.Module: {_FORM}")
    check_gradients(network, where)
    layers = [(place, module) for place, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not layers or not layers[-1][0]:
        raise BatError(f"{where}: has no layers that end in one nn.Linear: {_FORM}")
    place, head = layers[-1]
    parent, _, child = place.rpartition(".")
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    network.eval()
    logits = _passed(network, x, where)
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"no tensor but a {type(logits).__name__}"
        raise BatError(f"{where}: its output for 2 images is {found}, not (2, {classes}): {_FORM}")
    if not bool(logits.isfinite().all()):
        raise BatError(f"{where}: its outputs are NaN or infinite before any training: change its initial weights")
    setattr(network.get_submodule(parent), child, nn.Identity())
    features = _passed(network, x, where)
    ends = isinstance(features, Tensor) and features.shape == (2, head.in_features)
    if not ends or not torch.allclose(_passed(head, features, where), logits, rtol=1e-3, atol=1e-4):
        raise BatError(f"{where}: its last nn.Linear, {place}, is not its last layer: {_FORM}")
    if not all(isinstance(value, Tensor) for value in network.state_dict().values()):
        raise BatError(f"{where}: its state_dict holds more than tensors: keep what it needs in parameters and buffers")
    return network.train(), head


def check_gradients(network: nn.Module, where: str) -> None:
    """Raise BatError for a network that was built in inference mode, or whose code left that on."""
    tensors = chain(network.parameters(), network.buffers())
    if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in tensors):
        raise BatError(f"{where}: made under torch.inference_mode, so that it has no gradients: make it outside")


def _passed(network: nn.Module, x: Tensor, where: str) -> Tensor:
    with users_code(f"{where}: fails on images {tuple(x.shape)}", _FORM), torch.no_grad():
        output: Tensor = network(x)
    return output
