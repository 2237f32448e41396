"""Losses against their formulas in method.md, section 2, written as loops in float64."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bat.attacks.gradient import cross_entropy
from bat.config import Bat, Method, Natural, Pgd, PgdAt, Recipe, SizedModel, Steps, Threat
from bat.data import Part
from bat.losses import bat_weights, discrimination_loss, objective
from bat.models import Network, build
from bat.training import Inner, fit

torch.set_num_threads(1)

NATURAL = Natural(name="natural", objective="natural")
PGD_AT = PgdAt(name="pgd_at", objective="pgd_at")


def bat(**changes: Any) -> Bat:
    values = {"reweighting": True, "alpha": 1.5, "discrimination": True, "beta": 0.2, "temperature": 0.1}
    return Bat(name="bat", objective="bat", **(values | changes))


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
@settings(deadline=None, max_examples=150)
def test_weights_equal_the_formula(batch: tuple[Tensor, ...], alpha: float) -> None:
    logits, _, labels, atypical = batch
    found = bat_weights(logits, labels, atypical, alpha=alpha)
    np.testing.assert_allclose(found, brute_force_weights(logits, labels, atypical, alpha), rtol=1e-10)


@given(batch=batches(), alpha=st.floats(0.5, 5))
@settings(deadline=None, max_examples=50)
def test_a_weight_below_1_needs_an_atypical_and_misclassified_sample(batch: tuple[Tensor, ...], alpha: float) -> None:
    logits, _, labels, atypical = batch
    weights = bat_weights(logits.requires_grad_(True), labels, atypical, alpha=alpha)
    # a wrong class at the top has a probability of at least 1 / classes
    assert torch.equal(weights < 1, torch.tensor(brute_force_harmful(logits.detach(), labels, atypical)))
    assert (weights >= math.exp(-alpha)).all()
    assert not weights.requires_grad


# -- discrimination loss


@given(batch=batches(), temperature=st.floats(0.1, 2))
@settings(deadline=None, max_examples=150)
def test_discrimination_loss_equals_the_double_loop(batch: tuple[Tensor, ...], temperature: float) -> None:
    _, features, labels, harmful = batch
    found = float(discrimination_loss(features, labels, harmful, temperature=temperature))
    expected = brute_force_discrimination(features, labels, harmful, temperature)
    # torch's softplus(x) is x above 20, which leaves out exp(-20) = 2e-9 of it: 1e-10 of the value
    assert found == pytest.approx(expected, rel=2e-10, abs=1e-10)


@given(batch=batches(), scale=st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
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
@settings(deadline=None, max_examples=60)
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


def brute_force_outer(
    method: Method, logits: Tensor, features: Tensor, labels: Tensor, atypical: Tensor
) -> list[float]:
    """The four terms: loss, discrimination loss, harmful samples and their weight."""
    losses = [-math.log(softmax(row)[label]) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    if not isinstance(method, Bat):
        return [sum(losses) / len(losses), 0, 0, 0]
    harmful = brute_force_harmful(logits, labels, atypical)
    alpha = method.alpha if method.reweighting else 0
    weights = brute_force_weights(logits, labels, atypical, alpha)
    loss = sum(w * value for w, value in zip(weights, losses, strict=True)) / sum(weights)
    pull = 0.0
    if method.discrimination and method.beta:
        pull = brute_force_discrimination(features, labels, torch.tensor(harmful), method.temperature)
    weight = sum(w for w, bad in zip(weights, harmful, strict=True) if bad)
    return [loss + method.beta * pull, pull, sum(harmful), weight]


@pytest.mark.parametrize(
    "method",
    [
        NATURAL,
        PGD_AT,
        bat(),
        bat(alpha=3.0, beta=1.0, temperature=0.7),
        bat(reweighting=False),
        bat(discrimination=False),
        bat(reweighting=False, discrimination=False),
        bat(alpha=0.0),
        bat(beta=0.0),
    ],
    ids=lambda method: f"{method.name}-{vars(method).get('reweighting')}-{vars(method).get('discrimination')}",
)
@given(batch=batches())
@settings(deadline=None, max_examples=40)
def test_terms_of_each_method_equal_their_formulas(method: Method, batch: tuple[Tensor, ...]) -> None:
    logits, features, labels, atypical = batch
    model = Logits(logits.shape[1], features.shape[1])
    terms = objective(method).outer(model, features, labels, atypical)
    with torch.no_grad():
        expected = brute_force_outer(method, model(features), features, labels, atypical)
    for found, value in zip(terms, expected, strict=True):
        assert float(found.detach()) == pytest.approx(value, rel=2e-10, abs=1e-10)
    assert [term.requires_grad for term in terms] == [True, False, False, False]


@pytest.mark.parametrize("method", [bat(), bat(discrimination=False), bat(reweighting=False), PGD_AT])
def test_gradients_of_outer_losses_are_those_of_constant_weights(method: Method) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(8, 4, generator=random, dtype=torch.float64)
    labels, atypical = torch.arange(8) % 3, torch.arange(8) % 2 == 0
    model = Logits(3, 4)
    outer = objective(method).outer
    with torch.no_grad():
        logits = model(features)
        harmful = torch.tensor(brute_force_harmful(logits, labels, atypical))
        weights = torch.ones(8, dtype=torch.float64)
        if isinstance(method, Bat) and method.reweighting:
            weights = torch.tensor(brute_force_weights(logits, labels, atypical, method.alpha), dtype=torch.float64)
    assert 0 < harmful.sum() < 8

    def reference(x: Tensor, matrix: Tensor) -> Tensor:
        """The loss with weights and harmful samples held constant."""
        value = (weights * cross_entropy(x @ matrix, labels)).sum() / weights.sum()
        if isinstance(method, Bat) and method.discrimination:
            value = value + method.beta * discrimination_loss(x, labels, harmful, temperature=method.temperature)
        return value

    inputs = (features.clone().requires_grad_(True), model.matrix.detach().clone().requires_grad_(True))
    assert torch.autograd.gradcheck(reference, inputs, atol=1e-7)
    expected = torch.autograd.grad(reference(*inputs), inputs)
    x = features.clone().requires_grad_(True)
    found = torch.autograd.grad(outer(model, x, labels, atypical).loss, (x, model.matrix))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_method_without_an_inner_problem_is_the_natural_one_alone() -> None:
    assert objective(NATURAL).inner is None
    assert objective(PGD_AT).inner is cross_entropy
    assert objective(bat()).inner is cross_entropy


# -- limits of BAT in training


@pytest.fixture(scope="module")
def part() -> Part:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pixels = torch.randint(0, 17, (60, 1, 4, 4), generator=random) + 4 * labels[:, None, None, None]
    return Part(pixels.clamp(max=16).to(torch.uint8), labels, torch.arange(60), pixel_max=16)


def trained(part: Part, method: Method, atypical: Tensor, network: str) -> tuple[dict[str, Tensor], list[Any]]:
    model: Network = build(SizedModel(name=network, width=4), part, classes=3, seed=1)  # type: ignore[arg-type]
    recipe = Recipe(
        epochs=3,
        batch_size=16,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=Steps(name="steps", milestones=(0.5,), factor=0.1),
        crop_padding=1,
        flip=True,
    )
    inner = Inner(Threat(norm="linf", eps=0.1), Pgd(steps=2, step_size=0.05), "eval")
    epochs: Iterator[Any] = fit(
        model,
        part,
        objective=objective(method),
        recipe=recipe,
        seed=2,
        what="limit",
        atypical=atypical,
        inner=inner,
    )
    history = list(epochs)
    return model.state_dict(), history


ALL = torch.ones(60, dtype=torch.bool)
NONE = torch.zeros(60, dtype=torch.bool)


@pytest.mark.parametrize("network", ["mlp", "small_cnn"])
@pytest.mark.parametrize(
    ("method", "atypical"),
    [
        (bat(alpha=0.0, beta=0.0), ALL),
        (bat(reweighting=False, discrimination=False), ALL),
        (bat(beta=0.0), NONE),
    ],
    ids=["alpha and beta 0", "both switched off", "nothing atypical"],
)
def test_bat_without_its_parts_trains_the_weights_of_pgd_at(
    part: Part, method: Bat, atypical: Tensor, network: str
) -> None:
    reference, _ = trained(part, PGD_AT, NONE, network)
    found, _ = trained(part, method, atypical, network)
    for name, tensor in reference.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("method", [bat(beta=0.0), bat(alpha=0.0), bat(reweighting=False), bat(discrimination=False)])
def test_each_part_of_bat_alone_changes_the_weights(part: Part, method: Bat) -> None:
    reference, _ = trained(part, PGD_AT, ALL, "mlp")
    found, history = trained(part, method, ALL, "mlp")
    assert not torch.equal(found["head.weight"], reference["head.weight"])
    assert history[0].harmful > 0
