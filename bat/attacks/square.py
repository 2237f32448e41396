"""Square Attack (Andriushchenko et al. 2020): random search with square windows, no gradients."""

import math
from bisect import bisect_left
from functools import cache

import torch
from torch import Tensor, nn

from bat.attacks.ball import size
from bat.attacks.gradient import label_margin
from bat.seeds import derive_seed, uniform

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Iterations of 10,000 after which the window's share of the image is halved: the authors' schedule."""

_BLOCK = 100
"""Iterations whose random numbers are drawn at once, so that the generator costs little."""

_TINY = 1e-12
"""What norms are raised to before a division: its reciprocal is finite, and times 0 it is 0."""


@torch.no_grad()
def square(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    index: Tensor,
    *,
    norm: str,
    eps: float,
    queries: int,
    p_init: float,
    seed: int,
) -> Tensor:
    """Square Attack on the margin (Andriushchenko et al. 2020, algorithms 1 to 3) of at most ``queries`` per sample.

    x: (n, c, h, w) in [0, 1]; labels, index: (n,) int64; eps: for pixels in [0, 1]; p_init: the share of the image
    that the first windows cover. A sample's randomness depends on (seed, its index) alone.

    Returns (n, c, h, w): for a sample that was broken the misclassified point, for others the point of lowest
    margin. The starting point is the first query. A broken sample is dropped at once.

    From AutoAttack's code: the schedule's step at 500, windows of L2 of odd side and at least 3, and no second draw
    of a window that changes nothing. As in the paper, but not there, windows reach the last row and column.
    """
    start, propose, count = {"linf": (_stripes, _repaint, 2), "l2": (_tiles, _shift, 5)}[norm]
    row, result, best = torch.arange(len(x), device=x.device), x.clone(), x.clone()
    lowest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    candidate = start(x, index, eps, derive_seed(seed, "start"))
    for step in range(queries):
        if step % _BLOCK == 0:
            random = uniform(derive_seed(seed, step // _BLOCK), index, (_BLOCK, count + x.shape[1]))
        margin = label_margin(model(candidate), labels)
        # few after the first iterations: copying them alone is cheaper than choosing for all
        better = (margin < lowest).nonzero().flatten()
        best[better], lowest[better] = candidate[better], margin[better].to(lowest.dtype)
        # a margin of 0 is a tie, which argmax may still decide for the label
        broken = lowest < 0
        if broken.any():
            result[row[broken]] = best[broken]
            stands = (~broken).nonzero().flatten()
            if not len(stands):
                return result
            state = (row, x, labels, index, random, best, lowest)
            row, x, labels, index, random, best, lowest = (values[stands] for values in state)
        p = share(step, queries=queries, p_init=p_init)
        candidate = propose(best, x, random[:, step % _BLOCK], p, eps)
    result[row] = best
    return result


def share(step: int, *, queries: int, p_init: float) -> float:
    """Return the share of the image that the window of iteration ``step`` (from 0) covers."""
    return p_init / float(2 ** bisect_left(_HALVINGS, step * 10_000 // queries))


@cache
def bumps(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the L2 update of the paper, upright and turned, each of norm 1: (2, side, side).

    A hill in one half and a pit in the other.
    """
    bump = torch.cat([_hill(side // 2, side), -_hill(side - side // 2, side)])
    bump = bump / bump.square().sum().sqrt()
    return torch.stack([bump, bump.T]).to(device, dtype)


def _hill(height: int, width: int) -> Tensor:
    """Return the sum over k of 1 / (k + 1)^2 on the rectangle within k of the middle, at norm 1: (height, width)."""
    weights = torch.arange(max(height, width) // 2 + 1, 0, -1, dtype=torch.float64) ** -2
    down, across = ((torch.arange(n) - n // 2).abs() for n in (height, width))
    hill: Tensor = weights.cumsum(0).flip(0)[torch.maximum(down[:, None], across)]
    return hill / hill.square().sum().sqrt()


def _signs(random: Tensor, like: Tensor) -> Tensor:
    """Return -1 or 1 for uniform numbers."""
    return torch.where(random < 0.5, -1, 1).to(like.dtype)


def _windows(random: Tensor, side: int, x: Tensor) -> Tensor:
    """Return the pixels of a random window of each sample, in the image flattened: (n, c, side^2).

    random: (n, 2), uniform numbers for row and column.
    """
    channels, height, width = x.shape[1:]
    # below the number of places also after rounding, which in float32 never reaches it
    top = (random[:, 0] * (height - side + 1)).long()
    left = (random[:, 1] * (width - side + 1)).long()
    within = torch.arange(side, device=x.device)
    pixels = (top * width + left)[:, None] + (within[:, None] * width + within).flatten()
    return pixels[:, None].expand(-1, channels, -1)


def _stripes(x: Tensor, index: Tensor, eps: float, seed: int) -> Tensor:
    """Return the L-inf starting point: vertical stripes of x +- eps, with a sign for each column and channel."""
    signs = _signs(uniform(seed, index, (x.shape[1], 1, x.shape[3])), x)
    return (x + eps * signs).clamp(0, 1)


def _repaint(best: Tensor, x: Tensor, random: Tensor, p: float, eps: float) -> Tensor:
    """Return ``best`` with a window at x +- eps, with a sign for each channel (algorithm 2).

    random: (n, 2 + c), for the place and the signs.
    """
    height, width = x.shape[2:]
    side = min(max(round(math.sqrt(p * height * width)), 1), height, width)
    window = _windows(random, side, x)
    values = x.flatten(2).gather(2, window) + eps * _signs(random[:, 2:, None], x)
    return best.flatten(2).scatter(2, window, values.clamp_(0, 1)).view_as(x)


def _tiles(x: Tensor, index: Tensor, eps: float, seed: int) -> Tensor:
    """Return the L2 starting point: tiles of a fifth of the image, each a bump turned at random and signed."""
    n, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    random = uniform(seed, index, (down, across, 1 + channels))
    turned = bumps(side, x.dtype, x.device)[(random[..., 0] < 0.5).long()]
    tiles = turned[:, :, :, None] * _signs(random[..., 1:, None, None], x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    delta = torch.zeros_like(x)
    tiled = tiles.permute(0, 3, 1, 4, 2, 5).reshape(n, channels, down * side, across * side)
    delta[:, :, top : top + down * side, left : left + across * side] = tiled
    return _onto_sphere(delta, x, eps)


def _shift(best: Tensor, x: Tensor, random: Tensor, p: float, eps: float) -> Tensor:
    """Return ``best`` with the perturbation of one window moved to another, as a bump on top (algorithm 3).

    random: (n, 5 + c), for the place where a bump is added, the place emptied, whether the bump is turned, and its
    sign in each channel.
    """
    channels, height, width = x.shape[1:]
    side = max(round(math.sqrt(p * height * width)), 3)
    side = min(side + 1 - side % 2, height, width)
    filled, emptied = _windows(random, side, x), _windows(random[:, 2:], side, x)
    delta = best - x
    unused = eps**2 - size(delta, "l2")[..., 0].square()
    # what rounding alone leaves: its root would be 1e-3 eps, and another one in a batch of another size
    unused = torch.where(unused > 1e-5 * eps**2, unused, 0) / channels
    delta = delta.flatten(2)
    old = delta.gather(2, filled)
    # emptied first, so that pixels of both windows count once
    delta.scatter_(2, filled, 0)
    freed = _energy(old) + _energy(delta.gather(2, emptied))
    delta.scatter_(2, emptied, 0)
    bump = bumps(side, x.dtype, x.device).flatten(1)[(random[:, 4] < 0.5).long()]
    new = bump[:, None] * _signs(random[:, 5:, None], x) + old / _energy(old).sqrt().clamp(min=_TINY)
    new = new * ((unused + freed).sqrt() / _energy(new).sqrt().clamp(min=_TINY))
    delta.scatter_(2, filled, new)
    return _onto_sphere(delta.view_as(x), x, eps)


def _energy(delta: Tensor) -> Tensor:
    """Return the sum of squares of each channel, (n, c, 1). delta: (n, c, pixels)."""
    return delta.square().sum(2, keepdim=True)


def _onto_sphere(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return the point at L2 distance eps from x in the direction ``delta``, clipped to [0, 1]."""
    return torch.addcmul(x, delta, eps / size(delta, "l2").clamp(min=_TINY)).clamp_(0, 1)
