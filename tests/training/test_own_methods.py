"""Methods of the user's own: those of this package written as such, and what is refused in one line."""

from dataclasses import replace

import pytest
import runs
import torch
from methods import BAT, GAIRAT, MART, NATURAL, PGD_AT, TRADES
from refusals import refusal

import bat.training.own
from bat.config import Adversary, OneCycle, OwnMethod, Pgd, SizedModel, Threat
from bat.data.dataset import Part
from bat.models import build
from bat.training.loop import fit
from bat.training.losses import Batch, objective
from bat.training.own import own_inner, own_losses

TEXT = """
import torch
import torch.nn.functional as F
from bat.training.losses import (
    Losses, bat_weights, boosted_cross_entropy, discrimination_loss, gairat_weights, harmful_samples, kl_divergence,
    weighted_mean,
)

def natural(model, batch):
    logits = model(batch.x)
    return F.cross_entropy(logits, batch.labels, label_smoothing=batch.label_smoothing), logits

def trades(model, batch, *, beta):
    clean, logits = model(batch.clean), model(batch.x)
    losses = F.cross_entropy(clean, batch.labels, reduction="none", label_smoothing=batch.label_smoothing)
    return losses + beta * kl_divergence(logits, F.log_softmax(clean, dim=1)), logits

def mart(model, batch, *, factor):
    log_p, logits = F.log_softmax(model(batch.clean), dim=1), model(batch.x)
    error = 1 - log_p.gather(1, batch.labels[:, None])[:, 0].exp()
    boosted = boosted_cross_entropy(logits, batch.labels, label_smoothing=batch.label_smoothing)
    return boosted + factor * kl_divergence(logits, log_p) * error, logits

def gairat(model, batch, *, offset, burn_in):
    if batch.progress < burn_in:
        return natural(model, batch)
    logits = model(batch.x)
    losses = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=batch.label_smoothing)
    weights = gairat_weights(batch.right, offset=offset)
    return (weights * losses).mean(), logits, weights

def bat(model, batch, *, alpha, beta, temperature):
    features = model.features(batch.x)
    logits = model.head(features)
    losses = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=batch.label_smoothing)
    weights = bat_weights(logits, batch.labels, batch.atypical, alpha=alpha)
    harmful = harmful_samples(logits, batch.labels, batch.atypical)
    pairs = discrimination_loss(features, batch.labels, harmful, temperature=temperature)
    return Losses(weighted_mean(losses, weights) + beta * pairs, logits, weights, pairs)

def inner(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none")

def weighted(model, batch):
    logits = model(batch.x)
    losses = F.cross_entropy(logits, batch.labels, reduction="none")
    return losses, logits, torch.arange(len(logits)).float()

def alone(model, batch): return model(batch.x).sum()
def swapped(model, batch): return model(batch.x), model(batch.x)
def short(model, batch): return model(batch.x)[:2, 0], model(batch.x)
def labels(model, batch): return model(batch.x).sum(), model(batch.x).argmax(1)
def weights(model, batch): return model(batch.x)[:, 0], model(batch.x), torch.ones(2)
def detached(model, batch): return model(batch.x).detach().sum(), model(batch.x)
def raises(model, batch): return batch.nothing
def nan(model, batch): return model(batch.x).sum() * float("nan"), model(batch.x)
def one(model): return None
def mean(logits, labels): return logits.mean()
"""
RECIPE = replace(
    runs.RECIPE,
    batch_size=8,
    learning_rate=0.1,
    schedule=OneCycle(name="one_cycle", warmup=0.3),
    label_smoothing=0.1,
)


def trained(method):
    """Train a small network on random images; return its weights and what was seen of the last epoch."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (24, 1, 4, 4), dtype=torch.uint8, generator=random)
    part = Part(pixels, torch.randint(3, (24,), generator=random), torch.arange(24), 255)
    model = build(SizedModel(name="mlp", width=8), part, classes=3, seed=0)
    adversary = Adversary(threat=Threat(norm="linf", eps=0.1), attack=Pgd(steps=2, step_size=0.1), attack_bn="eval")
    atypical = torch.arange(24) % 2 == 0
    goal = objective(method)
    epochs = list(
        fit(model, part, objective=goal, recipe=RECIPE, seed=0, what="run", atypical=atypical, adversary=adversary)
    )
    last = epochs[-1]
    seen = [last.loss, last.discrimination_loss, last.samples.wrong_probability, last.samples.weight]
    return model.state_dict(), seen, last.harmful


@pytest.mark.parametrize(
    ("name", "expected", "own"),
    [
        ("natural", NATURAL, {"inner": None}),
        ("natural", PGD_AT, {}),
        ("natural", PGD_AT, {"inner": "{}:inner"}),
        ("natural", replace(PGD_AT, awp=0.01, eps_factor=0.5), {"awp": 0.01, "eps_factor": 0.5}),
        ("trades", TRADES, {"inner": "kl", "options": {"beta": 6.0}}),
        ("mart", MART, {"options": {"factor": 5.0}}),
        ("gairat", GAIRAT, {"options": {"offset": -1.0, "burn_in": 0.5}}),
        ("bat", BAT, {"score": "memorization", "options": {"alpha": 1.0, "beta": 0.2, "temperature": 0.1}}),
    ],
    ids=["natural", "pgd_at", "own inner", "awp", "trades", "mart", "gairat", "bat"],
)
def test_the_methods_of_this_package_are_the_same_to_the_bit_when_written_as_own_ones(module, name, expected, own):
    users = module(TEXT)
    own = {key: value.format(users) if isinstance(value, str) else value for key, value in own.items()}
    (weights, seen, harmful), (others, known, counted) = (
        trained(each) for each in (OwnMethod(name="own", objective=f"{users}:{name}", **own), expected)
    )
    assert all(torch.equal(weights[key], others[key]) for key in others)
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(seen, known, strict=True))
    assert harmful == counted
    assert (harmful > 0) == (name == "bat")


def test_losses_of_samples_are_averaged_by_their_weights(module):
    method = OwnMethod(name="own", objective=f"{module(TEXT)}:weighted")
    model, batch = some_batch()
    terms = objective(method).outer(model, batch)
    losses = torch.nn.functional.cross_entropy(model(batch.x), batch.labels, reduction="none")
    weights = torch.arange(len(losses)).float()
    torch.testing.assert_close(terms.loss, (weights * losses).sum() / weights.sum())
    assert torch.equal(terms.weight, weights)
    assert not terms.logits.requires_grad


def some_batch():
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8, generator=random)
    part = Part(pixels, torch.arange(6) % 3, torch.arange(6), 255)
    model = build(SizedModel(name="mlp", width=8), part, classes=3, seed=0)
    x = part.images()
    none = torch.zeros(6, dtype=torch.bool)
    return model, Batch(x, x, part.labels, none, x.new_zeros(len(x)), x.new_empty(0), 0.0, 0.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("alone", "returned a tensor of float32 of shape ()"),
        ("swapped", "losses has shape (6, 3) for 6 samples"),
        ("short", "losses has shape (2,) for 6 samples"),
        ("labels", "logits is a tensor of int64 of shape (6,)"),
        ("weights", "weights has shape (2,) for 6 samples"),
        ("detached", "the losses have no gradient"),
        ("raises", "the function fails (AttributeError: "),
        ("one", "the function does not take what it is given (too many positional arguments)"),
    ],
)
def test_a_method_that_returns_something_else_is_one_line(module, function, message):
    method = OwnMethod(name="own", objective=f"{module(TEXT)}:{function}")
    said = refusal(lambda: objective(method).outer(*some_batch()))
    assert method.objective in said
    assert message in said


def test_a_loss_that_is_nan_and_an_inner_problem_without_a_loss_a_sample_are_one_line(module):
    users = module(TEXT)
    assert "run: the loss is nan in epoch 1, batch 1" in refusal(
        trained, OwnMethod(name="own", objective=f"{users}:nan", inner=None)
    )
    own = OwnMethod(name="own", objective=f"{users}:natural", inner=f"{users}:mean")
    said = refusal(trained, own)
    assert said.startswith(
        f"method own, {users}:mean: returned a tensor of float32 of shape () for 8 samples: give def"
    )


# -- around functions that are not imported

OWN = OwnMethod(name="own", objective="users:method", inner="users:inner", code="0")
FORM = (
    "give def method(model, batch), which returns (losses, logits), or (losses, logits, weights): losses of the "
    "samples (n,) or their mean, logits (n, classes) of batch.x, weights (n,)"
)
INNER = "give def inner(logits, labels), which returns the loss of each sample (n,), which the attack raises"
LOSS, LOGITS = torch.ones(6, requires_grad=True), torch.ones(6, 3)


def imported(monkeypatch, returned):
    """Let the user's function return this; return what is asked of the import, and what the function is given."""
    asked, given = [], []

    def function(*arguments):
        given.append(arguments)
        return returned

    monkeypatch.setattr(bat.training.own, "own_function", lambda *at, **more: asked.append((at, more)) or function)
    return asked, given


@pytest.mark.parametrize(
    "returned",
    [
        (LOSS, LOGITS),
        (LOSS.sum(), LOGITS, None),
        (LOSS, LOGITS, torch.ones(6)),
        (LOSS, LOGITS, None, torch.ones(())),
        (LOSS, LOGITS, torch.ones(6), None),
    ],
)
def test_what_a_method_may_return_is_passed_on(monkeypatch, returned):
    asked, given = imported(monkeypatch, returned)
    model, batch = some_batch()
    assert own_losses(OWN)(model, batch) is returned
    assert asked == [(("users:method", FORM), {"taken": 2, "part": OWN})]
    assert given == [(model, batch)]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (LOSS, "returned a tensor of float32 of shape (6,)"),
        ([LOSS, LOGITS], "returned a list"),
        ((LOSS,), "returned a tuple of 1"),
        ((LOSS, LOGITS, None, None, None), "returned a tuple of 5"),
        ((None, LOGITS), "losses is a NoneType"),
        ((LOSS, None), "logits is a NoneType"),
        ((LOSS, LOGITS, torch.ones(6, dtype=torch.int64)), "weights is a tensor of int64 of shape (6,)"),
        ((LOSS, LOGITS, None, 1.0), "discrimination is a float"),
        ((LOSS[:5], LOGITS), "losses has shape (5,) for 6 samples"),
        ((LOSS, LOGITS[:5]), "logits has shape (5, 3) for 6 samples"),
        ((LOSS, LOGITS[:, 0]), "logits has shape (6,) for 6 samples"),
        ((LOSS, LOGITS, torch.ones(())), "weights has shape () for 6 samples"),
        ((LOSS, LOGITS, None, torch.ones(6)), "discrimination has shape (6,) for 6 samples"),
    ],
)
def test_what_a_method_must_not_return_is_one_line(monkeypatch, returned, message):
    imported(monkeypatch, returned)
    assert refusal(own_losses(OWN), *some_batch()) == f"method own, users:method: {message}: {FORM}"


def test_losses_without_a_gradient_are_one_line(monkeypatch):
    imported(monkeypatch, (LOSS.detach(), LOGITS))
    assert refusal(own_losses(OWN), *some_batch()) == (
        "method own, users:method: the losses have no gradient: compute them from what the model returns"
    )


def test_an_inner_problem_is_the_users_function(monkeypatch):
    asked, given = imported(monkeypatch, LOSS)
    labels = torch.zeros(6, dtype=torch.int64)
    assert own_inner(OWN, "users:inner")(LOGITS, labels) is LOSS
    assert asked == [(("users:inner", INNER), {"taken": 2})]
    assert given == [(LOGITS, labels)]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "a NoneType"),
        (LOSS.sum(), "a tensor of float32 of shape ()"),
        (LOSS[:5], "a tensor of float32 of shape (5,)"),
        (LOSS.bool(), "a tensor of bool of shape (6,)"),
    ],
)
def test_an_inner_problem_without_a_loss_a_sample_is_one_line(monkeypatch, returned, said):
    imported(monkeypatch, returned)
    inner = own_inner(OWN, "users:inner")
    line = refusal(inner, LOGITS, torch.zeros(6, dtype=torch.int64))
    assert line == f"method own, users:inner: returned {said} for 6 samples: {INNER}"
