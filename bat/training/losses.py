"""The outer losses of training and the inner loss that each pairs with.

A loss sees one batch and returns tensors: it never crafts an attack, changes the model's mode or steps an optimizer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bat.attacks.gradient import InnerLoss, cross_entropy
from bat.config import is_weighted
from bat.config.training import (
    Bat,
    BatMart,
    BatTrades,
    Dpls,
    Gairat,
    Mail,
    MailTrades,
    Mart,
    Method,
    Natural,
    OwnMethod,
    PgdAt,
    Trades,
)
from bat.models import Network
from bat.training.own import own_inner, own_losses


@dataclass(frozen=True)
class Batch:
    """What a loss sees of n samples.

    clean, x: (n, c, h, w) in [0, 1], the images and what is trained on, adversarial where the objective has an inner
    loss. labels: (n,); atypical: (n,) bool; difficulty: (n,) in [0, 1], 0 for methods that read none. right: (n,), the
    share of the attack's steps that started at a point that is still classified correctly; empty without an attack.
    progress: the fraction of training that is done.
    """

    clean: Tensor
    x: Tensor
    labels: Tensor
    atypical: Tensor
    difficulty: Tensor
    right: Tensor
    progress: float
    label_smoothing: float


class Terms(NamedTuple):
    """What a batch's loss is made of.

    ``loss`` is what the optimizer minimises, a scalar. The others are detached. Scalars for the history: the
    discrimination loss, the number of harmful samples in the batch and the sum of their weights. For the record of
    samples: logits (n, classes) of ``Batch.x``, and the weights (n,) of the samples in the loss.
    """

    loss: Tensor
    discrimination: Tensor
    harmful: Tensor
    harmful_weight: Tensor
    logits: Tensor
    weight: Tensor


class Losses(NamedTuple):
    """What a method says of a batch of n samples: what a function of the user's own returns, as this or a plain tuple.

    losses: (n,), or their mean, a scalar. logits: (n, classes) of ``Batch.x``. weights: (n,) of the samples, by which
    the mean of ``losses`` is taken where these are (n,). discrimination: a scalar for the history alone.
    """

    losses: Tensor
    logits: Tensor
    weights: Tensor | None = None
    discrimination: Tensor | None = None


class Passed(NamedTuple):
    """Each sample's loss (n,), and features (n, d) and logits (n, classes) of ``Batch.x``."""

    losses: Tensor
    features: Tensor
    logits: Tensor


OuterLoss = Callable[[Network, Batch], Terms]
MethodLosses = Callable[[Network, Batch], Losses]
SampleLosses = Callable[[Network, Batch], Passed]


@dataclass(frozen=True)
class Objective:
    """An outer loss, and how its adversarial examples are made.

    inner: what the attack maximises; None: clean images. from_clean: the attack starts beside the clean image, and
    the target of ``inner`` is the logarithm of its predicted probabilities (TRADES); else it starts anywhere in the
    ball, and the target is the label. eps_factor: multiplies eps and step size. awp: gamma of adversarial weight
    perturbation, 0 for none.
    """

    inner: InnerLoss | None
    outer: OuterLoss
    from_clean: bool = False
    eps_factor: float = 1.0
    awp: float = 0.0


def objective(method: Method) -> Objective:
    """Return the objective that a method of the configuration names."""
    outer = partial(terms, method_losses=_method_losses(method), reads_score=is_weighted(method))
    if isinstance(method, Natural):
        return Objective(None, outer)
    inner: InnerLoss | None = kl_divergence if isinstance(method, Trades | MailTrades | BatTrades) else cross_entropy
    if isinstance(method, OwnMethod):
        known = {None: None, "cross_entropy": cross_entropy, "kl": kl_divergence}
        inner = known[method.inner] if method.inner in known else own_inner(method, str(method.inner))
    return Objective(inner, outer, inner is kl_divergence, method.eps_factor, method.awp)


def terms(model: Network, batch: Batch, *, method_losses: MethodLosses, reads_score: bool) -> Terms:
    """Return what a batch's loss is made of, from what a method says of it.

    Harmful samples are counted for methods that read a score: others are told of no atypical samples.
    """
    losses, logits, weights, discrimination = method_losses(model, batch)
    zero = torch.zeros((), device=losses.device)
    said = zero if discrimination is None else discrimination.detach()
    loss = losses.mean() if weights is None or losses.ndim == 0 else weighted_mean(losses, weights)
    weight = torch.ones_like(losses).expand(len(logits)) if weights is None else weights.detach()
    counted = (zero, zero)
    if reads_score:
        harmful = harmful_samples(logits, batch.labels, batch.atypical)
        counted = (harmful.sum(), (weight * harmful).sum())
    return Terms(loss, said, *counted, logits.detach(), weight)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of losses (n,); 0, not NaN, where every weight is 0."""
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


def _method_losses(method: Method) -> MethodLosses:
    match method:
        case Natural() | PgdAt():
            return _mean_cross_entropy
        case OwnMethod():
            function = own_losses(method)
            return lambda model, batch: Losses(*function(model, batch))
        case Gairat():
            return _gairat(method)
        case Mail():
            return _mail(method)
        case MailTrades():
            return _mail_trades(method)
        case Dpls():
            return _dpls(method)
        case Trades():
            return partial(_unweighted, sample_losses=_trades(method.beta))
        case Mart():
            return partial(_unweighted, sample_losses=_mart(method.factor))
        case Bat():
            return _bat(method, _cross_entropies)
        case BatTrades():
            return _bat(method, _trades(method.trades_beta))
        case BatMart():
            return _bat(method, _mart(method.mart_factor))


def kl_divergence(logits: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(p || softmax(logits)) of each sample (n,). log_p: (n, classes), logarithms of probabilities."""
    return F.kl_div(F.log_softmax(logits, dim=1), log_p, reduction="none", log_target=True).sum(1)


def boosted_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    """Return MART's -log p_y - log(1 - max over k other than y of p_k) of each sample (n,).

    Label smoothing changes the first term, the cross-entropy.
    """
    rival = logits.scatter(1, labels[:, None], -torch.inf).argmax(1, keepdim=True)
    # 1 - p_k as a sum of the others: the difference would be 0 where p_k is near 1
    others = logits.scatter(1, rival, -torch.inf).logsumexp(1)
    smoothed = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return smoothed + logits.logsumexp(1) - others


def difficulty_smoothed_cross_entropy(
    logits: Tensor, labels: Tensor, difficulty: Tensor, *, smoothing: float, label_smoothing: float
) -> Tensor:
    """Return the cross-entropy of each sample (n,), its label smoothed by s = smoothing * difficulty.

    (1 - s) CE + s mean over classes k of -log p_k, after Lee et al. 2025; CE is already smoothed by label_smoothing.
    That s is proportional to a score in [0, 1] that does not change in training is the project's reading.

    logits: (n, classes) of adversarial examples; labels: (n,); difficulty: (n,) in [0, 1].
    """
    share = smoothing * difficulty
    spread = -F.log_softmax(logits, dim=1).mean(1)
    plain = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return (1 - share) * plain + share * spread


def gairat_weights(right: Tensor, *, offset: float) -> Tensor:
    """Return GAIRAT's weights, of mean 1 over the batch: (n,) proportional to (1 + tanh(offset + 5 (1 - 2 right))) / 2.

    right: (n,), kappa / K, the share of the attack's steps that started at a point still classified correctly.
    """
    # (1 + tanh z) / 2 is sigmoid(2 z); through logarithms, so that all of a batch may be tiny
    return len(right) * F.logsigmoid(2 * (offset + 5 * (1 - 2 * right))).softmax(0)


def mail_weights(
    logits: Tensor, labels: Tensor, *, slope: float, bias: float, factor: float | Literal["mean_1"]
) -> Tensor:
    """Return MAIL's weights: (n,) proportional to sigmoid(slope (PM + bias)), detached.

    PM, the probabilistic margin, is the highest probability of a wrong class minus that of the label. Slope, bias and
    factor are of the code of Wang et al. 2021, which multiplies the sigmoid by 3. That the mean over the batch is 1 by
    default, as of GAIRAT's weights, is the project's reading: three sigmoids are far under 1 where most samples are
    right, and steps would shrink with them.

    logits: (n, classes) of adversarial examples; labels: (n,).
    """
    p = F.softmax(logits.detach(), dim=1)
    of_label = p.gather(1, labels[:, None])
    margin = p.scatter(1, labels[:, None], -1).amax(1) - of_label[:, 0]
    # through logarithms, so that all of a batch may be tiny
    logarithms = F.logsigmoid(slope * (margin + bias))
    if factor != "mean_1":
        return factor * logarithms.exp()
    relative = (logarithms - logarithms.max()).exp()
    return relative / relative.mean()


def wrong_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return q (n,): the highest probability of a wrong class where a sample is misclassified, 0 elsewhere."""
    # of a misclassified sample the highest probability is a wrong class's
    return torch.where(logits.argmax(1) != labels, F.softmax(logits, dim=1).amax(1), 0)


def harmful_samples(logits: Tensor, labels: Tensor, atypical: Tensor) -> Tensor:
    """Return which samples of a batch are harmful: (n,) bool, atypical ones whose adversarial example is misclassified.

    logits: (n, classes) of adversarial examples; labels: (n,); atypical: (n,) bool.
    """
    return atypical & (logits.argmax(1) != labels)


def bat_weights(logits: Tensor, labels: Tensor, atypical: Tensor, *, alpha: float) -> Tensor:
    """Return BAT's sample weights w: (n,), detached.

    w_i = exp(-alpha q_i), q_i the highest probability of a wrong class, where sample i is harmful; 1 elsewhere. This is
    the project's reading of Xu et al. 2021. An infinite alpha leaves harmful samples out.

    logits: (n, classes) of adversarial examples; labels: (n,) integers; atypical: (n,) bool; alpha: at least 0.

    >>> import bat, torch
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    >>> atypical = torch.tensor([True, True, False])
    >>> bat.bat_weights(logits, torch.tensor([0, 0, 0]), atypical, alpha=1.0)
    tensor([1.0000, 0.4145, 1.0000])

    Raises:
        ValueError: an argument is of another shape or type, or alpha is negative.
    """
    if logits.ndim != 2 or {labels.shape, atypical.shape} != {logits.shape[:1]}:
        found = ", ".join(str(tuple(tensor.shape)) for tensor in (logits, labels, atypical))
        raise ValueError(f"logits, labels and atypical have shapes {found}: give (n, classes), (n,) and (n,)")
    if labels.dtype is torch.bool or labels.is_floating_point() or atypical.dtype is not torch.bool:
        raise ValueError(f"labels are {labels.dtype} and atypical {atypical.dtype}: give integers and bool")
    if not alpha >= 0:
        raise ValueError(f"alpha is {alpha}: give a number of at least 0, at which weights are at most 1")
    logits = logits.detach()
    harmful = harmful_samples(logits, labels, atypical)
    return torch.where(harmful, torch.exp(-alpha * wrong_probability(logits, labels)), 1)


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


def _cross_entropies(model: Network, batch: Batch) -> Passed:
    features = model.features(batch.x)
    logits = model.head(features)
    losses = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=batch.label_smoothing)
    return Passed(losses, features, logits)


def _trades(
    beta: float, weigh: Callable[[Tensor, Tensor], Tensor | float] = lambda logits, labels: 1.0
) -> SampleLosses:
    """CE(f(x), y) + beta w KL(p(x) || p(x')) (Zhang et al. 2019), w of ``weigh(f(x'), y)``."""

    def losses(model: Network, batch: Batch) -> Passed:
        clean = model(batch.clean)
        features = model.features(batch.x)
        logits = model.head(features)
        smoothed = F.cross_entropy(clean, batch.labels, reduction="none", label_smoothing=batch.label_smoothing)
        divergence = beta * kl_divergence(logits, F.log_softmax(clean, dim=1))
        return Passed(smoothed + weigh(logits, batch.labels) * divergence, features, logits)

    return losses


def _mart(factor: float) -> SampleLosses:
    """BCE(x') + lambda KL(p(x) || p(x')) (1 - p_y(x)) (Wang et al. 2020); no factor is held constant."""

    def losses(model: Network, batch: Batch) -> Passed:
        log_p = F.log_softmax(model(batch.clean), dim=1)
        features = model.features(batch.x)
        logits = model.head(features)
        error = 1 - log_p.gather(1, batch.labels[:, None])[:, 0].exp()
        boosted = boosted_cross_entropy(logits, batch.labels, label_smoothing=batch.label_smoothing)
        return Passed(boosted + factor * kl_divergence(logits, log_p) * error, features, logits)

    return losses


def _mean_cross_entropy(model: Network, batch: Batch) -> Losses:
    logits = model(batch.x)
    return Losses(F.cross_entropy(logits, batch.labels, label_smoothing=batch.label_smoothing), logits)


def _unweighted(model: Network, batch: Batch, *, sample_losses: SampleLosses) -> Losses:
    losses, _, logits = sample_losses(model, batch)
    return Losses(losses, logits)


def _gairat(method: Gairat) -> MethodLosses:
    def outer(model: Network, batch: Batch) -> Losses:
        if batch.progress < method.burn_in:
            return _mean_cross_entropy(model, batch)
        losses, _, logits = _cross_entropies(model, batch)
        weights = gairat_weights(batch.right, offset=method.offset)
        return Losses((weights * losses).mean(), logits, weights)

    return outer


def _mail(method: Mail) -> MethodLosses:
    weigh = _margin_weights(method)

    def outer(model: Network, batch: Batch) -> Losses:
        if batch.progress < method.burn_in:
            return _mean_cross_entropy(model, batch)
        losses, _, logits = _cross_entropies(model, batch)
        weights = weigh(logits, batch.labels)
        return Losses((weights * losses).mean(), logits, weights)

    return outer


def _mail_trades(method: MailTrades) -> MethodLosses:
    """MAIL on TRADES; clean cross-entropy keeps equal weights, as in the authors' code."""
    weigh = _margin_weights(method)
    equal, weighted = _trades(method.trades_beta), _trades(method.trades_beta, weigh)

    def outer(model: Network, batch: Batch) -> Losses:
        if batch.progress < method.burn_in:
            return _unweighted(model, batch, sample_losses=equal)
        losses, _, logits = weighted(model, batch)
        return Losses(losses.mean(), logits, weigh(logits, batch.labels))

    return outer


def _dpls(method: Dpls) -> MethodLosses:
    def outer(model: Network, batch: Batch) -> Losses:
        logits = model(batch.x)
        losses = difficulty_smoothed_cross_entropy(
            logits,
            batch.labels,
            batch.difficulty,
            smoothing=method.smoothing,
            label_smoothing=batch.label_smoothing,
        )
        return Losses(losses, logits)

    return outer


def _margin_weights(method: Mail | MailTrades) -> Callable[[Tensor, Tensor], Tensor]:
    return partial(mail_weights, slope=method.slope, bias=method.bias, factor=method.factor)


def _bat(method: Bat | BatTrades | BatMart, sample_losses: SampleLosses) -> MethodLosses:
    alpha = float(method.alpha) if method.reweighting else 0.0
    beta = method.beta if method.discrimination else 0.0

    def outer(model: Network, batch: Batch) -> Losses:
        losses, features, logits = sample_losses(model, batch)
        weights = bat_weights(logits, batch.labels, batch.atypical, alpha=alpha)
        if not beta:
            return Losses(losses, logits, weights)
        harmful = harmful_samples(logits, batch.labels, batch.atypical)
        discrimination = discrimination_loss(features, batch.labels, harmful, temperature=method.temperature)
        return Losses(weighted_mean(losses, weights) + beta * discrimination, logits, weights, discrimination)

    return outer
