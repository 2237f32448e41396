"""Training without some samples, with a method's own atypical samples, and measured at some epochs alone."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import many
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, METHODS, NATURAL, PGD_AT
from runs import ATTACK, RECIPE, THREAT, history, recorded, right, same, samples, weights
from runs import SPEC as ONE_METHOD
from torch import Tensor

import bat.training.run
from bat.config import Adversary, Method
from bat.data.dataset import DataSet
from bat.models import build
from bat.report.figures.training import curves
from bat.seeds import derive_seed
from bat.training.loop import fit
from bat.training.losses import objective
from bat.training.measure import measure
from bat.training.records import packed, unpacked
from bat.training.run import Trained, train_run

torch.set_num_threads(1)

SPEC = replace(ONE_METHOD, recipe=replace(RECIPE, epochs=3))
DATA = DataSet(samples(48, 1), samples(30, 2), samples(36, 3), classes=3)
RARE = {name: torch.arange(len(part)) % 4 == 0 for name, part in DATA.parts().items()}
HARD = torch.linspace(0, 1, 48)
OUT = torch.arange(48) % 5 == 1
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


# -- removed samples


@by_method
def test_training_without_samples_is_training_on_the_others_from_the_same_weights(method: Method) -> None:
    found = train_run(replace(SPEC, method=method), DATA, chosen=RARE["train"], difficulty=HARD, removed=OUT)
    model = build(SPEC.model, DATA.train, classes=3, seed=derive_seed(SPEC.seed, "weights"))
    part, rows = DATA.train.take((~OUT).nonzero().flatten()), []
    adversary = Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval")
    goal, rare = objective(method), RARE["train"][~OUT]
    for epoch in fit(
        model,
        part,
        objective=goal,
        recipe=SPEC.recipe,
        seed=SPEC.seed,
        what="x",
        atypical=rare,
        difficulty=HARD[~OUT],
        adversary=adversary,
    ):
        values = measure(model, DATA, threat=THREAT, attack=ATTACK, seed=SPEC.seed)
        measured = packed({name: each.numpy() for name, each in values.items()})
        rows.append({"loss": epoch.loss, "harmful": epoch.harmful, "trained_samples": len(part)} | measured)
    assert same(found.last, weights(model))
    columns = list(rows[0])
    pd.testing.assert_frame_equal(found.records[columns], pd.DataFrame(rows), check_exact=True)


def test_normalisation_and_first_weights_are_those_of_the_full_set(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[dict[str, Tensor]] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        built.append(weights(model))
        return model

    monkeypatch.setattr(bat.training.run, "build", spy)
    dark = DATA.train.labels < 2  # what is left is brighter, so that its own mean would differ
    whole, part = (train_run(SPEC, DATA, removed=removed) for removed in (None, dark))
    assert same(built[0], built[1])
    for name in ("mean", "std"):
        assert torch.equal(part.last[name], whole.last[name])
    own = build(SPEC.model, DATA.train.take((~dark).nonzero().flatten()), classes=3, seed=0)
    assert not torch.equal(own.state_dict()["mean"], part.last["mean"])
    assert not same(whole.last, part.last)


def test_removing_nothing_changes_nothing() -> None:
    whole, none = (train_run(SPEC, DATA, removed=removed) for removed in (None, torch.zeros(48, dtype=torch.bool)))
    assert same(whole.last, none.last)
    pd.testing.assert_frame_equal(whole.records, none.records, check_exact=True)
    assert (whole.records["trained_samples"] == 48).all()


def test_removed_samples_are_measured_but_neither_trained_on_nor_recorded() -> None:
    other = replace(DATA, train=replace(DATA.train, pixels=DATA.train.pixels.clone()))
    other.train.pixels[OUT] = other.train.pixels[OUT].flip(0)  # the same statistics
    spec = replace(SPEC, method=BAT)
    one, two = (train_run(spec, data, chosen=RARE["train"], removed=OUT) for data in (DATA, other))
    assert same(one.last, two.last)
    assert not one.records["train_clean_loss"].equals(two.records["train_clean_loss"])
    kept = [name for name in one.records if not name.startswith("train_")]
    pd.testing.assert_frame_equal(one.records[kept], two.records[kept], check_exact=True)
    for name in ("wrong_probability", "weight"):
        values = unpacked(one.records, name, 48, "")
        assert np.array_equal(np.isnan(values), np.tile(OUT.numpy(), (3, 1)))
    expected = DATA.train.index[RARE["train"] & ~OUT].tolist()
    assert recorded(one, DATA.train, RARE["train"])["train_index"].tolist() == 3 * expected
    assert (RARE["train"] & OUT).any()


# -- a method's own atypical samples


def test_chosen_samples_are_weighted_while_those_of_the_scores_are_told_of() -> None:
    chosen, spec = torch.arange(48) % 3 == 0, replace(SPEC, method=BAT)
    found = train_run(spec, DATA, chosen=chosen, removed=OUT)
    assert not same(found.last, train_run(spec, DATA, chosen=RARE["train"], removed=OUT).last)
    # by the scores, so that all methods tell of the same samples
    table = recorded(found, DATA.train, RARE["train"])
    assert table["train_index"].tolist() == 3 * DATA.train.index[RARE["train"] & ~OUT].tolist()
    own = dict(zip(DATA.train.index.tolist(), chosen.tolist(), strict=True))
    weighted = table["train_index"].map(own) & (table["wrong_probability"] > 0)
    assert ((table["weight"] < 1) == weighted).all()
    assert weighted.any()


@pytest.mark.parametrize("method", [NATURAL, PGD_AT], ids=["natural", "pgd_at"])
def test_chosen_samples_are_nothing_to_methods_without_weights(method: Method) -> None:
    spec = replace(SPEC, method=method)
    assert same(train_run(spec, DATA, chosen=OUT).last, train_run(spec, DATA).last)


# -- measured epochs


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (5, [5])])
def test_accuracies_are_measured_at_each_so_manieth_epoch_and_the_last(every: int, measured: list[int]) -> None:
    spec = replace(SPEC, recipe=replace(RECIPE, epochs=5))
    whole, found = (train_run(replace(spec, measure_every=number), DATA) for number in (1, every))
    assert same(whole.last, found.last)  # measuring changes nothing
    assert found.best_epoch in measured
    whole, found = history(whole, RARE), history(found, RARE)
    accuracies = [name for name in whole if "_clean_" in name or "_pgd_" in name]
    assert len(accuracies) == 3 * 3 * 2 * 2
    chosen = found["epoch"].isin(measured)
    pd.testing.assert_frame_equal(found.loc[chosen, accuracies], whole.loc[chosen, accuracies])
    assert found.loc[~chosen, accuracies].isna().all(axis=None)
    others = [name for name in whole if name not in [*accuracies, "best"]]
    pd.testing.assert_frame_equal(found[others], whole[others], check_exact=True)


def faked(accuracies: list[float], *, every: int, patience: int = 0) -> Trained:
    """Train with the validation accuracies of the epochs, those that are not measured included."""
    seen = iter([value for epoch, value in enumerate(accuracies, 1) if epoch % every == 0 or epoch == len(accuracies)])
    recipe = replace(RECIPE, epochs=len(accuracies))
    spec = replace(SPEC, recipe=recipe, measure_every=every, early_stop=patience, method=NATURAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bat.training.run, "measure", lambda *_, **__: {"validation_clean_correct": right(next(seen))})
        return train_run(spec, DATA)


def test_the_best_epoch_is_the_best_of_the_measured() -> None:
    found = faked([0.9, 0.2, 0.9, 0.5, 0.9, 0.5, 0.1], every=2)
    assert found.best_epoch == 4
    assert found.records["best"].tolist() == [False] * 3 + [True] + [False] * 3
    assert faked([0.9, 0.9, 0.1], every=3).best_epoch == 3


@pytest.mark.parametrize(
    ("accuracies", "patience", "epochs", "best"),
    [
        ([0.9, 0.5, 0.9, 0.4, 0.9, 0.6], 1, 4, 2),  # at 3 there is nothing to say
        ([0.9, 0.5, 0.9, 0.4, 0.9, 0.6], 2, 4, 2),
        ([0.9, 0.5, 0.9, 0.4, 0.9, 0.6], 3, 6, 6),
        ([0.9, 0.1, 0.9, 0.2, 0.3], 1, 5, 5),
    ],
)
def test_early_stop_looks_at_measured_epochs(accuracies: list[float], patience: int, epochs: int, best: int) -> None:
    found = faked(accuracies, every=2, patience=patience)
    assert (len(found.records), found.best_epoch) == (epochs, best)


@given(
    accuracies=st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=4, max_size=8),
    every=st.integers(1, 4),
    patience=st.integers(1, 4),
)
@settings(max_examples=25)
def test_a_stopped_run_ends_with_a_measured_epoch(accuracies: list[float], every: int, patience: int) -> None:
    found = faked(accuracies, every=every, patience=patience)
    rows = found.records.set_index("epoch")["validation_clean_correct"]
    rows = rows.map(lambda bits: np.unpackbits(np.frombuffer(bits, np.uint8)).sum(), na_action="ignore").astype(float)
    assert not math.isnan(rows.iloc[-1])
    assert found.best_epoch == rows.idxmax()
    assert len(rows) == len(accuracies) or len(rows) - found.best_epoch >= patience
    assert all(epoch - rows[:epoch].idxmax() < patience for epoch in rows.dropna().index[:-1])


def test_curves_join_the_measured_epochs() -> None:
    found = train_run(replace(SPEC, recipe=replace(RECIPE, epochs=5), measure_every=2), DATA)
    rows = history(found, RARE).assign(method="pgd_at", seed=0)
    figure = curves(rows, many.runs(3), typical=27, atypical=9, attack="PGD-2", threat="L-inf 0.1")
    panels = product(("clean", "pgd"), ("test", "train"), ("typical", "atypical"))
    for axes, (metric, split, group) in zip(figure.axes, panels, strict=True):
        measured = rows[f"{split}_{group}_{metric}_accuracy"].dropna()
        line = axes.lines[0]  # the others lead to names
        assert list(line.get_xdata()) == [2, 4, 5]
        np.testing.assert_allclose(np.asarray(line.get_ydata()), 100 * measured)
