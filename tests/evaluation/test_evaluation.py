"""Evaluation against a model of one pixel, whose robustness is known, and tables against loops."""

import itertools
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal
from scipy.stats import binomtest
from torch import Tensor, nn

import bat.attacks.ensemble
import bat.training.measure
from bat.attacks.ensemble import STANDARD, check_allowed, run_attack
from bat.config import ApgdCe, Attack, EvaluationPgd, Pgd, Threat
from bat.data.dataset import DataSet, Part
from bat.evaluation.summary import METRICS, accuracies_by_seed, groups_of, summary_table
from bat.evaluation.under_attack import BATCH_FORMAT, attack_samples, sample_table
from bat.models import attackable
from bat.seeds import derive_seed
from bat.statistics import bootstrap_interval
from bat.training.measure import clean_logits, judged, judged_under_attack, measure

torch.set_num_threads(1)

EPS = 0.1
THREAT = Threat(norm="linf", eps=EPS)
STRONG = EvaluationPgd(name="pgd", steps=10, step_size=0.05, restarts=1)
WEAK = EvaluationPgd(name="pgd", steps=1, step_size=1e-4, restarts=1)  # little more than its random start
APGD = ApgdCe(name="apgd_ce", steps=10, restarts=1, rho=0.75)


class Threshold(nn.Module):
    """Images of one pixel v: class 1 from v = 0.5 on, with the logits (0, slope (v - 0.5))."""

    def __init__(self, slope: float = 10.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.odd = nn.Dropout(0.5)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.sizes.append(len(x))
        height = self.odd(self.slope * (x.double().flatten(1)[:, :1] - 0.5))
        return torch.cat([torch.zeros_like(height), height], 1)


def pixels(values: list[int], labels: list[int], first: int = 0) -> Part:
    """Samples of one pixel in percent."""
    levels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Part(levels, torch.tensor(labels), torch.arange(len(values)) + first, pixel_max=100)


def ladder(first: int = 0) -> Part:
    """All pixels from 1 to 99 percent (without the edges of the ball), labelled right, and every seventh wrong."""
    values = [v for v in range(1, 100) if v not in (40, 50, 60)]
    labels = [int(v > 50) ^ (v % 7 == 0) for v in values]
    return pixels(values, labels, first)


def margin(part: Part) -> np.ndarray:
    """How far each pixel lies on the right side of 0.5."""
    value = part.pixels.flatten().numpy() / 100
    return np.where(part.labels.numpy() == 1, value - 0.5, 0.5 - value)


def table(
    part: Part,
    *,
    model: nn.Module | None = None,
    threat: Threat = THREAT,
    pgd_attack: EvaluationPgd = STRONG,
    ensemble: tuple[Attack, ...] = (APGD,),
    seed: int = 0,
    batch_size: int = 1000,
) -> pd.DataFrame:
    model = model or Threshold().eval()
    options: dict[str, Any] = {"threat": threat, "pgd_attack": pgd_attack, "ensemble": ensemble, "seed": seed}
    batches = [attack_samples(model, part, rows, **options) for rows in torch.arange(len(part)).split(batch_size)]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return sample_table(part, joined, ensemble)


# -- evaluate


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_evaluate_knows_the_answers_of_the_one_pixel_model(norm: str) -> None:
    part = ladder(first=500)
    found = table(part, threat=Threat(norm=norm, eps=EPS))  # type: ignore[arg-type]
    clean, robust = margin(part) > 0, margin(part) > EPS
    assert 0 < robust.sum() < clean.sum() < len(part)
    assert found.columns.tolist() == [
        "test_index",
        "label",
        "predicted",
        "clean_correct",
        "pgd_correct",
        "apgd_ce_correct",
        "apgd_t_correct",
        "fab_t_correct",
        "square_correct",
        "robust_correct",
        "broken_by",
        "margin",
    ]
    np.testing.assert_array_equal(found["test_index"], np.arange(500, 500 + len(part)))
    np.testing.assert_array_equal(found["label"], part.labels)
    np.testing.assert_array_equal(found["predicted"], part.pixels.flatten().numpy() > 50)
    np.testing.assert_array_equal(found["clean_correct"], clean)
    np.testing.assert_array_equal(found["pgd_correct"], robust)
    np.testing.assert_array_equal(found["robust_correct"], robust)
    np.testing.assert_array_equal(found["apgd_ce_correct"], robust)
    assert found[["apgd_t_correct", "fab_t_correct", "square_correct"]].isna().all(axis=None)
    np.testing.assert_array_equal(found["margin"] > 0, robust)
    assert {str(found[f"{attack.name}_correct"].dtype) for attack in STANDARD} == {"boolean"}
    assert found["broken_by"].dtype == pd.StringDtype()
    # broken by the attack where right before, and missing where wrong already or never broken
    assert (found["broken_by"][clean & ~robust] == "apgd_ce").all()
    assert found["broken_by"][~clean | robust].isna().all()


def test_broken_by_names_the_first_attack_that_broke_a_sample() -> None:
    part = ladder()
    weak, strong = (table(part, ensemble=(attack,))["robust_correct"] for attack in (WEAK, APGD))
    both = table(part, ensemble=(WEAK, APGD))
    clean = both["clean_correct"]
    by_weak, by_strong = clean & ~weak, clean & weak & ~strong
    assert by_weak.any()
    assert by_strong.any()
    assert (both["broken_by"][by_weak] == "pgd").all()
    assert (both["broken_by"][by_strong] == "apgd_ce").all()
    assert both["broken_by"][~by_weak & ~by_strong].isna().all()
    pd.testing.assert_series_equal(both["robust_correct"], weak & strong)


def test_each_attack_runs_on_the_samples_that_still_stand() -> None:
    part = ladder()
    sizes: dict[str, list[int]] = {"pgd": [], "apgd": []}

    def spy(name: str) -> Any:
        attack = getattr(bat.attacks.ensemble, name)

        def wrapped(model: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            sizes[name].append(len(x))
            return attack(model, x, *args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in sizes:
            patch.setattr(bat.attacks.ensemble, name, spy(name))
        found = table(part, ensemble=(replace(WEAK, restarts=2), APGD))
    clean, by_pgd = int(found["clean_correct"].sum()), int((found["broken_by"] == "pgd").sum())
    # the PGD accuracy's attack, then the ensemble's two restarts
    assert sizes["pgd"][:2] == [clean, clean]
    assert clean > sizes["pgd"][2] >= clean - by_pgd
    assert sizes["apgd"] == [clean - by_pgd]


def test_no_attack_runs_where_nothing_is_right() -> None:
    part = pixels([10, 90], [1, 0])
    model = Threshold().eval()
    found = table(part, model=model, ensemble=(WEAK, APGD))
    assert model.sizes == [2]
    assert not found[["clean_correct", "pgd_correct", "robust_correct"]].to_numpy().any()
    assert found["broken_by"].isna().all()


ATTACKS = st.sampled_from([WEAK, STRONG, APGD, replace(WEAK, restarts=3)])


@given(
    values=st.lists(st.integers(0, 100), min_size=1, max_size=20),
    seed=st.integers(0, 2**63 - 1),
    ensemble=st.lists(ATTACKS, min_size=1, max_size=3),
    norm=st.sampled_from(["linf", "l2"]),
)
@settings(max_examples=40)
def test_columns_agree_with_each_other(values: list[int], seed: int, ensemble: list[Attack], norm: Any) -> None:
    labels = [(value + seed) % 2 for value in values]
    found = table(pixels(values, labels), ensemble=tuple(ensemble), seed=seed, threat=Threat(norm=norm, eps=EPS))
    clean, robust = found["clean_correct"], found["robust_correct"]
    assert (clean == (found["predicted"] == found["label"])).all()
    assert (clean | ~robust).all()
    assert (clean | ~found["pgd_correct"]).all()
    assert (found["broken_by"].notna() == (clean & ~robust)).all()
    assert set(found["broken_by"].dropna()) <= {attack.name for attack in ensemble}
    # nothing can break what lies farther from 0.5 than the ball reaches
    far = margin(pixels(values, labels)) > EPS + 1e-6
    assert robust[far].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_do_not_depend_on_batches_and_order(norm: str) -> None:
    part = ladder()
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {
        "threat": Threat(norm=norm, eps=EPS),  # type: ignore[arg-type]
        "pgd_attack": WEAK,
        "ensemble": (WEAK, replace(APGD, steps=2)),
    }
    expected = table(part, batch_size=500, **options)
    if norm == "linf":  # in one dimension all starts of l2 lie at the edge
        assert 0 < (expected["broken_by"] == "pgd").sum() < expected["broken_by"].notna().sum()
    for batch_size in (1, 7):
        pd.testing.assert_frame_equal(table(part, batch_size=batch_size, **options), expected)
    shuffled = table(part.take(order), batch_size=7, **options)
    pd.testing.assert_frame_equal(shuffled.sort_values("test_index", ignore_index=True), expected)


def test_the_seed_changes_random_starts() -> None:
    options: dict[str, Any] = {"pgd_attack": WEAK, "ensemble": (WEAK,)}
    assert not table(ladder(), seed=0, **options).equals(table(ladder(), seed=1, **options))


# -- run


def standing(attack: Attack, seed: int = 0) -> np.ndarray:
    part = ladder()
    with attackable(model := Threshold()):
        x = part.images()
        outcome = run_attack(attack, model, x, model(x), part.labels, part.index, threat=THREAT, seed=seed)
    return outcome.stands.numpy()


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=20)
def test_restarts_break_more_and_more(seed: int) -> None:
    by_restarts = [standing(replace(WEAK, restarts=restarts), seed) for restarts in (1, 2, 3, 8)]
    for fewer, more in itertools.pairwise(by_restarts):
        assert (fewer | ~more).all()
    assert by_restarts[-1].sum() < by_restarts[0].sum()


def test_an_attack_that_leaves_the_ball_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bat.attacks.ensemble, "pgd", lambda model, x, labels, **_: x + 2 * EPS)
    with pytest.raises(ValueError, match="left the linf ball"):
        standing(WEAK)


def at(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("norm", "x", "x_adv", "message"),
    [
        ("linf", at(0.5, 0.5), at(0.5, 0.6001), "left the linf ball"),
        ("linf", at(0.5, 0.5), at(0.3999, 0.5), "left the linf ball"),
        ("l2", at(0.5, 0.5), at(0.572, 0.572), "left the l2 ball"),
        ("linf", at(0.95, 0.5), at(1.0001, 0.5), r"^an attack left \[0, 1\]$"),
        ("l2", at(0.01, 0.5), at(-0.0001, 0.5), r"^an attack left \[0, 1\]$"),
        ("linf", at(0.5, 0.5), at(float("nan"), 0.5), "left"),
        ("l2", at(0.5, 0.5), at(float("nan"), 0.5), "left"),
        ("linf", at(0.5, 0.5), at(float("inf"), 0.5), "left"),
        ("linf", at(0.5, 0.5), at(0.6, 0.4), None),
        ("l2", at(0.5, 0.5), at(0.57, 0.57), None),
        ("linf", at(0.05, 0.95), at(0.0, 1.0), None),
    ],
)
def test_check_allowed_refuses_what_no_adversary_may_do(norm: Any, x: Tensor, x_adv: Tensor, message: str) -> None:
    threat = Threat(norm=norm, eps=EPS)
    batch, batch_adv = torch.cat([x, x, x]), torch.cat([x, x_adv, x])  # one of several samples is enough
    if message is None:
        check_allowed(batch_adv, batch, threat)
    else:
        with pytest.raises(ValueError, match=message):
            check_allowed(batch_adv, batch, threat)


# -- attackable, correct


@pytest.mark.parametrize("fails", [False, True])
def test_attackable_restores_modes_and_gradients(fails: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    try:
        with attackable(model):
            assert not any(module.training for module in model.modules())
            assert not any(parameter.requires_grad for parameter in model.parameters())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == gradients


def test_evaluate_leaves_the_model_as_found() -> None:
    model = Threshold().train()
    table(ladder(), model=model)
    assert model.training
    assert model.odd.training
    assert model.slope.requires_grad
    assert model.slope.grad is None


def test_correct_equals_a_loop_and_leaves_the_model_as_found() -> None:
    values = [v % 101 for v in range(1200)]  # more than a forward pass takes
    part = pixels(values, [v % 2 for v in range(1200)])
    model = Threshold().train()
    found = judged(model, part).correct.numpy()
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [(v > 50) == (i % 2 == 1) for i, v in enumerate(values)])
    assert model.training
    assert model.slope.requires_grad


# -- measure


def softplus(value: float) -> float:
    return float(np.logaddexp(0, value))


def brute_force(part: Part, slope: float) -> list[tuple[float, bool, float, float, bool]]:
    """Of each sample the clean loss, whether it is right, EL2N, the PGD loss, and whether it is right under PGD."""
    rows = []
    for v, label in zip(part.pixels.flatten().tolist(), part.labels.tolist(), strict=True):
        sign = 1 if label else -1
        worst = min(max(v / 100 - sign * EPS, 0), 1)
        losses = [softplus(-sign * slope * (value - 0.5)) for value in (v / 100, worst)]
        right = [sign * (value - 0.5) > 0 for value in (v / 100, worst)]
        # of two classes both probabilities are wrong by as much
        rows.append((losses[0], right[0], 2**0.5 * (1 - np.exp(-losses[0])), losses[1], right[0] and right[1]))
    return rows


def test_measure_equals_a_loop_over_samples() -> None:
    data = DataSet(ladder(), ladder(1000), pixels([20, 45, 80], [0, 0, 0]), classes=2)
    model = Threshold(slope=3.0).train()
    found = measure(model, data, threat=THREAT, attack=Pgd(steps=10, step_size=0.05), seed=0)
    metrics = ("clean_loss", "clean_correct", "clean_error", "pgd_loss", "pgd_correct")
    assert list(found) == [
        f"{split}_{metric}"
        for split in data.parts()
        for metric in metrics
        if metric != "clean_error" or split == "train"
    ]
    for split, part in data.parts().items():
        for metric, values in zip(metrics, zip(*brute_force(part, 3.0), strict=True), strict=True):
            if f"{split}_{metric}" not in found:
                continue
            assert found[f"{split}_{metric}"].tolist() == pytest.approx(list(values), rel=1e-6)
            assert (found[f"{split}_{metric}"].dtype == torch.bool) == metric.endswith("correct")
    assert 0 < found["train_pgd_correct"].sum() < found["train_clean_correct"].sum() < len(data.train)
    assert model.training
    assert model.slope.requires_grad
    assert model.slope.grad is None


@pytest.mark.parametrize("attack", [Pgd(steps=10, step_size=0.05), Pgd(steps=1, step_size=1e-4)])
def test_what_is_right_under_attack_is_what_measure_finds(attack: Pgd) -> None:
    part = pixels([v % 101 for v in range(600)], [int(v % 101 > 50) for v in range(600)])  # more than a forward pass
    model = Threshold(slope=3.0).train()
    clean, robust = (said.correct for said in judged_under_attack(model, part, threat=THREAT, attack=attack, seed=5))
    assert model.training
    found = measure(model, DataSet(part, ladder(), ladder(), classes=2), threat=THREAT, attack=attack, seed=5)
    assert clean.tolist() == found["train_clean_correct"].tolist()
    assert robust.tolist() == found["train_pgd_correct"].tolist()
    assert 0 < robust.sum() < clean.sum() == 600
    # where the start alone decides, another seed finds others
    other = judged_under_attack(model, part, threat=THREAT, attack=attack, seed=6)[1].correct
    assert (other == robust).all() == (attack.steps > 1)


def test_starts_are_drawn_by_the_seed_of_the_history_and_the_indices_of_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part, asked = pixels([1, 2], [0, 1], first=70), []

    def drawn(seed: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        asked.append((seed, index.tolist(), shape))
        return torch.zeros(len(index), *shape)

    monkeypatch.setattr(bat.training.measure, "uniform", drawn)
    options: dict[str, Any] = {"threat": THREAT, "attack": Pgd(steps=1, step_size=0.1), "seed": 5}
    measure(Threshold(), DataSet(part, part, part, classes=2), **options)
    judged_under_attack(Threshold(), part, **options)
    assert asked == 4 * [(derive_seed(5, "history"), [70, 71], (1, 1, 1))]


class Spoilt(Threshold):
    """Infinite for two of the images, NaN for another."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        logits[(x.flatten() * 100).round() == 2] = torch.inf
        logits[(x.flatten() * 100).round() == 7] = torch.nan
        return logits


def test_outputs_that_are_not_finite_are_counted() -> None:
    part = pixels([2, 7, 2, 80, 20], [0, 0, 0, 1, 0])
    message = (
        "the model's outputs for 3 of 5 unperturbed images are NaN or infinite: "
        "look for overflow in the model or damaged weights, or train with a lower learning rate"
    )
    weak = Pgd(steps=1, step_size=1e-4)
    assert refusal(judged, Spoilt(), part) == message
    assert refusal(clean_logits, Spoilt(), part, 5) == message
    assert refusal(lambda: judged_under_attack(Spoilt(), part, threat=THREAT, attack=weak, seed=0)) == message


def test_clean_logits_are_those_of_batches_of_the_asked_size() -> None:
    model = Threshold().train()
    logits = clean_logits(model, ladder(), 40)
    assert model.sizes == [40, 40, 16]
    assert torch.equal(logits, model.eval()(ladder().images()))
    assert not logits.requires_grad


def test_a_sample_that_is_wrong_when_clean_is_not_right_under_attack() -> None:
    # half of the random starts, and the weak attack from them, end on the right side
    part = pixels([49] * 40, [1] * 40)
    data = DataSet(part, part, part, classes=2)
    found = measure(Threshold().eval(), data, threat=THREAT, attack=Pgd(steps=1, step_size=1e-4), seed=0)
    assert not found["train_clean_correct"].any()
    assert not found["train_pgd_correct"].any()
    assert not torch.equal(found["train_pgd_loss"], found["train_clean_loss"])
    assert not table(part, pgd_attack=WEAK, ensemble=(WEAK,))[["pgd_correct", "robust_correct"]].to_numpy().any()


def test_measure_does_not_depend_on_order() -> None:
    part = ladder()
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
    found = []
    for rows in (torch.arange(len(part)), order):
        data = DataSet(part.take(rows), part.take(rows), part.take(rows), classes=2)
        found.append(measure(Threshold().eval(), data, threat=THREAT, attack=Pgd(steps=1, step_size=1e-4), seed=3))
    assert all(torch.equal(values[order], found[1][name]) for name, values in found[0].items())


# -- tables


@pytest.mark.parametrize(
    ("atypical", "names"),
    [
        ([True, False, True], ["all", "typical", "atypical"]),
        ([True, True], ["all", "atypical"]),
        ([False], ["all", "typical"]),
        ([], []),
    ],
)
def test_groups_are_those_with_samples(atypical: list[bool], names: list[str]) -> None:
    groups = groups_of(pd.Series(atypical, index=range(7, 7 + len(atypical)), dtype=bool))
    assert list(groups) == names
    expected = {"all": [True] * len(atypical), "typical": [not one for one in atypical], "atypical": atypical}
    for name in names:
        assert groups[name].tolist() == expected[name]
        assert groups[name].index.tolist() == list(range(7, 7 + len(atypical)))


@st.composite
def results(draw: st.DrawFn) -> pd.DataFrame:
    """Draw per-sample results of some methods, seeds and checkpoints on one test set, in any order of rows."""
    samples = draw(st.integers(1, 6))
    seeds = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    methods = draw(st.lists(st.sampled_from(["pgd_at", "bat", "natural"]), min_size=1, max_size=2, unique=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    atypical = random.random(samples) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    rows = [
        {"method": method, "seed": seed, "checkpoint": checkpoint, "test_index": 10 * j, "atypical": atypical[j]}
        | {column: bool(random.random() < 0.6) for column in METRICS.values()}
        for method in methods
        for seed in seeds
        for checkpoint in ("best", "last")
        for j in range(samples)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=draw(st.integers(0, 99)), ignore_index=True)


def chosen_rows(samples: pd.DataFrame, group: str, **keys: Any) -> list[dict[str, Any]]:
    return [
        row
        for row in samples.to_dict("records")
        if all(row[name] == value for name, value in keys.items())
        and (group == "all" or row["atypical"] == (group == "atypical"))
    ]


def expected_cells(samples: pd.DataFrame, keys: list[str]) -> set[tuple[Any, ...]]:
    """Keys, group and metric of each row that a table must have: groups without samples have none."""
    cells = set()
    for row in samples.to_dict("records"):
        for group in ("all", "atypical" if row["atypical"] else "typical"):
            cells |= {(*(row[key] for key in keys), group, metric) for metric in METRICS}
    return cells


@given(samples=results(), confidence=st.sampled_from([0.5, 0.9, 0.95]))
@settings(max_examples=25)
def test_accuracies_by_seed_equal_a_loop(samples: pd.DataFrame, confidence: float) -> None:
    keys = ["method", "seed", "checkpoint"]
    found = accuracies_by_seed(samples, confidence=confidence)
    cells = list(found[[*keys, "group", "metric"]].itertuples(index=False, name=None))
    assert len(cells) == len(set(cells))
    assert set(cells) == expected_cells(samples, keys)
    for row in found.to_dict("records"):
        chosen = chosen_rows(samples, row["group"], **{key: row[key] for key in keys})
        right = sum(one[METRICS[row["metric"]]] for one in chosen)
        interval = binomtest(right, len(chosen)).proportion_ci(confidence, method="wilson")
        assert (row["samples"], row["correct"]) == (len(chosen), right)
        assert row["accuracy"] == pytest.approx(right / len(chosen))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)


@given(samples=results(), confidence=st.sampled_from([0.5, 0.95]), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_summary_equals_a_loop(samples: pd.DataFrame, confidence: float, seed: int) -> None:
    keys = ["method", "checkpoint"]
    found = summary_table(samples, confidence=confidence, bootstrap=100, seed=seed)
    cells = list(found[[*keys, "group", "metric"]].itertuples(index=False, name=None))
    assert len(cells) == len(set(cells))
    assert set(cells) == expected_cells(samples, keys)
    for row in found.to_dict("records"):
        chosen = chosen_rows(samples, row["group"], **{key: row[key] for key in keys})
        by_seed: dict[int, dict[int, bool]] = {}
        for one in chosen:
            by_seed.setdefault(one["seed"], {})[one["test_index"]] = one[METRICS[row["metric"]]]
        matrix = np.array([[by_seed[s][j] for j in sorted(by_seed[s])] for s in sorted(by_seed)])
        rates = matrix.mean(1).tolist()
        assert (row["seeds"], row["samples"]) == matrix.shape
        assert row["accuracy"] == pytest.approx(statistics.mean(rates))
        deviation = statistics.stdev(rates) if len(rates) > 1 else float("nan")
        assert row["seed_deviation"] == pytest.approx(deviation, nan_ok=True, abs=1e-12)
        bounds = bootstrap_interval(matrix, confidence=confidence, resamples=100, seed=derive_seed(seed, "bootstrap"))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(bounds)


def test_summary_interval_holds_what_a_plain_bootstrap_finds() -> None:
    random = np.random.default_rng(0)
    correct = random.random((3, 40)) < random.random(40)
    rows = [
        {"method": "m", "seed": s, "checkpoint": "best", "test_index": j, "atypical": False}
        | dict.fromkeys(METRICS.values(), bool(correct[s, j]))
        for s in range(3)
        for j in range(40)
    ]
    found = summary_table(pd.DataFrame(rows), confidence=0.9, bootstrap=4000, seed=1).iloc[0]
    means = [correct[np.ix_(random.integers(3, size=3), random.integers(40, size=40))].mean() for _ in range(4000)]
    # 4,000 resamples place a 5 % quantile to about 0.004
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=0.02)


def test_methods_meet_the_same_resamples() -> None:
    one = pd.DataFrame(
        [
            {"method": "a", "seed": s, "checkpoint": "best", "test_index": j, "atypical": j % 2 == 0}
            | dict.fromkeys(METRICS.values(), (s + j) % 3 == 0)
            for s in range(3)
            for j in range(12)
        ]
    )
    both = pd.concat([one, one.assign(method="b")], ignore_index=True)
    found = summary_table(both, confidence=0.9, bootstrap=200, seed=0)
    a, b = (found[found["method"] == name].drop(columns="method").reset_index(drop=True) for name in "ab")
    pd.testing.assert_frame_equal(a, b)


def test_other_tensors_of_a_batch_need_another_format() -> None:
    """Where this fails, raise BATCH_FORMAT beside ``attack_samples``, and write the number here."""
    part = ladder()
    rows = torch.arange(len(part))
    found = attack_samples(Threshold(), part, rows, threat=THREAT, pgd_attack=WEAK, ensemble=[APGD], seed=0)
    structure = {name: (str(tensor.dtype).removeprefix("torch."), tensor.ndim) for name, tensor in found.items()}
    whole, truth = ("int64", 1), ("bool", 1)
    expected = {"predicted": whole, "pgd_correct": truth, "broken_by": whole, "margin": ("float64", 1)}
    assert (BATCH_FORMAT, structure) == (1, expected | {"x_adv": ("float32", 4), "nonfinite": truth})


def test_rows_of_the_summary_are_in_the_order_of_the_samples() -> None:
    runs = [(method, seed, checkpoint) for method in ("b", "a") for seed in (4, 3) for checkpoint in ("last", "best")]
    rows = [
        {"method": method, "seed": seed, "checkpoint": checkpoint, "test_index": index, "atypical": index == 1}
        | dict.fromkeys(METRICS.values(), index != 2)
        for method, seed, checkpoint in runs
        for index in (2, 1)
    ]
    each = accuracies_by_seed(pd.DataFrame(rows), confidence=0.9)
    groups = ["all", "typical", "atypical"]
    names = [(*run, group, metric) for run in runs for group in groups for metric in METRICS]
    columns = ["method", "seed", "checkpoint", "group", "metric"]
    assert list(each[columns].itertuples(index=False, name=None)) == names
    means = summary_table(pd.DataFrame(rows), confidence=0.9, bootstrap=10, seed=0)
    expected = [name[:1] + name[2:] for name in names if name[1] == 4]
    assert list(means[["method", "checkpoint", "group", "metric"]].itertuples(index=False, name=None)) == expected
    assert means["accuracy"].tolist() == 4 * [0.5, 0.5, 0.5, 0, 0, 0, 1, 1, 1]
