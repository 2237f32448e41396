"""The training loop: what it depends on, what it steps by, what it records and which epoch it keeps."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, BAT_MART, BAT_TRADES, DPLS, GAIRAT, MAIL, MAIL_TRADES, MART, METHODS, NATURAL, PGD_AT, TRADES
from runs import ATTACK, CONSTANT, RECIPE, SPEC, THREAT, batch_of, network, right, run, same, samples, weights
from torch import Tensor, nn

import bat.models
import bat.training.loop
import bat.training.run
from bat.attacks.ball import near_start, random_start
from bat.config import Adversary, Bat, BatMart, BatTrades, Method, OneCycle, Pgd, Recipe, Steps
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.io.schemas import SCHEMAS
from bat.models import Network, build
from bat.seeds import derive_seed, generator
from bat.training.learner import Learner
from bat.training.loop import Epoch, EpochSamples, fit, learning_rate_factor
from bat.training.losses import Batch, Objective, Terms, objective
from bat.training.measure import measure
from bat.training.records import packed
from bat.training.run import Trained, train_run

torch.set_num_threads(1)

by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


# -- seeds


@by_method
def test_a_run_repeats_bit_for_bit_whatever_the_global_state(method: Method) -> None:
    part, atypical = samples(50), torch.arange(50) % 2 == 0
    recipe = replace(RECIPE, crop_padding=1, flip=True)
    found = []
    for state in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(state)
            before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
            found.append(run(part, method, recipe=recipe, name="small_cnn", atypical=atypical))
            after = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert (before[1] == after[1]).all()
    (first, history), (second, repeated) = found
    assert same(first.state_dict(), second.state_dict())
    assert repr(history) == repr(repeated)  # NaN equals itself here
    other, _ = run(part, method, recipe=recipe, name="small_cnn", seed=1)
    assert not same(first.state_dict(), other.state_dict())


def trace(part: Part, method: Method, *, seed: int = 0, recipe: Recipe = RECIPE) -> list[list[Tensor]]:
    """Train at a vanishing rate, so that all epochs see one model: for each epoch the batches of images trained on."""
    seen: list[Tensor] = []
    goal = objective(method)

    def outer(model: Network, batch: Batch) -> Terms:
        seen.append(batch.x.clone())
        return goal.outer(model, batch)

    recipe = replace(recipe, learning_rate=1e-8, weight_decay=0.0)
    run(part, replace(goal, outer=outer), recipe=recipe, seed=seed)
    batches = len(seen) // recipe.epochs
    return [seen[start : start + batches] for start in range(0, len(seen), batches)]


@pytest.mark.parametrize("method", [NATURAL, PGD_AT], ids=["natural", "pgd_at"])
def test_the_randomness_of_an_epoch_depends_on_seed_and_epoch_alone(method: Method) -> None:
    part, recipe = samples(40), replace(RECIPE, crop_padding=1, flip=True)
    short = trace(part, method, recipe=replace(recipe, epochs=2))
    long = trace(part, method, recipe=replace(recipe, epochs=4))
    for one, other in zip(short, long, strict=False):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
    for one, other in [(long[0], long[1]), (long[0], trace(part, method, seed=1, recipe=recipe)[0])]:
        assert not torch.equal(torch.cat(one), torch.cat(other))


def test_an_epochs_randomness_does_not_depend_on_the_epochs_before() -> None:
    class Generators:
        def __init__(self) -> None:
            self.made: list[tuple[Any, ...]] = []

        def __call__(self, *parts: int | str, device: Any = "cpu") -> torch.Generator:
            self.made.append(parts)
            return torch.Generator(device).manual_seed(0)

    spy = Generators()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bat.training.loop, "generator", spy)
        run(samples(20), recipe=replace(RECIPE, epochs=3), seed=7)
    assert spy.made == [(7, purpose, epoch) for epoch in (1, 2, 3) for purpose in ("order", "augment", "start")]


@pytest.mark.parametrize("method", [NATURAL, PGD_AT], ids=["natural", "pgd_at"])
def test_dropout_depends_on_seed_and_epoch_alone(method: Method) -> None:
    part = samples(40)

    def dropped(*, epochs: int, seed: int = 0, first: int = 1, state: dict[str, Tensor] | None = None) -> Any:
        """For each epoch which features were dropped, pass after pass, and the state after it."""
        model = network(part)
        # all ones before it, so that a feature is 0 where it was dropped and nowhere else
        model.body = nn.Sequential(model.body, Ones(), nn.Dropout(0.5))
        seen: list[Tensor] = []
        model.body.register_forward_hook(lambda module, _, out: seen.append(out == 0) if module.training else None)
        adversary = Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval")
        recipe = replace(RECIPE, epochs=epochs)
        found = []
        torch.manual_seed(first)  # the global state is nobody's business
        for epoch in fit(
            model,
            part,
            objective=objective(method),
            recipe=recipe,
            seed=seed,
            what="",
            adversary=adversary,
            first=first,
            state=state,
        ):
            found.append((torch.cat(seen), epoch.state()))
            seen.clear()
        return found

    (one, state), (two, _), *_ = whole = dropped(epochs=3)
    assert len({mask.numpy().tobytes() for mask, _ in whole}) == 3
    assert 0.3 < one.float().mean() < 0.7
    assert torch.equal(dropped(epochs=3, first=2, state=state)[0][0], two)
    assert torch.equal(dropped(epochs=1)[0][0], one)
    assert not torch.equal(dropped(epochs=1, seed=1)[0][0], one)


class Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x) + 0 * x


def test_all_objectives_see_the_same_order_from_the_same_weights() -> None:
    orders = []
    for method in METHODS:
        part = samples(50)
        run(part, method, seed=3)
        orders.append(part.asked)
    for other in orders[1:]:
        assert all(torch.equal(rows, others) for rows, others in zip(orders[0], other, strict=True))
    spec = [trained_once(method).first for method in METHODS]
    assert all(same(spec[0], other) for other in spec[1:])


@pytest.mark.parametrize(
    "alike",
    [(PGD_AT, BAT, MART, GAIRAT, MAIL, DPLS, BAT_MART), (TRADES, MAIL_TRADES, BAT_TRADES)],
    ids=["ce", "kl"],
)
def test_objectives_of_one_inner_loss_see_the_same_images_at_the_same_weights(alike: tuple[Method, ...]) -> None:
    recipe = replace(RECIPE, crop_padding=1, flip=True)
    one, *others = (torch.cat(list(itertools.chain(*trace(samples(40), method, recipe=recipe)))) for method in alike)
    assert all(torch.equal(one, other) for other in others)


def test_natural_and_adversarial_training_see_the_same_augmented_images() -> None:
    recipe = replace(RECIPE, crop_padding=1, flip=True)
    natural, adversarial = (
        torch.cat(list(itertools.chain(*trace(samples(40), method, recipe=recipe)))) for method in (NATURAL, PGD_AT)
    )
    assert (natural - adversarial).abs().max() <= THREAT.eps + 1e-6


def test_each_draw_of_an_epoch_has_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a seed stay what they are: streams are named by seed, purpose and epoch, and there are no others."""
    part, drawn, layers = samples(12), {}, []

    def augmented(x: Tensor, *, crop_padding: int, flip: bool, random: torch.Generator) -> Tensor:
        drawn["augment"] = (crop_padding, flip, random.initial_seed())
        return x

    def attacked(model: Network, batch: Batch, goal: Objective, adversary: Adversary, random: torch.Generator) -> Batch:
        drawn["start"] = random.initial_seed()
        return replace(batch, right=torch.zeros(len(batch.x)))

    def seeded(seed: int, device: torch.device) -> Any:
        layers.append(seed)
        return bat.models.seeded(seed, device)

    for name, stand_in in (("augment", augmented), ("_attacked", attacked), ("seeded", seeded)):
        monkeypatch.setattr(bat.training.loop, name, stand_in)
    for crop_padding, flip in ((0, True), (2, False)):
        recipe = replace(RECIPE, crop_padding=crop_padding, flip=flip, batch_size=12, epochs=2)
        run(part, objective(PGD_AT), recipe=recipe, seed=7)
        assert drawn["augment"] == (crop_padding, flip, derive_seed(7, "augment", 2))
        assert drawn["start"] == derive_seed(7, "start", 2)
    assert layers == 2 * [derive_seed(7, "layers", 1), derive_seed(7, "layers", 2)]
    assert torch.equal(part.asked[-1], torch.randperm(12, generator=generator(7, "order", 2)))


def test_each_step_has_the_rate_of_its_place_in_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(Learner, "step", lambda self, rate: rates.append(rate))
    schedule = OneCycle(name="one_cycle", warmup=0.5)
    run(samples(12), objective(NATURAL), recipe=replace(RECIPE, batch_size=4, epochs=2, schedule=schedule))
    assert rates == [RECIPE.learning_rate * learning_rate_factor(schedule, done, 6) for done in range(6)]


# -- batches


@given(n=st.integers(2, 60), batch_size=st.integers(2, 70))
@settings(max_examples=40)
def test_batches_cover_each_sample_once_and_differ_by_at_most_1(n: int, batch_size: int) -> None:
    part = samples(n)
    run(part, NATURAL, recipe=replace(RECIPE, batch_size=batch_size))
    batches = math.ceil(n / batch_size)
    assert len(part.asked) == 2 * batches
    for epoch in (part.asked[:batches], part.asked[batches:]):
        sizes = [len(rows) for rows in epoch]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        assert sorted(torch.cat(epoch).tolist()) == list(range(n))


def test_epochs_are_shuffled() -> None:
    part = samples(50)
    run(part, NATURAL, recipe=replace(RECIPE, batch_size=50))
    first, second = part.asked
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.arange(50))


# -- learning rate


@pytest.mark.parametrize(
    ("schedule", "total", "factors"),
    [
        (Steps(name="steps", warmup=0.0, milestones=(0.5, 0.75), factor=0.1), 8, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Steps(name="steps", warmup=0.0, milestones=(0.75, 0.5), factor=0.5), 4, [1, 1, 0.5, 0.25]),
        (Steps(name="steps", warmup=0.0, milestones=(), factor=0.1), 3, [1, 1, 1]),
        (Steps(name="steps", warmup=0.4, milestones=(0.8,), factor=0.1), 5, [1 / 3, 2 / 3, 1, 1, 0.1]),
        (Steps(name="steps", warmup=0.25, milestones=(), factor=0.1), 10, [2 / 7, 4 / 7, 6 / 7, *[1] * 7]),
        # milestones are fractions of the whole training, where the rate still rises too
        (Steps(name="steps", warmup=0.5, milestones=(0.25,), factor=0.1), 8, [0.2, 0.4, 0.06, 0.08, *[0.1] * 4]),
        (OneCycle(name="one_cycle", warmup=0.4), 5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
        (OneCycle(name="one_cycle", warmup=0.5), 4, [1 / 3, 2 / 3, 1, 1 / 2]),
        (OneCycle(name="one_cycle", warmup=0.25), 10, [2 / 7, 4 / 7, 6 / 7, *(k / 7.5 for k in range(7, 0, -1))]),
    ],
)
def test_learning_rate_factors_equal_hand_values(schedule: Steps | OneCycle, total: int, factors: list[float]) -> None:
    assert [learning_rate_factor(schedule, done, total) for done in range(total)] == pytest.approx(factors)


@given(warmup=st.floats(0.01, 0.99), total=st.integers(1, 500))
@settings(max_examples=100)
def test_one_cycle_rises_to_about_1_at_warmup_and_falls(warmup: float, total: int) -> None:
    factors = [learning_rate_factor(OneCycle(name="one_cycle", warmup=warmup), done, total) for done in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = int(np.argmax(factors))
    assert abs(peak - warmup * total) <= 1
    assert all(np.diff(factors[: peak + 1]) > 0)
    # the last step of the rise and the first of the fall may be as high
    assert all(np.diff(factors[peak + 1 :]) < 0)
    # the top is missed by less than a step up or down
    assert factors[peak] >= 1 - 1 / min(warmup * total + 1, max((1 - warmup) * total, 1))


@given(
    milestones=st.lists(st.floats(0.01, 0.99), max_size=3, unique=True),
    factor=st.floats(0.01, 0.99),
    total=st.integers(1, 300),
)
@settings(max_examples=60)
def test_steps_fall_by_the_factor_once_a_milestone(milestones: list[float], factor: float, total: int) -> None:
    schedule = Steps(name="steps", warmup=0.0, milestones=tuple(milestones), factor=factor)
    factors = [learning_rate_factor(schedule, done, total) for done in range(total)]
    assert factors[0] == 1
    assert all(np.diff(factors) <= 0)
    assert all(0 < value <= 1 for value in factors)
    assert learning_rate_factor(schedule, total, total) == pytest.approx(factor ** len(milestones))


def test_the_history_has_the_rate_of_each_epochs_first_step() -> None:
    recipe = replace(
        RECIPE, epochs=4, batch_size=10, schedule=Steps(name="steps", warmup=0.0, milestones=(0.3, 0.5), factor=0.1)
    )
    _, history = run(samples(20), NATURAL, recipe=recipe)
    # 8 steps: 3 to 4 (from 2.4 on) are slower, and from 4 on slower still
    assert [epoch.learning_rate for epoch in history] == pytest.approx([0.05, 0.05, 0.0005, 0.0005])
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]


@pytest.mark.parametrize("schedule", [CONSTANT, OneCycle(name="one_cycle", warmup=0.5)])
def test_steps_equal_sgd_by_hand(schedule: Steps | OneCycle) -> None:
    part, steps = samples(12), 4
    model = network(part)
    recipe = replace(RECIPE, epochs=steps, batch_size=12, learning_rate=0.3, weight_decay=0.1, schedule=schedule)
    reference = copy.deepcopy(model).double()
    x, labels = part.images().double(), part.labels
    velocity = [torch.zeros_like(parameter) for parameter in reference.parameters()]
    for done in range(steps):
        logits = reference(x)
        loss = (logits.logsumexp(1) - logits[torch.arange(12), labels]).mean()
        gradients = torch.autograd.grad(loss, list(reference.parameters()))
        for parameter, gradient, moving in zip(reference.parameters(), gradients, velocity, strict=True):
            moving.mul_(0.9).add_(gradient + 0.1 * parameter.detach())
            parameter.data -= 0.3 * learning_rate_factor(schedule, done, steps) * moving
    run(part, NATURAL, recipe=recipe, model=model)
    for (name, found), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5, msg=name)


# -- errors


class Spoilt(nn.Module):
    """Pass pixels on, and turn them into NaN from one forward pass on."""

    def __init__(self, body: nn.Module, after: int) -> None:
        super().__init__()
        self.body, self.left = body, after

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        features: Tensor = self.body(x if self.left >= 0 else x * torch.nan)
        return features


@pytest.mark.parametrize(("passes", "epoch", "batch"), [(0, 1, 1), (2, 1, 3), (3, 2, 1), (7, 3, 2)])
def test_a_loss_that_is_not_finite_is_an_error_with_run_epoch_and_batch(passes: int, epoch: int, batch: int) -> None:
    part = samples(30)
    model = network(part)
    model.body = Spoilt(model.body, passes)
    with pytest.raises(BatError, match=rf"^a run: the loss is nan in epoch {epoch}, batch {batch}: "):
        run(part, NATURAL, recipe=replace(RECIPE, epochs=5, batch_size=10), model=model)


@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_weights_that_an_epochs_last_step_spoils_are_an_error(
    epochs: int, value: float, ema_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the loss is looked at before a step alone: after the last one nothing else tells
    part, steps, step = samples(30), [0], Learner.step

    def spoils(self: Learner, learning_rate: float) -> None:
        steps[0] += 1
        if steps[0] == 3 * epochs:
            self.network.head.bias.grad[1] = value
        step(self, learning_rate)

    monkeypatch.setattr(Learner, "step", spoils)
    recipe = replace(RECIPE, epochs=3, batch_size=10, ema_decay=ema_decay)
    model = network(part)
    message = rf"^a run: weights are NaN or infinite after epoch {epochs}: lower the learning rate$"
    with pytest.raises(BatError, match=message):
        run(part, PGD_AT, recipe=recipe, model=model)
    assert steps[0] == 3 * epochs
    assert not model.head.bias.isfinite().all()


def test_epochs_before_the_one_that_spoils_the_weights_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, epochs=3, batch_size=30, momentum=0.0, weight_decay=0.0)
    monkeypatch.setattr(
        bat.training.loop, "learning_rate_factor", lambda schedule, done, total: [0.1, 0.1, math.inf][done]
    )
    epochs = fit(network(samples(30)), samples(30), objective=objective(NATURAL), recipe=recipe, seed=0, what="a run")
    assert [next(epochs).epoch, next(epochs).epoch] == [1, 2]
    with pytest.raises(BatError, match="after epoch 3"):
        next(epochs)


def test_running_statistics_that_are_not_finite_are_an_error_too() -> None:
    part = samples(30)
    model = network(part, "small_cnn")
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.running_var.fill_(torch.inf)
    with pytest.raises(BatError, match=r"^a run: weights are NaN or infinite after epoch 1: "):
        run(part, NATURAL, model=model)


def test_a_diverging_run_names_method_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bat.training.loop.learning_rate_factor", lambda *_: 1e31)
    spec = replace(SPEC, method=BAT, seed=7)
    with pytest.raises(BatError, match=r"^method bat, seed 7: the loss is (nan|inf) in epoch 1, batch 2: "):
        train_run(spec, data_set())


@pytest.mark.parametrize("method", [PGD_AT, BAT], ids=["pgd_at", "bat"])
def test_an_inner_loss_without_an_inner_problem_is_refused(method: Method) -> None:
    part = samples(10)
    with pytest.raises(ValueError, match=r"^this objective trains on adversarial examples: give adversary$"):
        next(fit(network(part), part, objective=objective(method), recipe=RECIPE, seed=0, what="x"))


def test_natural_training_needs_no_inner_problem() -> None:
    part = samples(10)
    with_one, _ = run(part, NATURAL)
    without = network(part)
    list(fit(without, part, objective=objective(NATURAL), recipe=RECIPE, seed=0, what="x"))
    assert same(with_one.state_dict(), without.state_dict())


# -- history


@by_method
def test_the_history_sums_up_what_was_trained_on(method: Method) -> None:
    part, rare = samples(25), torch.arange(25) % 2 == 0
    goal, seen = objective(method), []

    def outer(model: Network, batch: Batch) -> Terms:
        rows, x, labels, atypical = part.asked[-1], batch.x, batch.labels, batch.atypical
        assert torch.equal(labels, part.labels[rows])
        assert torch.equal(atypical, rare[rows])
        terms = goal.outer(model, batch)
        with torch.no_grad():
            wrong = model(x).argmax(1) != labels
            p = torch.softmax(model(x).double(), 1)
        rivals = p.scatter(1, labels[:, None], 0).amax(1)
        bad = (wrong & atypical) if isinstance(method, Bat | BatTrades | BatMart) else torch.zeros_like(atypical)
        seen.append((len(x), float(terms.loss.detach()), float(terms.discrimination), torch.exp(-rivals[bad])))
        return terms

    _, history = run(part, replace(goal, outer=outer), atypical=rare)
    for epoch, batches in zip(history, (seen[:2], seen[2:]), strict=True):
        assert [n for n, *_ in batches] == [13, 12]
        lowered = torch.cat([row[3] for row in batches])
        assert epoch.loss == pytest.approx(sum(n * loss for n, loss, *_ in batches) / 25, rel=1e-6)
        assert epoch.discrimination_loss == pytest.approx(sum(row[0] * row[2] for row in batches) / 25, rel=1e-6)
        assert epoch.harmful == len(lowered)
        assert epoch.harmful_weight == pytest.approx(float(lowered.mean()), rel=1e-6, nan_ok=True)
    if method is BAT:
        assert 0 < history[0].harmful <= 13
        assert 0 < history[0].harmful_weight < 1
        assert history[0].discrimination_loss > 0


def test_the_loss_of_one_natural_batch_equals_a_recomputation() -> None:
    part = samples(12)
    model = network(part)
    with torch.no_grad():
        p = torch.softmax(model(part.images()).double(), 1)[torch.arange(12), part.labels]
    _, history = run(part, NATURAL, recipe=replace(RECIPE, epochs=1, batch_size=12), model=model)
    assert history[0].loss == pytest.approx(float(-p.log().mean()), rel=1e-5)
    assert (history[0].harmful, history[0].discrimination_loss) == (0, 0)
    assert math.isnan(history[0].harmful_weight)


def test_no_sample_is_atypical_unless_told() -> None:
    _, history = run(samples(30), BAT)
    assert [epoch.harmful for epoch in history] == [0, 0]


# -- what each batch holds


def test_each_batch_holds_what_the_run_was_given() -> None:
    part, rare, difficulty = samples(25), torch.arange(25) % 2 == 0, torch.arange(25) / 25
    goal, seen = objective(NATURAL), []

    def outer(model: Network, batch: Batch) -> Terms:
        rows = part.asked[-1]
        assert torch.equal(batch.x, Part.images(part, rows))
        assert torch.equal(batch.x, batch.clean)
        assert torch.equal(batch.labels, part.labels[rows])
        assert torch.equal(batch.atypical, rare[rows])
        assert torch.equal(batch.difficulty, difficulty[rows])
        assert (batch.right.shape, batch.label_smoothing) == ((0,), 0.125)
        seen.append(batch.progress)
        return goal.outer(model, batch)

    recipe = replace(RECIPE, label_smoothing=0.125)
    run(part, replace(goal, outer=outer), recipe=recipe, atypical=rare, difficulty=difficulty)
    assert seen == [0, 0.25, 0.5, 0.75]


def test_nothing_is_difficult_unless_told() -> None:
    part, goal, seen = samples(25), objective(NATURAL), []

    def outer(model: Network, batch: Batch) -> Terms:
        seen.append((batch.difficulty.tolist(), batch.atypical.tolist()))
        return goal.outer(model, batch)

    run(part, replace(goal, outer=outer), recipe=replace(RECIPE, epochs=1, batch_size=25))
    assert seen == [([0.0] * 25, [False] * 25)]


@pytest.mark.parametrize("from_clean", [False, True])
@pytest.mark.parametrize("attack_bn", ["eval", "train"])
def test_an_attack_in_training_is_given_its_numbers(
    from_clean: bool, attack_bn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = samples(4)
    model, x, labels = network(part), part.images(), part.labels
    goal = replace(objective(PGD_AT), eps_factor=0.5, from_clean=from_clean)
    batch = batch_of(x, labels)
    given: list[Any] = []

    def attack(*arguments: Any, watch: Any, **options: Any) -> Tensor:
        assert model.training == (attack_bn == "train")
        given.append((arguments, options))
        for count in (4, 2, 1):  # so many of the four at each step
            watch(torch.eye(3)[torch.where(torch.arange(4) < count, labels, (labels + 1) % 3)])
        return x + 1

    monkeypatch.setattr(bat.training.loop, "pgd", attack)
    adversary = Adversary(threat=THREAT, attack=Pgd(steps=4, step_size=0.05), attack_bn=attack_bn)
    found = bat.training.loop._attacked(model.eval(), batch, goal, adversary, torch.Generator().manual_seed(5))
    assert not model.training
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(5))
    ((_, images, target), options) = given[0]
    assert images is x
    start, loss = options.pop("start"), options.pop("loss")
    assert loss is goal.inner
    assert options == {"norm": "linf", "eps": 0.05, "step_size": 0.025, "steps": 4}
    if from_clean:
        assert torch.equal(start, near_start(x, uniform))
        torch.testing.assert_close(target, model(x).log_softmax(1).detach(), rtol=1e-5, atol=1e-6)
        assert not target.requires_grad
    else:
        assert torch.equal(start, random_start(x, uniform, norm="linf", eps=0.05))
        assert torch.equal(target, labels)
    assert torch.equal(found.x, x + 1)
    assert found.clean is x
    assert found.right.tolist() == [0.75, 0.5, 0.25, 0.25]


def test_an_attack_without_an_inner_loss_is_refused() -> None:
    part = samples(4)
    batch = batch_of(part.images(), part.labels)
    adversary = Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval")
    with pytest.raises(ValueError, match=r"^this objective has no inner loss: there is nothing to attack$"):
        bat.training.loop._attacked(network(part), batch, objective(NATURAL), adversary, torch.Generator())


def test_what_is_seen_of_samples_is_in_the_order_of_the_training_set() -> None:
    order, labels = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1])
    logits = torch.tensor([[0.0, 1.0], [3.0, 0.0], [2.0, 0.0]])  # of samples 2, 0 and 1: of them only the last is wrong
    found = bat.training.loop._samples(order, labels, logits, torch.tensor([0.5, 0.25, 0.125]))
    assert found.wrong_probability.tolist() == pytest.approx([0, 1 / (1 + math.exp(-2)), 0])
    assert found.weight.tolist() == [0.25, 0.125, 0.5]


def test_an_epoch_sums_up_its_batches() -> None:
    seen = torch.tensor([[1.0, 8.0, 2.0, 1.5], [4.0, 2.0, 1.0, 0.75]], dtype=torch.float64)
    counts, state = torch.tensor([3, 1]), {"x": torch.zeros(1)}
    samples = EpochSamples(torch.zeros(4), torch.ones(4))
    found = bat.training.loop._epoch(7, 0.5, seen, counts, samples, lambda: state, "a run")
    assert (found.epoch, found.learning_rate, found.loss, found.discrimination_loss) == (7, 0.5, 1.75, 6.5)
    assert (found.harmful, found.harmful_weight) == (3, 0.75)
    assert found.samples is samples
    assert found.state() is state
    none = bat.training.loop._epoch(7, 0.5, seen * torch.tensor([1, 1, 0, 0]), counts, samples, lambda: state, "a run")
    assert none.harmful == 0
    assert math.isnan(none.harmful_weight)
    seen[1, 0] = -torch.inf
    with pytest.raises(BatError) as caught:
        bat.training.loop._epoch(7, 0.5, seen, counts, samples, lambda: state, "a run")
    assert str(caught.value) == (
        "a run: the loss is -inf in epoch 7, batch 2: lower the learning rate, or look for damaged images"
    )


# -- batch normalisation and modes


def statistics_at_the_outer_loss(attack_bn: str) -> tuple[Tensor, Tensor, int]:
    """Running mean before training, at the outer loss of the first batch, and passes that batch normalisation saw."""
    part = samples(30)
    model = network(part, "small_cnn")
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    goal, seen = objective(PGD_AT), []

    def outer(model: Network, batch: Batch) -> Terms:
        assert all(module.training for module in model.modules())
        seen.append(norm.running_mean.clone())
        return goal.outer(model, batch)

    before = norm.running_mean.clone()
    run(part, replace(goal, outer=outer), model=model, attack_bn=attack_bn)
    return before, seen[0], int(norm.num_batches_tracked)


def test_the_attack_moves_running_statistics_in_train_mode_alone() -> None:
    before, at_outer, passes = statistics_at_the_outer_loss("eval")
    assert torch.equal(before, at_outer)
    assert passes == 2 * 2  # epochs * batches
    before, at_outer, passes = statistics_at_the_outer_loss("train")
    assert not torch.equal(before, at_outer)
    assert passes == 2 * 2 * (1 + ATTACK.steps)


def test_training_adversarial_examples_lie_in_the_ball_and_are_made_in_the_asked_mode() -> None:
    part, modes = samples(40), []

    def inner(logits: Tensor, labels: Tensor) -> Tensor:
        modes.append(model.training)
        return -logits.gather(1, labels[:, None])[:, 0]

    def outer(model: Network, batch: Batch) -> Terms:
        x, clean = batch.x, part.images(part.asked[-1])
        assert torch.equal(batch.clean, clean)
        distance = (x - clean).abs().amax((1, 2, 3))
        assert (distance <= THREAT.eps + 1e-6).all()
        assert (distance > 0).all()
        assert ((x >= 0) & (x <= 1)).all()
        assert not x.requires_grad
        return objective(PGD_AT).outer(model, batch)

    for attack_bn in ("eval", "train"):
        model = network(part)
        run(part, Objective(inner, outer), model=model, attack_bn=attack_bn)
        assert set(modes) == {attack_bn == "train"}
        assert len(modes) == 2 * 3 * ATTACK.steps
        modes.clear()


@pytest.mark.parametrize("training", [False, True])
def test_modes_are_restored_after_each_epoch(training: bool) -> None:
    part = samples(20)
    model = network(part, "small_cnn").train(training)
    odd = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    odd.training = not training
    found = [module.training for module in model.modules()]
    adversary = Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval")
    for _ in fit(model, part, objective=objective(BAT), recipe=RECIPE, seed=0, what="x", adversary=adversary):
        assert [module.training for module in model.modules()] == found


# -- train


def data_set() -> DataSet:
    return DataSet(samples(48, 1), samples(30, 2), samples(36, 3), classes=3)


RARE = torch.arange(48) % 4 == 0


@dataclass
class Run:
    trained: Trained
    first: dict[str, Tensor]
    by_epoch: list[dict[str, Tensor]]


def trained_once(
    method: Method = PGD_AT, data: DataSet | None = None, fake: Callable[[int], dict[str, Tensor]] | None = None
) -> Run:
    """Train, keeping the weights before the first and after each epoch; ``fake`` replaces what is measured."""
    data = data_set() if data is None else data
    seen: list[dict[str, Tensor]] = []
    first: list[dict[str, Tensor]] = []

    def spy(model: Network, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        seen.append(weights(model))
        return fake(len(seen)) if fake else measure(model, *args, **kwargs)

    def spy_build(*args: Any, **kwargs: Any) -> Network:
        model = build(*args, **kwargs)
        first.append(weights(model))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bat.training.run, "measure", spy)
        patch.setattr(bat.training.run, "build", spy_build)
        result = train_run(replace(SPEC, method=method), data, chosen=RARE)
    return Run(result, first[0], seen)


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [([0.3, 0.7, 0.6, 0.7, 0.2], 2), ([0.0] * 5, 1), ([0.1, 0.2, 0.3, 0.4, 0.5], 5), ([0.9, 0.1, 0.9, 0.9, 0.0], 1)],
)
@by_method
def test_the_best_epoch_is_the_first_of_the_highest_validation_accuracy(
    method: Method, accuracies: list[float], best: int
) -> None:
    criterion = "clean" if method is NATURAL else "pgd"

    def fake(epoch: int) -> dict[str, Tensor]:
        # everything else points to another epoch
        misleading = {
            f"{split}_{metric}_correct": right(1 - accuracies[epoch - 1])
            for split in ("train", "validation", "test")
            for metric in ("clean", "pgd")
        }
        return misleading | {f"validation_{criterion}_correct": right(accuracies[epoch - 1])}

    found = trained_once(method, fake=fake)
    assert found.trained.best_epoch == best
    assert found.trained.records["best"].tolist() == [epoch == best for epoch in range(1, 6)]
    assert same(found.trained.best, found.by_epoch[best - 1])
    assert same(found.trained.last, found.by_epoch[-1])
    assert best == 5 or not same(found.trained.best, found.trained.last)


@by_method
def test_the_best_weights_measure_what_their_row_says(method: Method) -> None:
    data = data_set()
    found = train_run(replace(SPEC, method=method), data, chosen=RARE)
    assert found.records["epoch"].tolist() == [1, 2, 3, 4, 5]
    model = build(SPEC.model, data.train, classes=3, seed=99)
    for state, epoch in ((found.best, found.best_epoch), (found.last, 5)):
        model.load_state_dict(state)
        values = measure(model, data, threat=THREAT, attack=ATTACK, seed=SPEC.seed)
        row = packed({name: each.numpy() for name, each in values.items()})
        stored = found.records.set_index("epoch").loc[epoch]
        assert {name: stored[name] for name in row} == row
    names = [name for name in Epoch.__dataclass_fields__ if name not in ("samples", "state")]
    expected = [*names, "trained_samples", "wrong_probability", "weight", *row, "best"]
    assert found.records.columns.tolist() == expected
    assert {"method", "seed", *expected} == set(SCHEMAS["records"].names)


def test_test_samples_choose_nothing() -> None:
    data = data_set()
    random = torch.Generator().manual_seed(0)
    shuffled = data.test.take(torch.randperm(len(data.test), generator=random))
    corrupted = DataSet(
        data.train,
        data.validation,
        Part(shuffled.pixels, (data.test.labels + 1) % 3, data.test.index, data.test.pixel_max),
        data.classes,
    )
    found, other = (train_run(SPEC, part) for part in (data, corrupted))
    assert found.best_epoch == other.best_epoch
    assert same(found.best, other.best)
    assert same(found.last, other.last)
    kept = [name for name in found.records if not name.startswith("test_")]
    pd.testing.assert_frame_equal(found.records[kept], other.records[kept])
    assert not found.records.equals(other.records)


def test_validation_samples_choose_but_do_not_train() -> None:
    data = data_set()
    other = replace(data, validation=samples(30, 9))
    one, two = trained_once(data=data), trained_once(data=other)
    assert all(same(x, y) for x, y in zip(one.by_epoch, two.by_epoch, strict=True))


def test_no_sample_is_harmful_but_among_the_chosen() -> None:
    none, some = (train_run(replace(SPEC, method=BAT), data_set(), chosen=chosen) for chosen in (None, RARE))
    assert none.records["harmful"].sum() == 0
    assert some.records["harmful"].sum() > 0


def test_train_is_watched_epoch_by_epoch() -> None:
    data, seen = data_set(), []

    def watch(epochs: Any) -> Any:
        for epoch in epochs:
            seen.append(epoch)
            yield epoch

    found = train_run(SPEC, data, watch)
    columns = ["epoch", "learning_rate", "loss", "discrimination_loss", "harmful"]
    assert [astuple(epoch)[:5] for epoch in seen] == list(found.records[columns].itertuples(index=False, name=None))
