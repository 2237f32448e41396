"""Attacks of the user's own."""

from typing import Protocol

import torch
from torch import Tensor, nn

from bat.attacks.ball import excess
from bat.config import OwnAttack, own_function
from bat.errors import BatError
from bat.models import seeded

_FORM = "give def attack(model, x, y, *, norm, eps, generator), which returns images like x, in [0, 1] and in the ball"


class AttackFunction(Protocol):
    """What a user's attack is: from images x (n, c, h, w) and labels y (n,) to perturbed images."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, generator: torch.Generator
    ) -> Tensor:
        """Return perturbed images like x."""


def own_attack(
    attack: OwnAttack, model: nn.Module, x: Tensor, labels: Tensor, *, norm: str, eps: float, seed: int
) -> Tensor:
    """Return what the user's function makes of images x: (n, c, h, w) in [0, 1].

    Raises:
        BatError: it fails, or returns anything but finite images like x in [0, 1] and in the ball.
    """
    where = f"attack {attack.name}"
    function: AttackFunction = own_function(
        attack.name, _FORM, taken=3, keywords=("norm", "eps", "generator"), part=attack
    )
    random = torch.Generator(x.device).manual_seed(seed)
    # copies: it may change them in place
    with seeded(seed, x.device):  # what draws without the generator
        found = function(model, x.clone(), labels.clone(), norm=norm, eps=eps, generator=random)
    if not isinstance(found, Tensor) or found.shape != x.shape or not found.is_floating_point():
        shape = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise BatError(f"{where}: returned {shape}, not images of shape {tuple(x.shape)}: {_FORM}")
    found = found.detach().to(x)
    if not bool(found.isfinite().all()):
        raise BatError(f"{where}: returned images with NaN or infinity: {_FORM}")
    low, high, beyond = float(found.min()), float(found.max()), excess(found, x, norm=norm, eps=eps)
    if low < 0 or high > 1:
        raise BatError(f"{where}: returned pixels from {low:.6g} to {high:.6g}, beyond [0, 1]: {_FORM}")
    if beyond > 0:
        raise BatError(f"{where}: left the {norm} ball of {eps:g} by {beyond:.3g}: {_FORM}")
    return found
