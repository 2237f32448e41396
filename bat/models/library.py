"""Networks of torchvision and timm as bodies: untrained, and without their last linear layer."""

from difflib import get_close_matches

import torch
from torch import Tensor, nn

from bat.errors import BatError


def library_body(name: str, shape: torch.Size) -> tuple[nn.Module, int]:
    """Return the body of ``torchvision:NAME`` or ``timm:NAME`` for images of ``shape`` (c, h, w), and its features.

    No weights are downloaded.

    Raises:
        BatError: the library is missing or has no such network; or that network does not take such images, or does not
            end in a linear layer.
    """
    library, _, network = name.partition(":")
    body, expected = {"torchvision": _torchvision, "timm": _timm}[library](network, shape[0])
    try:
        with torch.no_grad():
            features = body.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        raise BatError(
            f"model {name}: does not take images {tuple(shape)} ({' '.join(str(error).split())}): "
            "choose another network"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or expected not in (None, features.shape[1]):
        raise BatError(f"model {name}: does not end in one linear layer: choose another network")
    return body.train(), features.shape[1]


def _torchvision(name: str, channels: int) -> tuple[nn.Module, int | None]:
    from torchvision import models

    # of this module alone: networks for detection download a trained backbone
    _check_name(f"torchvision:{name}", name, models.list_models(module=models))
    # whose further heads have a loss of their own
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **options)
    linear = [place for place, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise BatError(f"model torchvision:{name}: does not end in one linear layer: choose another network")
    parent, _, child = linear[-1].rpartition(".")
    width = network.get_submodule(linear[-1]).in_features
    setattr(network.get_submodule(parent), child, nn.Identity())
    if channels == 3:
        return network, width
    if channels == 1:
        return nn.Sequential(_Colour(), network), width
    raise BatError(f"model torchvision:{name}: takes images of 3 channels or grey ones, not of {channels}")


def _timm(name: str, channels: int) -> tuple[nn.Module, int | None]:
    try:
        import timm
    except ImportError as error:
        raise BatError(f"model timm:{name}: timm is not installed: pip install timm") from error
    # what follows a point names trained weights, which are not used
    _check_name(f"timm:{name}", name.partition(".")[0], timm.list_models())
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels)
    return network, None


def _check_name(model: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = ", ".join(get_close_matches(name, known)) or "none is near"
        raise BatError(f"model {model}: no such network in that library (near: {near})")


class _Colour(nn.Module):
    """Grey images (n, 1, h, w) as colour images (n, 3, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)
