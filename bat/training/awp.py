"""The gradient of an outer loss, at the weights themselves or under adversarial weight perturbation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bat.models import Network
from bat.training.losses import Batch, Objective, Terms


def backward(
    model: Network, batch: Batch, objective: Objective, *, scale: Callable[[Tensor], Tensor] = lambda loss: loss
) -> Terms:
    """Add the gradient of the batch's loss, through ``scale``, to those of the parameters; return the loss's terms.

    With ``objective.awp`` both are those at perturbed weights (Wu et al. 2020): each trained tensor with
    more than one dimension (no biases, no normalisation) is moved by gamma times its norm along its gradient of the
    same loss on the same batch, and put back. The running statistics of batch normalisation are moved once, by the
    pass at the perturbed weights, as in the authors' code; the pass before it leaves them alone.
    """
    if not objective.awp:
        terms = objective.outer(model, batch)
        scale(terms.loss).backward()  # type: ignore[no-untyped-call]
        return terms
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1 and parameter.requires_grad]
    with running_statistics_kept(model):
        loss = objective.outer(model, batch).loss
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    with perturbed(weights, gradients, gamma=objective.awp):
        terms = objective.outer(model, batch)
        scale(terms.loss).backward()  # type: ignore[no-untyped-call]
    return terms


@contextmanager
def perturbed(weights: Sequence[Tensor], gradients: Sequence[Tensor], *, gamma: float) -> Iterator[None]:
    """Move each weight tensor by gamma times its norm along its gradient, and put it back to the bit.

    A tensor whose gradient is 0 stays where it is, and one whose gradient is tiny moves as far as any other.
    """
    found = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            # to a largest entry of 1: squares of tiny ones would vanish, and the norm is then 0 or at least 1
            ascent = gradient / gradient.abs().max().clamp(min=torch.finfo(gradient.dtype).tiny)
            weight.add_(ascent * (gamma * weight.norm() / ascent.norm().clamp(min=1)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, found, strict=True):
                weight.copy_(before)


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
