"""Options of every method: moving average of weights, label smoothing, early stop; and the record of samples."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, GAIRAT, MAIL, MAIL_TRADES, METHODS, NATURAL, PGD_AT, but
from runs import ATTACK, RECIPE, THREAT, network, recorded, right, run, same, samples, weights
from runs import SPEC as ONE_METHOD
from torch import Tensor

import bat.training.run
from bat.config import Adversary, Method, OwnMethod
from bat.data.dataset import DataSet
from bat.io.schemas import SCHEMAS
from bat.models import build
from bat.seeds import derive_seed
from bat.training.loop import Epoch, EpochSamples, fit
from bat.training.losses import objective
from bat.training.records import packed, unpacked
from bat.training.run import Progress, train_run

torch.set_num_threads(1)

PART = samples(50)
RARE = torch.arange(50) % 2 == 0
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def spied(method: Method, **options: Any) -> tuple[dict[str, Tensor], list[dict[str, Tensor]], list[Epoch]]:
    """Train; return the caller's network, what had learned before each step, and the epochs."""
    goal, seen = objective(method), []

    def outer(model: Any, batch: Any) -> Any:
        seen.append(weights(model))
        return goal.outer(model, batch)

    model, epochs = run(PART, replace(goal, outer=outer), **options)
    return weights(model), seen, epochs


# -- moving average of weights


def test_the_average_equals_a_loop_by_hand() -> None:
    decay = 0.8
    # running statistics move at the outer loss, so that they are seen once a step by a network without an attack
    recipe = replace(RECIPE, ema_decay=decay)
    found, before, _ = spied(NATURAL, recipe=recipe, name="small_cnn")
    plain, raw, _ = spied(NATURAL, recipe=RECIPE, name="small_cnn")
    assert all(same(one, other) for one, other in zip(before, raw, strict=True))  # learning is not touched
    steps = [*before[1:], plain]
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            continue
        average = steps[0][name].double()
        for step in steps[1:]:
            average = decay * average + (1 - decay) * step[name].double()
        torch.testing.assert_close(tensor.double(), average, rtol=1e-4, atol=1e-6, msg=name)
        assert name in ("mean", "std") or not torch.equal(tensor, plain[name]), name


def test_the_average_of_one_step_is_that_step() -> None:
    recipe = replace(RECIPE, epochs=1, batch_size=50)
    found, plain = (spied(PGD_AT, recipe=replace(recipe, ema_decay=decay))[0] for decay in (0.9, 0.0))
    assert same(found, plain)


@by_method
def test_averaged_training_repeats_bit_for_bit(method: Method) -> None:
    recipe = replace(RECIPE, ema_decay=0.9)
    one, other = (run(PART, method, recipe=recipe, name="small_cnn", atypical=RARE)[0] for _ in range(2))
    assert same(weights(one), weights(other))
    assert not same(weights(one), weights(run(PART, method, name="small_cnn", atypical=RARE)[0]))


def test_the_network_of_the_caller_is_the_average_after_each_epoch_in_its_own_mode() -> None:
    model = network(PART, "small_cnn").eval()
    recipe, seen = replace(RECIPE, ema_decay=0.5), []
    adversary = Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval")
    for _ in fit(model, PART, objective=objective(BAT), recipe=recipe, seed=0, what="x", adversary=adversary):
        seen.append(weights(model))
        assert not any(module.training for module in model.modules())
    short, _ = run(PART, BAT, recipe=replace(recipe, epochs=1), name="small_cnn")
    assert same(seen[0], weights(short))
    assert same(seen[1], weights(run(PART, BAT, recipe=recipe, name="small_cnn")[0]))


# -- label smoothing


@by_method
def test_label_smoothing_changes_the_loss_but_not_the_attack(method: Method) -> None:
    batches = []
    goal = objective(method)
    for smoothing in (0.0, 0.3):

        def outer(model: Any, batch: Any) -> Any:
            terms = goal.outer(model, batch)
            batches.append((batch.x, float(terms.loss.detach())))
            return terms

        recipe = replace(RECIPE, epochs=1, batch_size=50, label_smoothing=smoothing)
        run(PART, replace(goal, outer=outer), recipe=recipe)
    (plain, loss), (smoothed, other) = batches
    assert torch.equal(plain, smoothed)
    assert other != loss


# -- early stop


SPEC = replace(ONE_METHOD, recipe=replace(RECIPE, epochs=8, ema_decay=0.5), method=BAT)
DATA = DataSet(samples(48, 1), samples(30, 2), samples(36, 3), classes=3)
FEW = torch.arange(48) % 4 == 0


def stopped_after(accuracies: list[float], patience: int) -> tuple[int, int]:
    """Return the number of epochs trained and the best epoch."""
    values = iter(accuracies)
    spec = replace(SPEC, recipe=replace(RECIPE, epochs=len(accuracies)), early_stop=patience, method=NATURAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bat.training.run, "measure", lambda *_, **__: {"validation_clean_correct": right(next(values))})
        trained = train_run(spec, DATA)
    return len(trained.records), trained.best_epoch


@pytest.mark.parametrize(
    ("accuracies", "patience", "expected"),
    [
        ([0.5, 0.4, 0.4, 0.4, 0.9], 3, (4, 1)),
        ([0.5, 0.4, 0.4, 0.4, 0.9], 4, (5, 5)),
        ([0.5, 0.5, 0.5], 1, (2, 1)),  # as good is not better
        ([0.1, 0.2, 0.3], 1, (3, 3)),
        ([0.5, 0.1, 0.1, 0.1], 0, (4, 1)),
    ],
)
def test_training_stops_after_so_many_epochs_without_a_better_one(
    accuracies: list[float], patience: int, expected: tuple[int, int]
) -> None:
    assert stopped_after(accuracies, patience) == expected


@given(accuracies=st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=4, max_size=7), patience=st.integers(1, 4))
@settings(max_examples=25)
def test_early_stop_equals_a_loop_by_hand(accuracies: list[float], patience: int) -> None:
    epochs = next(
        (n for n in range(1, len(accuracies)) if max(accuracies[:n]) in accuracies[: max(n - patience, 0)]),
        len(accuracies),
    )
    best = accuracies.index(max(accuracies[:epochs])) + 1
    assert stopped_after(accuracies, patience) == (epochs, best)


def test_a_stopped_run_is_the_start_of_the_whole_one() -> None:
    whole = train_run(SPEC, DATA, chosen=FEW)
    part = train_run(replace(SPEC, early_stop=1), DATA, chosen=FEW)
    epochs = len(part.records)
    assert 1 < epochs < 8
    pd.testing.assert_frame_equal(
        part.records.drop(columns="best"), whole.records.iloc[:epochs].drop(columns="best"), check_exact=True
    )
    assert part.best_epoch == epochs - 1


def test_the_average_is_what_is_measured_chosen_and_saved() -> None:
    spec = replace(SPEC, recipe=replace(SPEC.recipe, epochs=3))
    trained, plain = (
        train_run(replace(spec, recipe=replace(spec.recipe, ema_decay=decay)), DATA, chosen=FEW) for decay in (0.5, 0)
    )
    assert not same(trained.last, plain.last)
    model = build(SPEC.model, DATA.train, classes=3, seed=99)
    model.load_state_dict(trained.last)
    values = bat.training.run.measure(model, DATA, threat=THREAT, attack=ATTACK, seed=SPEC.seed)
    row = packed({name: each.numpy() for name, each in values.items()})
    assert {name: trained.records.iloc[-1][name] for name in row} == row


# -- record of samples


@by_method
def test_each_sample_is_recorded_as_it_was_trained_on(method: Method) -> None:
    goal, seen = objective(method), []

    def outer(model: Any, batch: Any) -> Any:
        terms = goal.outer(model, batch)
        rows = PART.asked[-1]
        for row, logits, label, weight in zip(rows, terms.logits, batch.labels, terms.weight, strict=True):
            p = logits.double().softmax(0)
            wrong = int(logits.argmax()) != int(label)
            seen.append((int(row), float(p.amax()) if wrong else 0.0, float(weight)))
        return terms

    _, epochs = run(PART, replace(goal, outer=outer), atypical=RARE)
    for epoch, part in zip(epochs, (seen[:50], seen[50:]), strict=True):
        rows, wrong, weight = zip(*sorted(part), strict=True)
        assert rows == tuple(range(50))
        np.testing.assert_allclose(epoch.samples.wrong_probability, wrong, rtol=1e-5)
        np.testing.assert_allclose(epoch.samples.weight, weight, rtol=1e-6)
        harmful = epoch.samples.wrong_probability[RARE] > 0
        if hasattr(method, "reweighting"):
            assert epoch.harmful == int(harmful.sum()) > 0
            expected = torch.exp(-epoch.samples.wrong_probability[RARE])
            torch.testing.assert_close(epoch.samples.weight[RARE], expected)
            assert (epoch.samples.weight[~RARE] == 1).all()
        elif method not in (GAIRAT, MAIL, MAIL_TRADES):
            assert (epoch.samples.weight == 1).all()
    assert not epochs[0].samples.weight.requires_grad
    if method in (GAIRAT, MAIL, MAIL_TRADES):
        assert (epochs[0].samples.weight == 1).all()  # within the burn-in
        assert not (epochs[1].samples.weight == 1).all()
        assert float(epochs[1].samples.weight.mean()) == pytest.approx(1, rel=1e-5)


def test_the_table_of_samples_has_the_atypical_training_samples_of_each_epoch() -> None:
    spec = replace(SPEC, recipe=replace(RECIPE, epochs=3), method=but(BAT, alpha="inf"))
    trained = train_run(spec, DATA, chosen=FEW)
    table = recorded(trained, DATA.train, FEW)
    assert table["epoch"].tolist() == [epoch for epoch in (1, 2, 3) for _ in range(int(FEW.sum()))]
    assert table["train_index"].tolist() == 3 * DATA.train.index[FEW].tolist()
    assert table["label"].tolist() == 3 * DATA.train.labels[FEW].tolist()
    assert (table["memorization"] == table["train_index"] / 7).all()
    wrong = table["wrong_probability"] > 0
    assert (table["weight"] == (~wrong).astype(float)).all()
    by_epoch = table.assign(wrong=wrong).groupby("epoch")["wrong"].sum()
    assert by_epoch.tolist() == trained.records["harmful"].tolist()


def test_without_atypical_samples_the_table_is_empty_with_its_columns() -> None:
    trained = train_run(replace(SPEC, recipe=replace(RECIPE, epochs=2)), DATA)
    table = recorded(trained, DATA.train, torch.zeros_like(FEW))
    assert table.empty
    assert set(table) == set(SCHEMAS["training_samples"].names)
    assert trained.records["harmful_weight"].map(math.isnan).all()


# -- what a run gives the loop, and what it makes of each epoch


class Loop:
    """Stands for ``fit`` and ``measure``: epochs that set the head's bias to their number, and accuracies as given."""

    def __init__(self, patched: pytest.MonkeyPatch, accuracies: list[float], criterion: str = "pgd") -> None:
        self.accuracies, self.criterion = iter(accuracies), criterion
        self.given: dict[str, Any] = {}
        self.measured: list[tuple[float, Any, dict[str, Any]]] = []
        patched.setattr(bat.training.run, "fit", self.fit)
        patched.setattr(bat.training.run, "measure", self.measure)

    def fit(self, model: Any, part: Any, **given: Any) -> Any:
        self.given = given | {"weights": weights(model), "index": part.index.tolist()}
        for epoch in range(given["first"], given["recipe"].epochs + 1):
            model.head.bias.data.fill_(epoch)
            weight = torch.full((len(part),), epoch / 4, dtype=torch.float64)
            seen = EpochSamples(torch.full((len(part),), epoch / 8), weight)
            state = {"s": torch.tensor(epoch)}
            yield Epoch(epoch, 0.1 * epoch, 2.0, 3.0, epoch, 0.5, seen, lambda state=state: state)

    def measure(self, model: Any, data: Any, **given: Any) -> dict[str, Tensor]:
        self.measured.append((model.head.bias[0].item(), data, given))
        accuracy = next(self.accuracies)
        # the other says the opposite
        other = {"pgd": "clean", "clean": "pgd"}[self.criterion]
        found = {f"validation_{other}_correct": 1 - accuracy, f"validation_{self.criterion}_correct": accuracy}
        return {name: right(value) for name, value in found.items()}


PLAIN = replace(SPEC, recipe=replace(RECIPE, epochs=3))


@pytest.mark.parametrize(("method", "criterion"), [(PGD_AT, "pgd"), (NATURAL, "clean")])
def test_a_run_gives_the_loop_what_its_spec_says(
    method: Method, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, kept = Loop(monkeypatch, [0.2, 0.9, 0.3], criterion), list[Progress]()
    spec = replace(PLAIN, method=method)
    trained = train_run(spec, DATA, keep=kept.append)
    given = loop.given
    expected = build(spec.model, DATA.train, classes=3, seed=derive_seed(4, "weights"))
    assert same(given.pop("weights"), expected.state_dict())
    assert given.pop("index") == DATA.train.index.tolist()
    goal = given.pop("objective")
    assert (goal.inner is None) == (method is NATURAL)
    assert given == {
        "recipe": spec.recipe,
        "seed": 4,
        "what": f"method {method.name}, seed 4",
        "atypical": None,
        "difficulty": None,
        "adversary": Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval"),
        "compute": spec.compute,
        "first": 1,
        "state": None,
    }
    assert loop.measured == [(n, DATA, {"threat": THREAT, "attack": ATTACK, "seed": 4}) for n in (1, 2, 3)]
    assert (trained.best_epoch, trained.records["best"].tolist()) == (2, [False, True, False])
    assert (trained.best["head.bias"] == 2).all()
    assert (trained.last["head.bias"] == 3).all()
    row = trained.records.iloc[1]
    bits = {
        f"validation_{name}_correct": right(value).numpy()
        for name, value in ((criterion, 0.9), ("clean" if criterion == "pgd" else "pgd", 0.1))
    }
    values = {"wrong_probability": np.full(48, 0.25, np.float32), "weight": np.full(48, 0.5, np.float32)}
    numbers = {"epoch": 2, "learning_rate": 0.2, "loss": 2.0, "discrimination_loss": 3.0, "harmful": 2}
    assert row.to_dict() == numbers | {"harmful_weight": 0.5, "trained_samples": 48, "best": True} | packed(
        values | bits
    )
    assert [(each.epoch, each.state["s"], len(each.rows)) for each in kept] == [(n, n, n) for n in (1, 2, 3)]
    assert [(each.best_epoch, each.best_right, float(each.best["head.bias"][0])) for each in kept] == [
        (1, 2, 1),
        (2, 9, 2),
        (2, 9, 2),
    ]


def test_samples_that_are_left_out_are_measured_and_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.5])
    removed, difficulty = torch.arange(48) % 3 == 0, torch.arange(48) / 48
    spec = replace(PLAIN, recipe=replace(RECIPE, epochs=1))
    trained = train_run(spec, DATA, chosen=FEW, difficulty=difficulty, removed=removed)
    assert loop.given["index"] == DATA.train.index[~removed].tolist()
    assert torch.equal(loop.given["atypical"], FEW[~removed])
    assert torch.equal(loop.given["difficulty"], difficulty[~removed])
    assert trained.records["trained_samples"].tolist() == [32]
    for name, value in (("wrong_probability", 0.125), ("weight", 0.25)):
        stored = unpacked(trained.records, name, 48, "")[0]
        assert np.isnan(stored).tolist() == removed.tolist()
        assert (stored[~removed.numpy()] == value).all()


def test_some_epochs_are_measured_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, kept = Loop(monkeypatch, [0.5, 0.4, 0.6]), list[Progress]()
    trained = train_run(replace(PLAIN, measure_every=2, recipe=replace(RECIPE, epochs=5)), DATA, keep=kept.append)
    assert [(each.best_epoch, each.best_right) for each in kept] == [(0, -1), (2, 5), (2, 5), (2, 5), (5, 6)]
    assert kept[0].best == {}
    assert [number for number, *_ in loop.measured] == [2, 4, 5]
    assert trained.best_epoch == 5
    assert trained.records["validation_pgd_correct"].isna().tolist() == [True, False, True, False, False]


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 4), (2, 4), (3, 6)])
def test_a_run_stops_where_epochs_are_measured(patience: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    Loop(monkeypatch, [0.5, 0.4, 0.4])
    spec = replace(PLAIN, measure_every=2, early_stop=patience, recipe=replace(RECIPE, epochs=6))
    trained = train_run(spec, DATA)
    assert (len(trained.records), trained.best_epoch) == (epochs, 2)


def test_a_run_goes_on_where_another_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.4])
    before = Progress(2, {"s": torch.tensor(2)}, [{"epoch": 1}, {"epoch": 2}], 1, 5, {"head.bias": torch.tensor(1)})
    trained = train_run(PLAIN, DATA, progress=before)
    assert (loop.given["first"], loop.given["state"]) == (3, before.state)
    assert trained.records["epoch"].tolist() == [1, 2, 3]
    assert (trained.best_epoch, trained.best) == (1, before.best)
    assert len(before.rows) == 2


def test_an_error_names_the_function_of_an_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.4] * 3)
    monkeypatch.setattr(bat.training.run, "objective", lambda method: objective(PGD_AT))
    train_run(replace(PLAIN, method=OwnMethod(name="own", objective="users:method", code="0")), DATA)
    assert loop.given["what"] == "method own (users:method), seed 4"


def test_weights_that_are_kept_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(monkeypatch, [0.9, 0.1, 0.1])
    trained = train_run(PLAIN, DATA, lambda epochs: list(epochs))
    assert trained.best_epoch == 1
    assert len(loop.measured) == 3
    assert not any(tensor.requires_grad for tensor in trained.last.values())
