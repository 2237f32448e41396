"""The inner problem of each method: where it starts, what it maximises, what it counts."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import ADVERSARIAL, BAT_TRADES, GAIRAT, PGD_AT, TRADES
from runs import ATTACK, RECIPE, THREAT, network, run, samples
from scipy.special import ndtri
from torch import Tensor, nn

from bat.attacks.ball import near_start
from bat.attacks.gradient import cross_entropy
from bat.attacks.pgd import pgd
from bat.config import Method, Pgd
from bat.seeds import generator
from bat.training.losses import objective

torch.set_num_threads(1)


def first_batch(method: Method, attack: Pgd = ATTACK, name: str = "mlp") -> Any:
    """Return the network before training, in evaluation mode, and the first batch as its outer loss meets it."""
    part, seen = samples(24), []
    model, goal = network(part, name), objective(method)
    before = copy.deepcopy(model).eval()

    def outer(model: Any, batch: Any) -> Any:
        seen.append(batch)
        return goal.outer(model, batch)

    recipe = replace(RECIPE, epochs=1, batch_size=24)
    run(part, replace(goal, outer=outer), recipe=recipe, attack=attack, model=model)
    return before, seen[0]


@given(seed=st.integers(0, 99))
@settings(max_examples=20)
def test_trades_starts_at_a_normal_point_of_deviation_0_001(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x, uniform = torch.rand(2, 50, 1, 6, 6, generator=random, dtype=torch.float64).unbind()
    delta = near_start(x, uniform) - x
    np.testing.assert_allclose(delta, 0.001 * ndtri(uniform.numpy()), atol=1e-12)
    assert abs(float(delta.std()) - 0.001) < 1e-4
    assert abs(float(delta.mean())) < 1e-4


def test_a_start_is_finite_at_the_ends_of_the_unit_interval() -> None:
    x = torch.zeros(1, 1, 1, 2)
    assert near_start(x, torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).isfinite().all()


@pytest.mark.parametrize("method", [TRADES, BAT_TRADES], ids=lambda method: method.name)
def test_trades_takes_the_steps_that_autograd_and_a_loop_by_hand_take(method: Method) -> None:
    model, batch = first_batch(method, Pgd(steps=3, step_size=0.04))
    x = batch.clean
    uniform = torch.rand(x.shape, generator=generator(0, "start", 1))
    with torch.no_grad():
        p = model(x).softmax(1)
    moved = x + 0.001 * torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))
    for _ in range(3):
        moved = moved.detach().requires_grad_(True)
        loss = (p * (p.log() - model(moved).log_softmax(1))).sum()
        (gradient,) = torch.autograd.grad(loss, moved)
        stepped = moved.detach() + 0.04 * gradient.sign()
        moved = torch.min(torch.max(stepped, x - THREAT.eps), x + THREAT.eps).clamp(0, 1)
    # a gradient of nearly 0 may have either sign
    assert float(((batch.x - moved).abs() < 1e-6).float().mean()) > 0.99


def brute_force_right(model: nn.Module, x: Tensor, start: Tensor, labels: Tensor, steps: int) -> list[float]:
    """Attack each image alone; the share of steps that start at a point still classified correctly."""
    shares = []
    for image, point, label in zip(x, start, labels, strict=True):
        right = 0
        for done in range(steps):
            attack = {"loss": cross_entropy, "norm": "linf", "eps": THREAT.eps, "step_size": 0.03, "steps": done}
            here = pgd(model, image[None], label[None], start=point[None], **attack)
            right += int(model(here).argmax()) == int(label)
        shares.append(right / steps)
    return shares


def test_kappa_counts_the_steps_that_start_at_a_point_still_right() -> None:
    model, batch = first_batch(GAIRAT, Pgd(steps=5, step_size=0.03))
    uniform = torch.rand(batch.clean.shape, generator=generator(0, "start", 1))
    start = (batch.clean + (2 * uniform - 1) * THREAT.eps).clamp(0, 1)
    expected = brute_force_right(model, batch.clean, start, batch.labels, 5)
    np.testing.assert_allclose(batch.right, expected, atol=1e-6)


def test_kappa_takes_all_values_between_none_and_all() -> None:
    values = [0.03 + 0.05 * k for k in range(19)]
    x = torch.tensor(values)[:, None, None, None]

    def threshold(x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1) - 0.5, 0.5 - x.flatten(1)], dim=1)

    seen: list[Tensor] = []
    labels = torch.zeros(19, dtype=torch.int64)
    attack = {"loss": cross_entropy, "norm": "linf", "eps": 0.4, "step_size": 0.1, "steps": 4}
    pgd(threshold, x, labels, start=x, watch=seen.append, **attack)  # type: ignore[arg-type]
    right = sum((logits.argmax(1) == 0).long() for logits in seen)
    # class 0 is right above 0.5, and each step takes 0.1 away
    assert right.tolist() == [sum(value - 0.1 * step > 0.5 for step in range(4)) for value in values]
    assert set(right.tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
@pytest.mark.parametrize("method", ADVERSARIAL, ids=lambda method: method.name)
def test_each_methods_attack_raises_its_own_inner_loss(method: Method, name: str) -> None:
    model, batch = first_batch(method, Pgd(steps=4, step_size=0.03), name=name)
    goal = objective(method)
    assert goal.inner is not None
    with torch.no_grad():
        target = model(batch.clean).log_softmax(1) if goal.from_clean else batch.labels
        before, after = (goal.inner(model(x), target) for x in (batch.clean, batch.x))
    assert (after > before).float().mean() > 0.8
    assert not batch.x.requires_grad


def test_without_an_attack_nothing_is_counted() -> None:
    _, batch = first_batch(PGD_AT)
    assert batch.right.shape == (24,)
    assert ((batch.right >= 0) & (batch.right <= 1)).all()
