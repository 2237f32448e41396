"""Adversarial weight perturbation against a step by hand."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import ADVERSARIAL, PGD_AT, but
from runs import RECIPE, batch_of, network, run, same, samples, weights
from torch import Tensor, nn

from bat.training.awp import backward, perturbed
from bat.training.losses import objective

torch.set_num_threads(1)

PART = samples(60)
RARE = torch.arange(60) % 2 == 0


class Linear(nn.Module):
    """Logits W x + b of flattened images, split as a network is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3, dtype=torch.float64)

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def test_the_gradient_is_that_at_the_weights_moved_by_hand() -> None:
    torch.manual_seed(0)
    model, gamma = Linear(), 0.3
    x, labels = PART.images().double(), PART.labels

    def by_hand(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy of a linear model with its gradients (p - onehot)^T x / n and the mean of p - onehot."""
        p = (x.flatten(1) @ w.T + b).softmax(1)
        error = (p - torch.eye(3, dtype=torch.float64)[labels]) / len(x)
        return -p[torch.arange(60), labels].log().mean(), error.T @ x.flatten(1), error.sum(0)

    w, b = (parameter.detach().clone() for parameter in model.parameters())
    _, ascent, _ = by_hand(w, b)
    moved = w + gamma * w.norm() * ascent / ascent.norm()
    loss, gradient, bias_gradient = by_hand(moved, b)
    terms = backward(model, batch_of(x, labels), objective(but(PGD_AT, awp=gamma)))  # type: ignore[arg-type]
    torch.testing.assert_close(terms.loss.detach(), loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.linear.weight.grad, gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.linear.bias.grad, bias_gradient, rtol=1e-10, atol=1e-12)
    assert torch.equal(model.linear.weight, w)
    assert torch.equal(model.linear.bias, b)
    assert loss > by_hand(w, b)[0]


@given(gamma=st.floats(1e-3, 1), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_the_move_has_gamma_times_the_norm_along_the_gradient_and_is_undone(
    gamma: float, scale: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    weights, gradients = torch.randn(2, 3, 4, 5, generator=random).unbind()
    found = weights.clone()
    with perturbed([weights], [scale * gradients], gamma=gamma):
        move = weights - found
    assert torch.equal(weights, found)
    assert float(move.norm() / found.norm()) == pytest.approx(gamma, rel=1e-2)
    assert float((move * gradients).sum() / move.norm() / gradients.norm()) == pytest.approx(1, abs=1e-4)


def test_an_error_undoes_the_move_too() -> None:
    weights = torch.ones(3, 3)
    with pytest.raises(RuntimeError), perturbed([weights], [torch.ones(3, 3)], gamma=0.5):
        torch.ones(2) @ weights
    assert torch.equal(weights, torch.ones(3, 3))


def test_a_gradient_of_0_moves_nothing() -> None:
    weights = torch.ones(3, 3)
    with perturbed([weights], [torch.zeros(3, 3)], gamma=0.5):
        assert torch.equal(weights, torch.ones(3, 3))


@pytest.mark.parametrize("method", ADVERSARIAL, ids=lambda method: method.name)
def test_a_gamma_of_0_is_the_base_to_the_bit_and_another_is_not(method: Any) -> None:
    base, none, some = (
        weights(run(PART, but(method, awp=gamma), atypical=RARE, name="small_cnn")[0]) for gamma in (0.0, 1e-30, 0.02)
    )
    # a move of 1e-30 is none: the same gradient through the whole detour
    assert same(base, none)
    assert not same(base, some)


def test_running_statistics_move_once_a_step_at_the_perturbed_weights() -> None:
    model = network(PART, "small_cnn").train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: list[tuple[Tensor, Tensor]] = []
    goal = objective(but(PGD_AT, awp=0.05))
    twin = copy.deepcopy(model)

    def outer(model: Any, batch: Any) -> Any:
        seen.append((norms[0].running_mean.clone(), model.body[0].weight.detach().clone()))
        return goal.outer(model, batch)

    x = PART.images()
    backward(model, batch_of(x, PART.labels), replace(goal, outer=outer))
    (before, at), (between, moved) = seen
    assert torch.equal(before, between)
    assert not torch.equal(at, moved)
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1, 1]
    assert all(norm.track_running_stats for norm in norms)
    twin.body[0].weight.data = moved
    twin(x)
    assert torch.equal(norms[0].running_mean, twin.body[1].running_mean)


def test_a_weight_that_the_loss_does_not_reach_is_not_moved() -> None:
    model = Linear()
    model.unused = nn.Linear(2, 2)
    before = model.unused.weight.detach().clone()
    seen: list[Tensor] = []
    goal = objective(but(PGD_AT, awp=0.05))

    def outer(model: Any, batch: Any) -> Any:
        seen.append(model.unused.weight.detach().clone())
        return goal.outer(model, batch)

    backward(model, batch_of(PART.images().double(), PART.labels), replace(goal, outer=outer))  # type: ignore[arg-type]
    assert all(torch.equal(weight, before) for weight in seen)
    assert len(seen) == 2


@pytest.mark.parametrize("frozen", [False, True])
def test_what_has_one_dimension_or_is_frozen_is_not_moved(frozen: bool) -> None:
    model = network(PART, "small_cnn").train()
    first = next(weight for weight in model.parameters() if weight.ndim > 1)
    first.requires_grad_(not frozen)
    found = weights(model)
    changed: set[str] = set()
    goal = objective(but(PGD_AT, awp=0.05))

    def outer(model: Any, batch: Any) -> Any:
        changed.update(name for name, value in model.named_parameters() if not torch.equal(value, found[name]))
        return goal.outer(model, batch)

    backward(model, batch_of(PART.images(), PART.labels), replace(goal, outer=outer))
    others = {name for name, value in model.named_parameters() if value.ndim > 1 and value.requires_grad}
    assert changed == others
    assert (first in {value for name, value in model.named_parameters() if name in others}) == (not frozen)


def test_the_optimizer_steps_from_the_weights_that_were_found() -> None:
    recipe = {"epochs": 1, "batch_size": 60, "momentum": 0.0, "weight_decay": 0.0}
    model = network(PART)
    start = weights(model)
    run(PART, but(PGD_AT, awp=0.05), recipe=replace(RECIPE, **recipe), model=model)
    for name, parameter in model.named_parameters():
        step = start[name] - parameter.grad * RECIPE.learning_rate
        torch.testing.assert_close(parameter.detach(), step, rtol=1e-5, atol=1e-7)
