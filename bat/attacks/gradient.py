"""What gradient attacks maximise, and its gradient in the image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bat.errors import BatError, Stopped, in_words, is_out_of_memory

InnerLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), target (n, ...)) -> loss of each sample (n,), which an attack maximises."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def finite(logits: Tensor) -> Tensor:
    """Return which samples have finite logits only: (n,) bool."""
    return logits.isfinite().all(1)


def predictions(logits: Tensor) -> Tensor:
    """Return the class of the highest logit, (n,) int64; -1, which is no label, where a logit is NaN or infinite.

    Every decision whether a sample is right comes from here or from ``label_margin``: comparisons with NaN are false,
    and the place of a NaN is what argmax returns.
    """
    return torch.where(finite(logits), logits.argmax(1), -1)


def label_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label's logit less the highest other, (n,): negative where the model is wrong, 0 at a tie.

    Minus infinity where a logit is NaN or infinite: what says nothing is not right.
    """
    label = labels[:, None]
    margin = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(1)
    return torch.where(finite(logits), margin, -torch.inf)


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
    """Return each sample's loss (n,), the logits, and the gradient of the loss in x_adv.

    Loss and gradient are finite, so that a point moved by them is: NaN counts as no gradient, and as the lowest loss.
    A model without a gradient has one of 0.

    Raises:
        BatError: the model's own code fails in the backward pass.
    """
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x_adv)
        value = loss(logits, target)
        gradient = _gradient(value, x_adv) if value.requires_grad else torch.zeros_like(x_adv)
    value, gradient = (
        tensor.detach().nan_to_num(nan=nan, posinf=_HUGE, neginf=-_HUGE)
        for tensor, nan in ((value, -_HUGE), (gradient, 0))
    )
    return value, logits.detach(), gradient


_HUGE = 1e15
"""For infinite values: finite still when squared, and summed up over an image, in float32."""


def _gradient(value: Tensor, x_adv: Tensor) -> Tensor:
    try:
        (gradient,) = torch.autograd.grad(value.sum(), x_adv, allow_unused=True, materialize_grads=True)
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # a user's own backward pass may raise anything
        if is_out_of_memory(error):
            raise
        raise BatError(f"the model has no gradient in its images ({in_words(error)})") from error
    return gradient
