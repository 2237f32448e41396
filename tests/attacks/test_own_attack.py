"""Attacks of the user's own in the ensemble: counted as any other, or refused in one line."""

import pytest
import torch
from refusals import refusal
from torch import nn

from bat.attacks.ensemble import run_attack
from bat.config import EvaluationPgd, OwnAttack, Threat
from bat.data.dataset import Part
from bat.evaluation.under_attack import attack_samples, sample_table
from bat.models import attackable

TEXT = """
import torch

def steepest(model, x, y, *, norm, eps, generator):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    return (x + eps * gradient.sign()).clamp(0, 1)

def random(model, x, y, *, norm, eps, generator, share=1.0):
    sign = torch.rand(x.shape, generator=generator) < 0.5
    x.add_(eps * share * (2.0 * sign - 1)).clamp_(0, 1)
    return x

def global_random(model, x, y, *, norm, eps, generator): return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
def far(model, x, y, *, norm, eps, generator): return (x + 2 * eps).clamp(0, 1)
def outside(model, x, y, *, norm, eps, generator): return x - eps
def nan(model, x, y, *, norm, eps, generator): return x * float("nan")
def one(model, x, y, *, norm, eps, generator): return x[:1]
def nothing(model, x, y, *, norm, eps, generator): return None
def raises(model, x, y, *, norm, eps, generator): raise ValueError("no l2")
def plain(model, x): return x
"""
THREAT = Threat(norm="linf", eps=0.05)
X = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()


def run(attack, model, x=X, index=None, seed=0):
    with attackable(model):
        logits = model(x)
        index = torch.arange(len(x)) if index is None else index
        return run_attack(attack, model, x, logits, logits.argmax(1), index, threat=THREAT, seed=seed)


def test_an_attack_breaks_what_one_step_breaks_and_leaves_the_images(module, model):
    before = X.clone()
    outcome = run(OwnAttack(name=f"{module(TEXT)}:steepest"), model)
    assert 0 < (~outcome.stands).sum() < 40
    with torch.no_grad():
        labels, broken = model(X).argmax(1), model(outcome.x_adv).argmax(1)
    assert torch.equal(broken == labels, outcome.stands)
    assert torch.equal(X, before)


@pytest.mark.parametrize("function", ["random", "global_random"])
def test_random_numbers_depend_on_the_seed_and_restarts_help(module, model, function):
    name = f"{module(TEXT)}:{function}"
    once, again, other = (run(OwnAttack(name=name), model, seed=seed).x_adv for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    many = run(OwnAttack(name=name, restarts=20), model)
    assert many.stands.sum() < run(OwnAttack(name=name), model).stands.sum()
    weak = OwnAttack(name=name, options={"share": 0.0})
    if function == "random":
        assert run(weak, model).stands.all()


def test_the_table_names_the_attack_that_broke_a_sample(module, model):
    own = OwnAttack(name=f"{module(TEXT)}:steepest")
    with torch.no_grad():
        part = Part(X, model(X).argmax(1), torch.arange(40), 1)
    pgd = EvaluationPgd(name="pgd", steps=1, step_size=0.05, restarts=1)
    found = attack_samples(model, part, torch.arange(40), threat=THREAT, pgd_attack=pgd, ensemble=(own,), seed=0)
    table = sample_table(part, found, (own,))
    assert set(table["broken_by"].dropna()) == {own.name}
    assert (table["broken_by"].isna() == table["robust_correct"]).all()
    assert table["apgd_ce_correct"].isna().all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("far", "left the linf ball of 0.05 by 0.05: give def attack(model, x, y, *, norm, eps, generator)"),
        ("outside", "beyond [0, 1]"),
        ("nan", "returned images with NaN or infinity"),
        ("one", "returned torch.float32 of shape (1, 1, 4, 4), not images of shape (40, 1, 4, 4)"),
        ("nothing", "returned NoneType, not images of shape (40, 1, 4, 4)"),
        ("raises", "the function fails (ValueError: no l2, users_"),
        ("plain", "the function does not take what it is given"),
    ],
)
def test_an_attack_that_returns_something_else_is_one_line(module, model, function, message):
    attack = OwnAttack(name=f"{module(TEXT)}:{function}")
    said = refusal(run, attack, model)
    assert attack.name in said
    assert message in said
