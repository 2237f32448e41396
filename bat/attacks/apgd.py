"""Auto-PGD (Croce and Hein 2020)."""

import torch
from torch import Tensor, nn

from bat.attacks.ball import project, step
from bat.attacks.gradient import InnerLoss, ascent, predictions


def apgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    target: Tensor,
    *,
    loss: InnerLoss,
    norm: str,
    eps: float,
    steps: int,
    rho: float,
    start: Tensor,
) -> Tensor:
    """Auto-PGD (Croce and Hein 2020, algorithm 1) from ``start``.

    labels: (n,), what breaks a sample is any other class; target: what ``loss`` compares logits with, labels for the
    cross-entropy, pairs of label and target class (n, 2) for a targeted loss.

    Returns (n, c, h, w): for a sample that was broken the first point found to be misclassified, for others the point
    of highest loss. A broken sample is dropped from later steps; each sample's path is its own, so that the
    others are not affected.

    Checkpoints follow the paper: the first after 22 % of the steps, each interval 3 points shorter, at least 6 %. The
    step size starts at 2 eps and is halved, and the best point taken up again, where at most rho of an interval's
    steps raised the loss, or where neither step size nor best loss has changed since the last checkpoint.
    """
    result = x.clone()
    row = torch.arange(len(x), device=x.device)
    value, logits, gradient = ascent(model, start, target, loss)
    state = {
        "row": row,
        "x": x,
        "labels": labels,
        "target": target,
        "point": start,
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
        value, logits, gradient = ascent(model, ahead, state["target"], loss)
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


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Choose by sample: chosen is (n,), the others (n, ...)."""
    return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)


def _drop_broken(state: dict[str, Tensor], logits: Tensor, result: Tensor) -> dict[str, Tensor]:
    """Write the points that the model got wrong into ``result`` and return the state of the others."""
    broken = predictions(logits) != state["labels"]
    if not broken.any():
        return state
    result[state["row"][broken]] = state["point"][broken]
    return {name: value[~broken] for name, value in state.items()}
