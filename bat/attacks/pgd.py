"""Projected gradient ascent: the only PGD loop of this package."""

from collections.abc import Callable

from torch import Tensor, nn

from bat.attacks.ball import project, step
from bat.attacks.gradient import InnerLoss, ascent


def pgd(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    loss: InnerLoss,
    norm: str,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor,
    watch: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Projected gradient ascent (Madry et al. 2018) from ``start``; returns its last point.

    x, start: (n, c, h, w), x in [0, 1]; target: what ``loss`` compares logits with, labels for the cross-entropy.
    eps and step_size are for pixels in [0, 1]. ``watch`` is called with the logits of the point that each step starts
    from.
    """
    x_adv = start
    for _ in range(steps):
        _, logits, gradient = ascent(model, x_adv, target, loss)
        if watch:
            watch(logits)
        x_adv = project(step(x_adv, gradient, step_size, norm=norm), x, norm=norm, eps=eps)
    return x_adv
