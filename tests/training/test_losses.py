"""Losses against their formulas in method.md, section 2, written as loops in float64."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import (
    ADVERSARIAL,
    BAT,
    BAT_MART,
    BAT_TRADES,
    DPLS,
    GAIRAT,
    MAIL,
    MAIL_TRADES,
    MART,
    METHODS,
    NATURAL,
    PGD_AT,
    TRADES,
    but,
)
from runs import batch_of
from torch import Tensor

from bat.attacks.gradient import cross_entropy
from bat.config import Bat, BatMart, BatTrades, Dpls, Gairat, Mail, MailTrades, Mart, Method, Trades
from bat.training.losses import (
    Batch,
    bat_weights,
    difficulty_smoothed_cross_entropy,
    discrimination_loss,
    gairat_weights,
    kl_divergence,
    mail_weights,
    objective,
    wrong_probability,
)

torch.set_num_threads(1)


def bat(**changes: Any) -> Bat:
    method: Bat = but(BAT, alpha=1.5, **changes) if "alpha" not in changes else but(BAT, **changes)
    return method


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw logits, features, labels and a mask of a batch; classes may be missing, or just one."""
    n, classes, width = draw(st.integers(1, 9)), draw(st.integers(2, 4)), draw(st.integers(1, 5))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits = spread * torch.randn(n, classes, generator=random, dtype=torch.float64)
    features = torch.randn(n, width, generator=random, dtype=torch.float64)
    labels = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return logits, features, labels, mask


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def brute_force_harmful(logits: Tensor, labels: Tensor, atypical: Tensor) -> list[bool]:
    return [
        bool(rare) and max(range(len(row)), key=row.__getitem__) != label
        for row, label, rare in zip(logits.tolist(), labels.tolist(), atypical.tolist(), strict=True)
    ]


def brute_force_weights(logits: Tensor, labels: Tensor, atypical: Tensor, alpha: float) -> list[float]:
    weights = []
    for row, label, harmful in zip(
        logits.tolist(), labels.tolist(), brute_force_harmful(logits, labels, atypical), strict=True
    ):
        wrong = max(p for k, p in enumerate(softmax(row)) if k != label)
        weights.append(math.exp(-alpha * wrong) if harmful else 1.0)
    return weights


def brute_force_discrimination(features: Tensor, labels: Tensor, harmful: Tensor, temperature: float) -> float:
    h = [np.array(row) / np.linalg.norm(row) for row in features.numpy()]
    terms = []
    for a in range(len(h)):
        for b in range(len(h)):
            if a == b or labels[a] != labels[b] or harmful[b]:
                continue
            near = math.exp(h[a] @ h[b] / temperature)
            far = sum(math.exp(h[a] @ h[c] / temperature) for c in range(len(h)) if labels[c] != labels[a])
            terms.append(-math.log(near / (near + far)))
    return sum(terms) / len(terms) if terms else 0.0


# -- weights


@given(batch=batches(), alpha=st.floats(0, 5))
@settings(max_examples=150)
def test_weights_equal_the_formula(batch: tuple[Tensor, ...], alpha: float) -> None:
    logits, _, labels, atypical = batch
    found = bat_weights(logits, labels, atypical, alpha=alpha)
    np.testing.assert_allclose(found, brute_force_weights(logits, labels, atypical, alpha), rtol=1e-10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": torch.zeros(3, 1, dtype=torch.int64)}, "shapes (3, 2), (3, 1), (3,): give (n, classes), (n,)"),
        ({"labels": torch.zeros(1, dtype=torch.int64)}, "shapes (3, 2), (1,), (3,): give"),
        ({"atypical": torch.ones(1, dtype=torch.bool)}, "shapes (3, 2), (3,), (1,): give"),
        ({"logits": torch.zeros(3, 2, 2)}, "shapes (3, 2, 2), (3,), (3,): give"),
        ({"labels": torch.zeros(3)}, "labels are torch.float32 and atypical torch.bool: give integers and bool"),
        ({"labels": torch.zeros(3, dtype=torch.bool)}, "labels are torch.bool and atypical torch.bool: give"),
        ({"atypical": torch.ones(3)}, "labels are torch.int64 and atypical torch.float32: give"),
        ({"alpha": -1}, "alpha is -1: give a number of at least 0"),
        ({"alpha": float("nan")}, "alpha is nan: give a number of at least 0"),
    ],
)
def test_weights_of_other_arguments_are_refused(changed: dict[str, Any], message: str) -> None:
    labels, atypical = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    given = {"logits": torch.zeros(3, 2), "labels": labels, "atypical": atypical, "alpha": 1.0}
    with pytest.raises(ValueError, match=re.escape(message)):
        bat_weights(**given | changed)


@given(batch=batches(), alpha=st.floats(0.5, 5))
@settings(max_examples=50)
def test_a_weight_below_1_needs_an_atypical_and_misclassified_sample(batch: tuple[Tensor, ...], alpha: float) -> None:
    logits, _, labels, atypical = batch
    weights = bat_weights(logits.requires_grad_(True), labels, atypical, alpha=alpha)
    # a wrong class at the top has a probability of at least 1 / classes
    assert torch.equal(weights < 1, torch.tensor(brute_force_harmful(logits.detach(), labels, atypical)))
    assert (weights >= math.exp(-alpha)).all()
    assert not weights.requires_grad


def numpy_mail_weights(logits: Any, labels: Any, method: Any) -> Any:
    """1 / (1 + exp(-slope (PM + bias))), over its mean or times the factor; PM from sorted probabilities."""
    values, truth = np.asarray(logits), np.asarray(labels)
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True)
    margins = np.array([np.sort(np.delete(row, label))[-1] - row[label] for row, label in zip(p, truth, strict=True)])
    weights = 1 / (1 + np.exp(-method.slope * (margins + method.bias)))
    return weights / weights.mean() if method.factor == "mean_1" else method.factor * weights


@pytest.mark.parametrize("base", [MAIL, MAIL_TRADES], ids=lambda method: method.name)
@given(
    batch=batches(),
    slope=st.floats(0, 20),
    bias=st.floats(-1, 1),
    factor=st.sampled_from(["mean_1", 3.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60)
def test_weights_of_mail_equal_the_formula(
    base: Any, batch: tuple[Tensor, ...], slope: float, bias: float, factor: Any, dtype: torch.dtype
) -> None:
    logits, _, labels, _ = batch
    method = but(base, slope=slope, bias=bias, factor=factor)
    logits = logits.to(dtype).requires_grad_(True)
    found = mail_weights(logits, labels, slope=slope, bias=bias, factor=factor)
    assert not found.requires_grad
    expected = numpy_mail_weights(logits.detach().double(), labels, method)
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype is torch.float64 else 1e-4, atol=1e-12)
    if factor == "mean_1":
        assert float(found.mean()) == pytest.approx(1, rel=1e-5)


def test_mail_weighs_hard_samples_more_and_finds_a_mean_of_tiny_weights() -> None:
    # of class 0, from right and sure to wrong and sure
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 5.0]])
    labels = torch.zeros(5, dtype=torch.long)
    weights = mail_weights(logits, labels, slope=10.0, bias=-0.5, factor="mean_1")
    assert (weights.diff() > 0).all()
    # exp(-10,000) is 0 to a float
    tiny = mail_weights(logits, labels, slope=1000.0, bias=-10.0, factor="mean_1")
    assert float(tiny.mean()) == pytest.approx(1)
    assert torch.equal(mail_weights(logits, labels, slope=0.0, bias=7.0, factor="mean_1"), torch.ones(5))


# -- smoothing by difficulty


@given(batch=batches(), smoothing=st.floats(0, 0.999), plain=st.sampled_from([0.0, 0.1]), seed=st.integers(0, 99))
@settings(max_examples=100)
def test_smoothing_by_difficulty_is_cross_entropy_with_targets_of_their_own(
    batch: tuple[Tensor, ...], smoothing: float, plain: float, seed: int
) -> None:
    logits, _, labels, _ = batch
    difficulty = np.random.default_rng(seed).choice([0.0, 0.3, 1.0], len(labels))
    found = difficulty_smoothed_cross_entropy(
        logits, labels, torch.tensor(difficulty), smoothing=smoothing, label_smoothing=plain
    )
    for row, label, hard, value in zip(logits.tolist(), labels.tolist(), difficulty, found.tolist(), strict=True):
        classes = len(row)
        target = np.full(classes, plain / classes) + (1 - plain) * np.eye(classes)[label]
        target = target + smoothing * hard * (1 / classes - target)
        assert target.sum() == pytest.approx(1)
        assert value == pytest.approx(-float(target @ np.log(softmax(row))), rel=1e-9, abs=1e-12)


@given(batch=batches(), smoothing=st.floats(0, 0.9))
@settings(max_examples=30)
def test_samples_all_of_difficulty_1_have_the_label_smoothing_of_the_recipe(
    batch: tuple[Tensor, ...], smoothing: float
) -> None:
    logits, features, labels, _ = batch
    model = Logits(logits.shape[1], features.shape[1])
    hard = batch_of(features, labels, difficulty=torch.ones(len(labels), dtype=torch.float64))
    plain = batch_of(features, labels, label_smoothing=smoothing)
    found = objective(but(DPLS, smoothing=smoothing)).outer(model, hard).loss
    torch.testing.assert_close(found, objective(PGD_AT).outer(model, plain).loss, rtol=1e-9, atol=1e-10)


# -- discrimination loss


@given(batch=batches(), temperature=st.floats(0.1, 2))
@settings(max_examples=150)
def test_discrimination_loss_equals_the_double_loop(batch: tuple[Tensor, ...], temperature: float) -> None:
    _, features, labels, harmful = batch
    found = float(discrimination_loss(features, labels, harmful, temperature=temperature))
    expected = brute_force_discrimination(features, labels, harmful, temperature)
    # torch's softplus(x) is x above 20, which leaves out exp(-20) = 2e-9 of it: 1e-10 of the value
    assert found == pytest.approx(expected, rel=2e-10, abs=1e-10)


@given(batch=batches(), scale=st.floats(0.01, 100))
@settings(max_examples=30)
def test_discrimination_loss_sees_directions_alone(batch: tuple[Tensor, ...], scale: float) -> None:
    _, features, labels, harmful = batch
    losses = [discrimination_loss(size * features, labels, harmful, temperature=0.3) for size in (1.0, scale)]
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-10)


def test_a_harmful_sample_is_no_positive_partner_but_an_anchor() -> None:
    # samples 0 and 1 of one class, 1 harmful: the only pair is (anchor 1, partner 0)
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    labels, harmful = torch.tensor([0, 0, 1]), torch.tensor([False, True, False])
    found = float(discrimination_loss(features, labels, harmful, temperature=0.5))
    assert found == pytest.approx(-math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(1.6))), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "harmful"),
    [
        ([0, 1, 2, 3], [False] * 4),
        ([1, 1, 1, 1], [False] * 4),
        ([0, 0, 1, 1], [True] * 4),
        ([0, 0, 1, 2], [True, True, False, False]),
        ([2], [False]),
    ],
    ids=["all classes differ", "one class", "all harmful", "no partner left", "one sample"],
)
def test_a_batch_without_anything_to_discriminate_gives_0(labels: list[int], harmful: list[bool]) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(len(labels), 3, generator=random).requires_grad_(True)
    loss = discrimination_loss(features, torch.tensor(labels), torch.tensor(harmful), temperature=0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


@given(batch=batches(), temperature=st.floats(0.01, 2), zero=st.booleans(), dtype=st.sampled_from(["32", "64"]))
@settings(max_examples=60)
def test_discrimination_loss_and_its_gradient_are_finite(
    batch: tuple[Tensor, ...], temperature: float, zero: bool, dtype: str
) -> None:
    _, features, labels, harmful = batch
    features = features.to(getattr(torch, f"float{dtype}"))
    if zero:
        features[0] = 0
    loss = discrimination_loss(features.requires_grad_(True), labels, harmful, temperature=temperature)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()


def test_discrimination_loss_passes_gradcheck() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(7, 4, generator=random, dtype=torch.float64, requires_grad=True)
    labels, harmful = torch.tensor([0, 0, 0, 1, 1, 2, 0]), torch.tensor([0, 1, 0, 0, 0, 0, 0]).bool()
    assert torch.autograd.gradcheck(
        lambda h: discrimination_loss(h, labels, harmful, temperature=0.3), (features,), atol=1e-8
    )


# -- outer losses


class Logits(torch.nn.Module):
    """A network whose features are the images and whose head is a fixed matrix."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(classes * 10 + width)
        self.matrix = torch.nn.Parameter(torch.randn(width, classes, generator=random, dtype=torch.float64))

    def features(self, x: Tensor) -> Tensor:
        return x

    def head(self, features: Tensor) -> Tensor:
        return features @ self.matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def brute_force_kl(p: list[float], q: list[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def brute_force_cross_entropy(p: list[float], label: int, smoothing: float) -> float:
    spread = sum(-math.log(value) for value in p) / len(p)
    return -(1 - smoothing) * math.log(p[label]) + smoothing * spread


def brute_force_losses(
    method: Any, clean: Tensor, logits: Tensor, labels: Tensor, smoothings: list[float], weights: list[float]
) -> list[float]:
    """Each sample's loss; smoothings: of the labels; weights: of the divergences."""
    beta = vars(method).get("trades_beta", vars(method).get("beta"))
    factor = vars(method).get("mart_factor", vars(method).get("factor"))
    losses = []
    for row, adversarial, label, smoothing in zip(
        clean.tolist(), logits.tolist(), labels.tolist(), smoothings, strict=True
    ):
        p, q = softmax(row), softmax(adversarial)
        if "trades" in method.objective:
            divergence = beta * brute_force_kl(p, q)
            losses.append(brute_force_cross_entropy(p, label, smoothing) + weights[len(losses)] * divergence)
        elif "mart" in method.objective:
            rival = max(value for k, value in enumerate(q) if k != label)
            boosted = brute_force_cross_entropy(q, label, smoothing) - math.log(1 - rival)
            losses.append(boosted + factor * brute_force_kl(p, q) * (1 - p[label]))
        else:
            losses.append(brute_force_cross_entropy(q, label, smoothing))
    return losses


def brute_force_outer(
    method: Any, clean: Tensor, logits: Tensor, features: Tensor, batch: Batch
) -> tuple[list[float], list[float]]:
    """The four scalars (loss, discrimination loss, harmful samples and their weight) and the samples' weights."""
    labels, atypical, difficulty = batch.labels, batch.atypical, batch.difficulty.tolist()
    weights = [1.0] * len(labels)
    if isinstance(method, Mail | MailTrades) and batch.progress >= method.burn_in:
        weights = numpy_mail_weights(logits, labels, method).tolist()
    divergences = weights if isinstance(method, MailTrades) else [1.0] * len(labels)
    smoothings = [batch.label_smoothing] * len(labels)
    if isinstance(method, Dpls):  # shares of what is left of the label
        smoothings = [
            1 - (1 - s) * (1 - method.smoothing * hard) for s, hard in zip(smoothings, difficulty, strict=True)
        ]
    losses = brute_force_losses(method, clean, logits, labels, smoothings, divergences)
    if isinstance(method, MailTrades):
        return [sum(losses) / len(losses), 0, 0, 0], weights
    if isinstance(method, Gairat) and batch.progress >= method.burn_in:
        weights = [(1 + math.tanh(method.offset + 5 * (1 - 2 * right))) / 2 for right in batch.right.tolist()]
        weights = [len(weights) * w / sum(weights) for w in weights]
    if not isinstance(method, Bat | BatTrades | BatMart):
        return [sum(w * v for w, v in zip(weights, losses, strict=True)) / len(losses), 0, 0, 0], weights
    harmful = brute_force_harmful(logits, labels, atypical)
    if method.reweighting and method.alpha == "inf":
        weights = [0.0 if bad else 1.0 for bad in harmful]
    elif method.reweighting:
        weights = brute_force_weights(logits, labels, atypical, float(method.alpha))
    loss = sum(w * value for w, value in zip(weights, losses, strict=True)) / (sum(weights) or 1)
    pull = 0.0
    if method.discrimination and method.beta:
        pull = brute_force_discrimination(features, labels, torch.tensor(harmful), method.temperature)
    weight = sum(w for w, bad in zip(weights, harmful, strict=True) if bad)
    return [loss + method.beta * pull, pull, sum(harmful), weight], weights


VARIANTS = [
    *METHODS,
    bat(),
    bat(alpha=3.0, beta=1.0, temperature=0.7),
    bat(alpha="inf"),
    bat(reweighting=False),
    bat(discrimination=False),
    bat(reweighting=False, discrimination=False),
    bat(alpha=0.0),
    bat(beta=0.0),
    but(TRADES, beta=0.5),
    but(MART, factor=0.0),
    but(GAIRAT, offset=2.0, burn_in=0.0),
    but(GAIRAT, burn_in=1.0),
    but(DPLS, smoothing=0.9),
    but(DPLS, smoothing=0.0),
    but(MAIL, factor=3.0),
    but(MAIL, slope=2.0, bias=0.0, burn_in=0.0),
    but(MAIL_TRADES, factor=3.0, trades_beta=1.0),
    but(MAIL_TRADES, slope=10.0, bias=-0.5, burn_in=0.0),
    but(BAT_TRADES, trades_beta=2.0, alpha=2.0, discrimination=False),
    but(BAT_MART, alpha="inf", beta=0.5),
]


@pytest.mark.parametrize("method", VARIANTS, ids=lambda method: method.name)
@given(batch=batches(), seed=st.integers(0, 99), smoothing=st.sampled_from([0.0, 0.1]), progress=st.floats(0, 0.99))
@settings(max_examples=30)
def test_terms_of_each_method_equal_their_formulas(
    method: Method, batch: tuple[Tensor, ...], seed: int, smoothing: float, progress: float
) -> None:
    logits, features, labels, atypical = batch
    model = Logits(logits.shape[1], features.shape[1])
    random = torch.Generator().manual_seed(seed)
    clean = torch.randn(features.shape, generator=random, dtype=torch.float64)
    right = torch.randint(6, labels.shape, generator=random) / torch.tensor(5.0, dtype=torch.float64)
    difficulty = torch.rand(labels.shape, generator=random, dtype=torch.float64)
    seen = batch_of(
        features,
        labels,
        atypical,
        difficulty=difficulty,
        clean=clean,
        right=right,
        progress=progress,
        label_smoothing=smoothing,
    )
    terms = objective(method).outer(model, seen)
    with torch.no_grad():
        scalars, weights = brute_force_outer(method, model(clean), model(features), features, seen)
    for found, value in zip(terms, scalars, strict=False):
        assert float(found.detach()) == pytest.approx(value, rel=2e-10, abs=1e-10)
    np.testing.assert_allclose(terms.weight, weights, rtol=1e-10, atol=1e-12)
    assert torch.equal(terms.logits, model(features).detach())
    assert [term.requires_grad for term in terms] == [True, False, False, False, False, False]


def sample_losses(method: Any, clean: Tensor, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Each sample's loss, written as it stands in the papers; weights: of MAIL's divergences, or difficulties."""
    p, q, at = clean.softmax(1), logits.softmax(1), torch.arange(len(labels))
    kl = (p * (p / q).log()).sum(1)
    if "trades" in method.objective:
        beta = method.beta if isinstance(method, Trades) else method.trades_beta
        return -p[at, labels].log() + beta * (weights * kl if isinstance(method, MailTrades) else kl)
    if "mart" in method.objective:
        factor = method.factor if isinstance(method, Mart) else method.mart_factor
        rival = q.scatter(1, labels[:, None], 0).amax(1)
        return -q[at, labels].log() - (1 - rival).log() + factor * kl * (1 - p[at, labels])
    if isinstance(method, Dpls):
        share = method.smoothing * weights
        return -(1 - share) * q[at, labels].log() - share * q.log().mean(1)
    return -q[at, labels].log()


@pytest.mark.parametrize("method", [*ADVERSARIAL, bat(discrimination=False), bat(reweighting=False)])
def test_gradients_of_outer_losses_are_those_of_constant_weights(method: Any) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(8, 4, generator=random, dtype=torch.float64)
    clean = features + 0.3 * torch.randn(8, 4, generator=random, dtype=torch.float64)
    right = torch.arange(8, dtype=torch.float64) / 8
    labels, atypical = torch.arange(8) % 3, torch.arange(8) % 2 == 0
    model = Logits(3, 4)
    with torch.no_grad():
        logits = model(features)
        harmful = torch.tensor(brute_force_harmful(logits, labels, atypical))
        weights = torch.ones(8, dtype=torch.float64)
        if getattr(method, "reweighting", False):
            weights = torch.tensor(brute_force_weights(logits, labels, atypical, method.alpha), dtype=torch.float64)
        if isinstance(method, Gairat):
            weights = (1 + torch.tanh(method.offset + 5 * (1 - 2 * right))) / 2
        if isinstance(method, Mail | MailTrades):
            weights = torch.tensor(numpy_mail_weights(logits, labels, method))
        if isinstance(method, Dpls):
            weights = right
    assert 0 < harmful.sum() < 8

    def reference(x: Tensor, clean: Tensor, matrix: Tensor) -> Tensor:
        """The loss with weights and harmful samples held constant."""
        losses = sample_losses(method, clean @ matrix, x @ matrix, labels, weights)
        value = losses.mean() if isinstance(method, MailTrades | Dpls) else (weights * losses).sum() / weights.sum()
        if getattr(method, "discrimination", False):
            value = value + method.beta * discrimination_loss(x, labels, harmful, temperature=method.temperature)
        return value

    inputs = tuple(tensor.detach().clone().requires_grad_(True) for tensor in (features, clean, model.matrix))
    assert torch.autograd.gradcheck(reference, inputs, atol=1e-7)
    expected = torch.autograd.grad(reference(*inputs), inputs, materialize_grads=True)
    x, natural = (tensor.clone().requires_grad_(True) for tensor in (features, clean))
    batch = batch_of(x, labels, atypical, difficulty=right, clean=natural, right=right)
    loss = objective(method).outer(model, batch).loss
    found = torch.autograd.grad(loss, (x, natural, model.matrix), materialize_grads=True)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "method", [TRADES, MART, GAIRAT, MAIL, MAIL_TRADES, DPLS, BAT_TRADES, BAT_MART], ids=lambda method: method.name
)
def test_outer_losses_pass_gradcheck(method: Any) -> None:
    random = torch.Generator().manual_seed(1)
    features, clean = torch.randn(2, 6, 4, generator=random, dtype=torch.float64).unbind()
    labels, atypical = torch.arange(6) % 3, torch.arange(6) % 2 == 0
    if isinstance(method, BatTrades | BatMart):
        method = but(method, alpha=0.0)  # else the weights follow the logits without a gradient
    if isinstance(method, Mail | MailTrades):
        method = but(method, slope=0.0)
    model, goal = Logits(3, 4), objective(method)

    def loss(x: Tensor, clean: Tensor) -> Tensor:
        return goal.outer(model, batch_of(x, labels, atypical, clean=clean, right=x.new_full((6,), 0.5))).loss

    assert torch.autograd.gradcheck(loss, (features.requires_grad_(True), clean.requires_grad_(True)), atol=1e-7)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_losses_and_gradients_stay_finite_whatever_the_logits(method: Method, size: float) -> None:
    x = (size * torch.randn(12, 5, generator=torch.Generator().manual_seed(3))).requires_grad_(True)
    model = Logits(4, 5).float()
    labels, rare = torch.arange(12) % 4, torch.ones(12, dtype=torch.bool)
    loss = objective(method).outer(model, batch_of(x, labels, rare, clean=x.detach().flip(0))).loss
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_a_batch_of_harmful_samples_alone_is_left_out_whole_by_an_infinite_alpha() -> None:
    model = Logits(3, 4)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    labels = (model(x).argmax(1) + 1) % 3
    terms = objective(bat(alpha="inf", beta=0.0)).outer(model, batch_of(x, labels, torch.ones(5, dtype=torch.bool)))
    terms.loss.backward()
    assert float(terms.loss.detach()) == 0
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert int(terms.harmful) == 5


@given(
    right=st.lists(st.integers(0, 10), min_size=1, max_size=8),
    offset=st.floats(-40, 5, allow_subnormal=False),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60)
def test_gairat_weights_have_mean_1_and_fall_with_the_steps_survived(
    right: list[int], offset: float, dtype: torch.dtype
) -> None:
    share = torch.tensor(right, dtype=dtype) / 10
    weights = gairat_weights(share, offset=offset)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-5)
    by_steps = weights[share.argsort()]
    assert (by_steps.diff() <= 1e-6).all()


@given(batch=batches())
@settings(max_examples=60)
def test_the_wrong_probability_is_0_where_right_and_the_highest_wrong_one_elsewhere(batch: tuple[Tensor, ...]) -> None:
    logits, _, labels, _ = batch
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        p = softmax(row)
        wrong = max(range(len(row)), key=row.__getitem__) != label
        expected.append(max(value for k, value in enumerate(p) if k != label) if wrong else 0.0)
    np.testing.assert_allclose(wrong_probability(logits, labels), expected, rtol=1e-10)


# -- inner losses


@given(batch=batches(), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_the_divergence_equals_its_formula_and_is_least_at_the_target(batch: tuple[Tensor, ...], seed: int) -> None:
    logits = batch[0]
    clean = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = kl_divergence(logits, clean.log_softmax(1))
    expected = [brute_force_kl(softmax(p), softmax(q)) for p, q in zip(clean.tolist(), logits.tolist(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert (found >= -1e-12).all()
    np.testing.assert_allclose(kl_divergence(clean, clean.log_softmax(1)), 0, atol=1e-12)


def test_the_divergence_passes_gradcheck_in_both_arguments() -> None:
    random = torch.Generator().manual_seed(0)
    logits, clean = torch.randn(2, 5, 4, generator=random, dtype=torch.float64).unbind()
    inputs = (logits.requires_grad_(True), clean.requires_grad_(True))
    assert torch.autograd.gradcheck(lambda q, p: kl_divergence(q, p.log_softmax(1)), inputs, atol=1e-8)


def test_each_method_attacks_its_own_objective() -> None:
    assert objective(NATURAL).inner is None
    for method in ADVERSARIAL:
        goal, near = objective(method), isinstance(method, Trades | MailTrades | BatTrades)
        assert goal.inner is (kl_divergence if near else cross_entropy)
        assert goal.from_clean == near
        assert (goal.eps_factor, goal.awp) == (1.0, 0.0)
        changed = objective(but(method, eps_factor=0.5, awp=0.01))
        assert (changed.eps_factor, changed.awp) == (0.5, 0.01)
