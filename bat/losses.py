"""The outer losses of training and the inner loss that each pairs with.

A loss sees one batch and returns tensors: it never crafts an attack, changes the model's mode or steps an optimizer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bat.attacks.gradient import InnerLoss, cross_entropy
from bat.config import Bat, Method, Natural, PgdAt
from bat.models import Network


class Terms(NamedTuple):
    """What a batch's loss is made of, each a scalar tensor.

    ``loss`` is what the optimizer minimises; the others are detached and go to the history: the discrimination
    loss, the number of harmful samples in the batch and the sum of their weights.
    """

    loss: Tensor
    discrimination: Tensor
    harmful: Tensor
    harmful_weight: Tensor


OuterLoss = Callable[[Network, Tensor, Tensor, Tensor], Terms]
"""(model, x, labels, atypical) -> terms. x: (n, c, h, w), adversarial where the objective has an inner loss."""


@dataclass(frozen=True)
class Objective:
    """An outer loss with the inner loss that its adversarial examples maximise; None: clean images."""

    inner: InnerLoss | None
    outer: OuterLoss


def objective(method: Method) -> Objective:
    """Return the objective that a method of the configuration names."""
    match method:
        case Natural():
            return Objective(None, _mean_cross_entropy)
        case PgdAt():
            return Objective(cross_entropy, _mean_cross_entropy)
        case Bat():
            return Objective(cross_entropy, _bat(method))


def harmful_samples(logits: Tensor, labels: Tensor, atypical: Tensor) -> Tensor:
    """Return which samples of a batch are harmful: (n,) bool, atypical ones whose adversarial example is misclassified.

    logits: (n, classes) of adversarial examples; labels: (n,); atypical: (n,) bool.
    """
    return atypical & (logits.argmax(1) != labels)


def bat_weights(logits: Tensor, labels: Tensor, atypical: Tensor, *, alpha: float) -> Tensor:
    """Return BAT's sample weights w: (n,), detached.

    w_i = exp(-alpha q_i), q_i the highest probability of a wrong class, where sample i is harmful; 1 elsewhere. This is
    the project's reading of Xu et al. 2021.

    logits: (n, classes) of adversarial examples; labels: (n,); atypical: (n,) bool.
    """
    logits = logits.detach()
    harmful = harmful_samples(logits, labels, atypical)
    # of a misclassified sample the highest probability is a wrong class's
    return torch.where(harmful, torch.exp(-alpha * F.softmax(logits, dim=1).amax(1)), 1)


def discrimination_loss(features: Tensor, labels: Tensor, harmful: Tensor, *, temperature: float) -> Tensor:
    """Return the discrimination loss DL of a batch, a scalar; 0 without any valid pair.

    With L2-normalised features h, the mean over pairs (a, b) of one class, b not harmful, of
    -log[ exp(h_a.h_b / tau) / (exp(h_a.h_b / tau) + sum over c of other classes exp(h_a.h_c / tau)) ].
    This is the project's reading of Xu et al. 2021.

    features: (n, d); labels: (n,); harmful: (n,) bool.
    """
    h = F.normalize(features, dim=1)
    similarity = h @ h.T / temperature
    same = labels[:, None] == labels
    # a large finite number: in a batch of one class nothing but -inf would be left to sum
    others = similarity.masked_fill(same, -1e9).logsumexp(1, keepdim=True)
    pairs = same & ~harmful
    pairs.fill_diagonal_(False)
    loss = F.softplus(others - similarity)
    return torch.where(pairs, loss, 0).sum() / pairs.sum().clamp(min=1)


def _mean_cross_entropy(model: Network, x: Tensor, labels: Tensor, atypical: Tensor) -> Terms:
    zero = torch.zeros((), device=x.device)
    return Terms(F.cross_entropy(model(x), labels), zero, zero, zero)


def _bat(method: Bat) -> OuterLoss:
    alpha = method.alpha if method.reweighting else 0.0
    beta = method.beta if method.discrimination else 0.0

    def outer(model: Network, x: Tensor, labels: Tensor, atypical: Tensor) -> Terms:
        features = model.features(x)
        logits = model.head(features)
        weights = bat_weights(logits, labels, atypical, alpha=alpha)
        loss = (weights * cross_entropy(logits, labels)).sum() / weights.sum()
        harmful = harmful_samples(logits, labels, atypical)
        discrimination = torch.zeros((), device=x.device)
        if beta:
            discrimination = discrimination_loss(features, labels, harmful, temperature=method.temperature)
            loss = loss + beta * discrimination
        return Terms(loss, discrimination.detach(), harmful.sum(), weights[harmful].sum())

    return outer
