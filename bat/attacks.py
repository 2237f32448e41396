"""Attacks: pure functions of a model, images in [0, 1] and starting points.

They leave the model as they find it: they ask for the gradient of the images alone, so that no parameter's gradient is
computed or touched, and all randomness comes in with the starting points. The caller chooses the model's mode.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

InnerLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, classes), target (n, ...)) -> loss of each sample (n,), which an attack maximises."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each sample (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def size(delta: Tensor, norm: str) -> Tensor:
    """Return the norm of each perturbation, (n, 1, 1, 1). delta: (n, c, h, w)."""
    order = {"linf": torch.inf, "l2": 2}[norm]
    length: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=(1, 2, 3), keepdim=True)
    return length


def project(moved: Tensor, x: Tensor, *, norm: str, eps: float) -> Tensor:
    """Bring ``moved`` back into the eps ball around x and into [0, 1].

    Pixels are clipped last: x lies in [0, 1], so that clipping only shortens the perturbation.
    """
    delta = moved - x
    inside = delta.clamp(-eps, eps) if norm == "linf" else delta * (eps / size(delta, norm).clamp(min=eps))
    return (x + inside).clamp(0, 1)


def step(x_adv: Tensor, gradient: Tensor, length: float | Tensor, *, norm: str) -> Tensor:
    """Move ``length`` (pixels in [0, 1], in the norm's own measure) in the direction of steepest ascent."""
    if norm == "linf":
        return x_adv + length * gradient.sign()
    # scaled to 1 first: the squares of small gradients would underflow
    tiny = torch.finfo(gradient.dtype).tiny
    gradient = gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=tiny)
    return x_adv + length * gradient / size(gradient, norm).clamp(min=tiny)


def random_start(x: Tensor, uniform: Tensor, *, norm: str, eps: float) -> Tensor:
    """Return a random point of the eps ball around x.

    uniform: like x, in [0, 1). L-inf: uniform in the cube; L2: a uniform direction, at distance eps.
    """
    if norm == "linf":
        delta = (2 * uniform - 1) * eps
    else:
        # the normal quantile of uniform numbers; the clamp keeps its ends finite
        delta = torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))
        delta = delta * (eps / size(delta, norm))
    return project(x + delta, x, norm=norm, eps=eps)


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
) -> Tensor:
    """Projected gradient ascent (Madry et al. 2018) from ``start``; returns its last point.

    x, start: (n, c, h, w) in [0, 1]; target: what ``loss`` compares logits with, labels for the cross-entropy.
    eps and step_size are for pixels in [0, 1].
    """
    x_adv = start
    for _ in range(steps):
        _, _, gradient = _ascent(model, x_adv, target, loss)
        x_adv = project(step(x_adv, gradient, step_size, norm=norm), x, norm=norm, eps=eps)
    return x_adv


def apgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    loss: InnerLoss,
    norm: str,
    eps: float,
    steps: int,
    rho: float,
    start: Tensor,
) -> Tensor:
    """Auto-PGD (Croce and Hein 2020, algorithm 1) from ``start``.

    Returns (n, c, h, w): for a sample that was broken the first point found to be misclassified, for others the point
    of highest loss. A broken sample is dropped from later steps; each sample's path is its own, so that the
    others are not affected.

    Checkpoints follow the paper: the first after 22 % of the steps, each interval 3 points shorter, at least 6 %. The
    step size starts at 2 eps and is halved, and the best point taken up again, where at most rho of an interval's
    steps raised the loss, or where neither step size nor best loss has changed since the last checkpoint.
    """
    result = x.clone()
    row = torch.arange(len(x), device=x.device)
    value, logits, gradient = _ascent(model, start, labels, loss)
    state = {
        "row": row,
        "x": x,
        "labels": labels,
        "point": start,
        "previous": start,
        "gradient": gradient,
        "value": value,
        "best": start,
        "best_gradient": gradient,
        "best_value": value,
        "checked_value": value,
        "length": torch.full((len(x), 1, 1, 1), 2 * eps, dtype=x.dtype, device=x.device),
        "rises": torch.zeros(len(x), device=x.device),
        "halved": torch.ones(len(x), dtype=torch.bool, device=x.device),
    }
    state = _drop_broken(state, logits, result)
    interval, shortest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    since_check = 0
    for number in range(steps):
        if not len(state["row"]):
            break
        point, here = state["point"], state["x"]
        ahead = project(step(point, state["gradient"], state["length"], norm=norm), here, norm=norm, eps=eps)
        if number:
            ahead = point + 0.75 * (ahead - point) + 0.25 * (point - state["previous"])
            ahead = project(ahead, here, norm=norm, eps=eps)
        value, logits, gradient = _ascent(model, ahead, state["labels"], loss)
        state["rises"] = state["rises"] + (value > state["value"])
        better = value > state["best_value"]
        state.update(previous=point, point=ahead, gradient=gradient, value=value)
        state["best"] = _where(better, ahead, state["best"])
        state["best_gradient"] = _where(better, gradient, state["best_gradient"])
        state["best_value"] = _where(better, value, state["best_value"])
        state = _drop_broken(state, logits, result)
        since_check += 1
        if since_check == interval:
            oscillates = state["rises"] <= rho * interval
            stuck = ~state["halved"] & (state["best_value"] <= state["checked_value"])
            halve = oscillates | stuck
            state["length"] = torch.where(halve[:, None, None, None], state["length"] / 2, state["length"])
            state["point"] = _where(halve, state["best"], state["point"])
            state["gradient"] = _where(halve, state["best_gradient"], state["gradient"])
            state.update(halved=halve, checked_value=state["best_value"], rises=torch.zeros_like(state["rises"]))
            interval, since_check = max(interval - shrink, shortest), 0
    result[state["row"]] = state["best"]
    return result


def _ascent(model: nn.Module, x_adv: Tensor, target: Tensor, loss: InnerLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's loss (n,), the logits, and the gradient of the loss in x_adv."""
    x_adv = x_adv.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x_adv)
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value.sum(), x_adv)
    return value.detach(), logits.detach(), gradient


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Choose by sample: chosen is (n,), the others (n, ...)."""
    return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)


def _drop_broken(state: dict[str, Tensor], logits: Tensor, result: Tensor) -> dict[str, Tensor]:
    """Write the points that the model got wrong into ``result`` and return the state of the others."""
    broken = logits.argmax(1) != state["labels"]
    if not broken.any():
        return state
    result[state["row"][broken]] = state["point"][broken]
    return {name: value[~broken] for name, value in state.items()}
