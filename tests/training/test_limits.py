"""Where methods coincide to the bit, and what a step of each costs."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
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
from runs import ATTACK, RECIPE, THREAT, batch_of, network, run, same, samples, weights
from torch import Tensor

import bat.training.loop
from bat.attacks.gradient import cross_entropy
from bat.attacks.pgd import pgd
from bat.config import BatMart, BatTrades, MailTrades, Mart, Method, Pgd, Steps, Trades
from bat.training.losses import boosted_cross_entropy, objective

torch.set_num_threads(1)

PART = samples(60)
ALL = torch.ones(60, dtype=torch.bool)
NONE = torch.zeros(60, dtype=torch.bool)
LONGER = replace(
    RECIPE,
    epochs=3,
    learning_rate=0.1,
    schedule=Steps(name="steps", warmup=0.0, milestones=(0.5,), factor=0.1),
    crop_padding=1,
    flip=True,
)
HARD = torch.linspace(0, 1, 60)
OFF = {"reweighting": False, "discrimination": False}


def trained(method: Method, atypical: Tensor = ALL, name: str = "mlp") -> dict[str, Tensor]:
    hard = HARD * atypical
    return weights(run(PART, method, recipe=LONGER, seed=2, name=name, atypical=atypical, difficulty=hard)[0])


# -- limits in training


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
@pytest.mark.parametrize(
    ("method", "atypical", "limit"),
    [
        (but(BAT, alpha=0.0, beta=0.0), ALL, PGD_AT),
        (but(BAT, **OFF), ALL, PGD_AT),
        (but(BAT, beta=0.0), NONE, PGD_AT),
        (but(BAT, alpha="inf", beta=0.0), NONE, PGD_AT),
        (but(BAT_TRADES, **OFF), ALL, TRADES),
        (but(BAT_TRADES, alpha=0.0, beta=0.0), ALL, TRADES),
        (but(BAT_MART, **OFF), ALL, MART),
        (but(BAT_MART, beta=0.0), NONE, MART),
        (but(GAIRAT, burn_in=1.0), ALL, PGD_AT),
        (but(DPLS, smoothing=0.0), ALL, PGD_AT),
        (DPLS, NONE, PGD_AT),
        (but(MAIL, burn_in=1.0), ALL, PGD_AT),
        (but(MAIL, burn_in=0.0, slope=0.0), ALL, PGD_AT),
        (but(MAIL, burn_in=0.0, slope=0.0, factor=2.0), ALL, PGD_AT),
        (but(MAIL_TRADES, burn_in=1.0), ALL, TRADES),
        (but(MAIL_TRADES, burn_in=0.0, slope=0.0), ALL, TRADES),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_method_whose_parts_are_off_trains_the_weights_of_its_limit(
    method: Method, atypical: Tensor, limit: Method, name: str
) -> None:
    assert same(trained(method, atypical, name), trained(limit, NONE, name))


@pytest.mark.parametrize(
    "method",
    [
        but(base, **changes)
        for base in (BAT, BAT_TRADES, BAT_MART)
        for changes in ({"beta": 0.0}, {"alpha": 0.0}, {"reweighting": False}, {"alpha": "inf", "beta": 0.0})
    ],
    ids=lambda method: method.name,
)
def test_each_part_of_bat_alone_changes_the_weights(method: Any) -> None:
    assert not same(trained(method), trained(but(method, **OFF)))


def test_difficulty_changes_the_weights() -> None:
    assert not same(trained(DPLS), trained(PGD_AT))


@pytest.mark.parametrize(
    ("base", "weighted"),
    [(PGD_AT, GAIRAT), (PGD_AT, MAIL), (TRADES, MAIL_TRADES)],
    ids=["gairat", "mail", "mail_trades"],
)
def test_weights_leave_those_of_the_base_when_the_burn_in_ends(base: Method, weighted: Method) -> None:
    # 4 batches in each of 3 epochs: half of training is 6 steps
    found = {}
    for method in (base, but(weighted, burn_in=0.5), but(weighted, burn_in=0.51)):
        seen: list[Tensor] = []
        goal = objective(method)

        def outer(model: Any, batch: Any, goal: Any = goal, seen: Any = seen) -> Any:
            seen.append(model.head.weight.detach().clone())
            return goal.outer(model, batch)

        run(PART, replace(goal, outer=outer), recipe=LONGER)
        found[len(found)] = seen
    # the weights before step k: steps 0 to 5 are the base's, and with 0.51 step 6, too
    equal = [[torch.equal(a, b) for a, b in zip(found[0], other, strict=True)] for other in (found[1], found[2])]
    assert equal[0] == [True] * 7 + [False] * 5
    assert equal[1] == [True] * 8 + [False] * 4


@pytest.mark.parametrize("name", ["mlp", "small_cnn"])
def test_trades_without_divergence_is_cross_entropy_on_clean_images(name: str) -> None:
    model = network(PART, name).double()
    x, labels = PART.images().double(), PART.labels
    loss = objective(but(TRADES, beta=0.0)).outer(model, batch_of(1 - x, labels, clean=x)).loss
    assert float(loss.detach()) == pytest.approx(float(cross_entropy(model(x), labels).mean().detach()), abs=1e-12)


def test_mart_without_divergence_is_boosted_cross_entropy_on_adversarial_images() -> None:
    model = network(PART).double()
    x, labels = PART.images().double(), PART.labels
    loss = objective(but(MART, factor=0.0)).outer(model, batch_of(x, labels, clean=1 - x)).loss
    expected = boosted_cross_entropy(model(x), labels, label_smoothing=0.0).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


@pytest.mark.parametrize("method", ADVERSARIAL, ids=lambda method: method.name)
def test_the_factor_of_eps_shrinks_the_ball_and_the_step(method: Method) -> None:
    seen = {}
    for factor in (0.25, 1.0):
        goal, distances = objective(but(method, eps_factor=factor)), []

        def outer(model: Any, batch: Any, goal: Any = goal, distances: Any = distances) -> Any:
            distances.append((batch.x - batch.clean).abs().max())
            return goal.outer(model, batch)

        run(PART, replace(goal, outer=outer))
        seen[factor] = float(max(distances))
    # eps 0.1, two steps of 0.05: a start at the image itself reaches the bound, too
    assert seen[0.25] <= 0.025 + 1e-6
    assert 0.09 <= seen[1.0] <= 0.1 + 1e-6


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.0])
def test_the_factor_multiplies_eps_and_step_size(factor: float) -> None:
    asked: list[tuple[float, float]] = []

    def spy(*arguments: Any, **named: Any) -> Tensor:
        asked.append((named["eps"], named["step_size"]))
        return pgd(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bat.training.loop, "pgd", spy)
        run(PART, but(PGD_AT, eps_factor=factor))
    assert set(asked) == {(factor * THREAT.eps, factor * ATTACK.step_size)}


# -- passes of a step


def passes(method: Method, attack: Pgd) -> Counter[str]:
    """Count the forward passes of one step, those of them that record a graph, and the backward passes."""
    model, count = network(PART, "small_cnn"), Counter[str]()

    def forward(_: Any, __: Any, logits: Tensor) -> None:
        count["forward"] += 1
        if logits.requires_grad:
            count["recorded"] += 1
            logits.register_hook(lambda gradient: count.update(["backward"]))

    model.head.register_forward_hook(forward)  # which the form for attacks shares
    run(PART, method, recipe=replace(RECIPE, epochs=1, batch_size=60), model=model, attack=attack, atypical=ALL)
    return count


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("awp", [0.0, 0.01])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_step_costs_no_more_passes_than_its_definition_needs(method: Any, awp: float, steps: int) -> None:
    outer = 2 if isinstance(method, Trades | MailTrades | Mart | BatTrades | BatMart) else 1  # clean images, too
    attack = 0 if method is NATURAL else steps
    target = isinstance(method, Trades | MailTrades | BatTrades)  # the attack's p(x)
    if awp and method is not NATURAL:
        method, outer = but(method, awp=awp), 2 * outer
    graphs = attack + outer
    expected = {"forward": graphs + target, "recorded": graphs, "backward": graphs}
    assert passes(method, Pgd(steps=steps, step_size=0.05)) == expected
