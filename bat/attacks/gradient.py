"""What gradient attacks maximise, and its gradient in the image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

InnerLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), target (n, ...)) -> loss of each sample (n,), which an attack maximises."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def label_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit less the highest other, (n,): negative where the model is wrong, 0 at a tie."""
    label = labels[:, None]
    return logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)


def targeted_margin(logits: Tensor, target: Tensor) -> Tensor:
    """Return z_t - z_y (n,), positive where the target class beats the label. target: (n, 2), label and target."""
    chosen = logits.gather(1, target)
    return chosen[:, 1] - chosen[:, 0]


def targeted_dlr(logits: Tensor, target: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio (Croce and Hein 2020), for 4 classes and more.

    (z_t - z_y) / (z_1 - (z_3 + z_4) / 2) with the logits sorted, so that scaling and shifting logits change nothing.
    target: (n, 2), label and target class. Returns (n,).
    """
    highest = logits.topk(4, dim=1).values
    scale = highest[:, 0] - (highest[:, 2] + highest[:, 3]) / 2
    return targeted_margin(logits, target) / (scale + 1e-12)


def ascent(model: nn.Module, x_adv: Tensor, target: Tensor, loss: InnerLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's loss (n,), the logits, and the gradient of the loss in x_adv."""
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x_adv)
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value.sum(), x_adv)
    return value.detach(), logits.detach(), gradient
