"""Targeted fast adaptive boundary attack (Croce and Hein 2020, FAB)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bat.attacks.ball import size
from bat.attacks.gradient import ascent, predictions, targeted_margin


def fab(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    target: Tensor,
    *,
    norm: str,
    eps: float,
    steps: int,
    alpha_max: float,
    eta: float,
    beta: float,
    start: Tensor | None = None,
) -> Tensor:
    """Targeted FAB (Croce and Hein 2020, algorithm 1) of ``steps`` steps from ``start``, by default x itself.

    x, start: (n, c, h, w) in [0, 1], start within eps of x; labels, target: (n,), the classes whose boundary is
    stepped to, though any class but the label's breaks a sample. alpha_max: largest weight of the step from x;
    eta: overshoot beyond the boundary; beta: how much of the way from x is kept after a point is misclassified.

    Returns (n, c, h, w): for a sample that was broken the first misclassified point found within eps, for others x.
    A broken sample is dropped, where the authors go on to look for a closer point: which samples are broken is the
    same. Each sample's path is its own. No final search, as in AutoAttack.
    """
    result, row, origin = x.clone(), torch.arange(len(x), device=x.device), x
    pair = torch.stack([labels, target], dim=1)
    point = x if start is None else start
    for _ in range(steps):
        if not len(row):
            break
        # most points of later steps are misclassified and moved back, so that gradients at the new ones would be lost
        value, _, gradient = ascent(model, point, pair, targeted_margin)
        # a model may compute in another precision than its images have
        point = _ahead(point, origin, value.to(x.dtype), gradient, norm=norm, alpha_max=alpha_max, eta=eta)
        with torch.no_grad():
            wrong = predictions(model(point)) != pair[:, 0]
        broken = wrong & (size(point - origin, norm).flatten() <= eps)
        result[row[broken]] = point[broken]
        point = torch.where(wrong[:, None, None, None], origin + beta * (point - origin), point)
        row, origin, pair, point = (values[~broken] for values in (row, origin, pair, point))
    return result


def to_plane(points: Tensor, weight: Tensor, excess: Tensor, *, norm: str) -> Tensor:
    """Return the shortest steps within [0, 1] from points to hyperplanes, or as near as the box allows.

    points, weight: (n, d), points in [0, 1]; excess: (n,), what weight . step has to bring to 0. Returns (n, d).

    Pixel i moves by min(multiplier * speed_i, room_i), with speed 1 for L-inf and |w_i| for L2. What that gains is
    concave in the multiplier, the least of the lines with the first k pixels to be stopped at their room, so that the
    multiplier is the largest of those that the lines ask for.
    """
    tiny = torch.finfo(points.dtype).tiny
    # scaled to 1 first: the squares of small gradients would underflow
    largest = weight.abs().amax(1, keepdim=True).clamp(min=tiny)
    weight, excess = weight / largest, excess[:, None] / largest
    direction = -(weight.sign() * excess.sign())
    room = torch.where(direction > 0, 1 - points, points) * weight.sign().abs()
    speed = torch.ones_like(weight) if norm == "linf" else weight.abs()
    stop, order = (room / speed.clamp(min=tiny)).sort(dim=1)
    slope = (weight.abs() * speed).gather(1, order)
    gained = F.pad((slope * stop)[:, :-1].cumsum(1), (1, 0))
    slope = slope.flip(1).cumsum(1).flip(1)
    multiplier = ((excess.abs() - gained) / slope.clamp(min=tiny)).amax(1, keepdim=True)
    # where the box ends before the plane the multiplier may be infinite, and its product with a speed of 0 NaN
    return direction * torch.minimum(multiplier.clamp(max=1 / tiny) * speed, room)


def _ahead(
    point: Tensor, origin: Tensor, value: Tensor, gradient: Tensor, *, norm: str, alpha_max: float, eta: float
) -> Tensor:
    """Return the next point: beyond the boundary linearised at ``point``, partly seen from the image ``origin``."""
    at_origin = value + ((origin - point) * gradient).flatten(1).sum(1)
    both = torch.cat([point, origin])
    weight = gradient.flatten(1).repeat(2, 1)
    step = to_plane(both.flatten(1), weight, torch.cat([value, at_origin]), norm=norm).view_as(both)
    # the authors' least length, for steps of length 0
    length, from_origin = size(step, norm).clamp(min=1e-8).chunk(2)
    alpha = (length / (length + from_origin)).clamp(max=alpha_max)
    ahead, from_image = (both + eta * step).chunk(2)
    mixed: Tensor = (1 - alpha) * ahead + alpha * from_image
    return mixed.clamp(0, 1)
