"""Attacks of the user's own in the ensemble: counted as any other, or refused in one line."""

import pytest
import torch
from refusals import refusal
from torch import nn

import bat.attacks.own
from bat.attacks.ensemble import run_attack
from bat.attacks.own import own_attack
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


# -- around a function that is not imported

OWN = OwnAttack(name="users:attack", code="0", options={"share": 0.5})
FORM = "give def attack(model, x, y, *, norm, eps, generator), which returns images like x, in [0, 1] and in the ball"


def called(monkeypatch, function, norm="linf"):
    """Let ``function`` be the user's; return what the attack makes of two images."""
    monkeypatch.setattr(bat.attacks.own, "own_function", lambda *_, **__: function)
    x, labels = torch.full((2, 1, 1, 2), 0.5), torch.tensor([1, 0])
    found = own_attack(OWN, nn.Identity(), x, labels, norm=norm, eps=0.25, seed=7)
    assert (x == 0.5).all()
    assert labels.tolist() == [1, 0]
    return found


def test_the_function_is_imported_by_its_name_with_what_it_must_take(monkeypatch):
    asked = []

    def imported(*given, **options):
        asked.append((given, options))
        return lambda model, x, y, **named: x

    monkeypatch.setattr(bat.attacks.own, "own_function", imported)
    own_attack(OWN, nn.Identity(), X, torch.zeros(40), norm="linf", eps=0.1, seed=0)
    assert asked == [(("users:attack", FORM), {"taken": 3, "keywords": ("norm", "eps", "generator"), "part": OWN})]


def test_the_function_has_copies_and_random_numbers_by_the_seed(monkeypatch):
    seen = []

    def changing(model, x, y, *, norm, eps, generator):
        seen.append((model, x.clone(), y.clone(), norm, eps, torch.rand(3, generator=generator), torch.rand(3)))
        y.zero_()
        return x.add_(eps / 2)

    before = torch.get_rng_state()
    found = called(monkeypatch, changing, norm="l2")
    assert torch.equal(torch.get_rng_state(), before)
    ((model, x, y, norm, eps, by_generator, by_global),) = seen
    assert isinstance(model, nn.Identity)
    assert (x.tolist(), y.tolist(), norm, eps) == ([[[[0.5, 0.5]]]] * 2, [1, 0], "l2", 0.25)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    assert torch.equal(by_generator, expected)
    assert torch.equal(by_global, expected)
    assert (found == 0.625).all()


@pytest.mark.parametrize("low", [0.25, 0.5])
def test_what_is_returned_is_of_the_images_kind_and_without_a_gradient(monkeypatch, low):
    found = called(monkeypatch, lambda model, x, y, **named: (x - 0.5 + low).double().requires_grad_())
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    assert (found == low).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: [x], "returned list, not images of shape (2, 1, 1, 2)"),
        (lambda x: None, "returned NoneType, not images of shape (2, 1, 1, 2)"),
        (lambda x: x[0], "returned torch.float32 of shape (1, 1, 2), not images of shape (2, 1, 1, 2)"),
        (lambda x: x.bool(), "returned torch.bool of shape (2, 1, 1, 2), not images of shape (2, 1, 1, 2)"),
        (lambda x: x / torch.tensor([1.0, 0.0]), "returned images with NaN or infinity"),
        (lambda x: x.new_tensor([0.5, -0.125]).expand(x.shape), "returned pixels from -0.125 to 0.5, beyond [0, 1]"),
        (lambda x: x.new_tensor([0.5, 1.125]).expand(x.shape), "returned pixels from 0.5 to 1.125, beyond [0, 1]"),
        (lambda x: x - x.new_tensor([0.0, 1 / 3]), "left the linf ball of 0.25 by 0.0833"),
        (lambda x: x - x.new_tensor([0.0, 1.5 + 1e-7]), "returned pixels from -1 to 0.5, beyond [0, 1]"),
    ],
)
def test_what_an_attack_must_not_return_is_one_line(monkeypatch, function, message):
    said = refusal(called, monkeypatch, lambda model, x, y, **named: function(x))
    assert said == f"attack users:attack: {message}: {FORM}"


def test_pixels_at_the_ends_and_at_the_edge_of_the_ball_are_allowed(monkeypatch):
    monkeypatch.setattr(bat.attacks.own, "own_function", lambda *_, **__: lambda model, x, y, **named: 1 - x)
    x = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    found = own_attack(OWN, nn.Identity(), x, torch.tensor([0, 0]), norm="linf", eps=1.0, seed=0)
    assert torch.equal(found, 1 - x)
