"""The eps ball around an image: norms, projection, steps of steepest ascent, random points."""

import torch
from torch import Tensor


def size(delta: Tensor, norm: str) -> Tensor:
    """Return the norm of each perturbation, (n, 1, 1, 1). delta: (n, c, h, w)."""
    order = {"linf": torch.inf, "l2": 2}[norm]
    length: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=(1, 2, 3), keepdim=True)
    return length


def excess(x_adv: Tensor, x: Tensor, *, norm: str, eps: float) -> float:
    """Return how far the furthest of x_adv is beyond the eps ball around x; at most 0, to float32 rounding, inside."""
    beyond = float(size(x_adv - x, norm).max()) - eps
    return 0.0 if 0 < beyond <= 1e-6 * max(eps, 1) else beyond


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
        delta = _normal(uniform)
        delta = delta * (eps / size(delta, norm))
    return project(x + delta, x, norm=norm, eps=eps)


def near_start(x: Tensor, uniform: Tensor) -> Tensor:
    """Return x + 0.001 N(0, 1), where TRADES starts (Zhang et al. 2019): the gradient at x itself is 0.

    uniform: like x, in [0, 1). Not projected: only the steps of an attack are.
    """
    return x + 0.001 * _normal(uniform)


def _normal(uniform: Tensor) -> Tensor:
    """Return the normal quantiles of uniform numbers; the clamp keeps its ends finite."""
    quantiles: Tensor = torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))
    return quantiles
