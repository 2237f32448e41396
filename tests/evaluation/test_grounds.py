"""What statements stand on: when a training failed, how many models an influence takes; both sides of each limit."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, norm

from bat.evaluation.grounds import failures
from bat.scores.precision import models_to_find, none_atypical
from bat.statistics import greater_p_value


def histories(clean: dict[str, list[float]], pgd: dict[str, list[float]] | None = None) -> pd.DataFrame:
    """Two epochs of each run and seed: a first that is as bad as can be, and the last with the given accuracies."""
    pgd = clean if pgd is None else pgd
    rows = [
        {"method": run, "seed": 10 + seed, "epoch": epoch}
        | {f"train_all_{name}_accuracy": values[run][seed] if epoch == 2 else 0.0}
        | {f"train_all_{other}_accuracy": others[run][seed] if epoch == 2 else 0.0}
        for name, values, other, others in [("clean", clean, "pgd", pgd)]
        for run in clean
        for seed in range(len(clean[run]))
        for epoch in (2, 1)  # not in order
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("accuracy", "failed"), [(0.1, True), (0.18, True), (0.189, True), (0.191, False), (0.9, False)]
)
def test_a_run_near_chance_did_not_train(accuracy: float, failed: bool) -> None:
    found = failures(histories({"a": 3 * [accuracy], "b": 3 * [0.95]}), chance=0.1, natural=())
    assert set(found) == ({"a"} if failed else set())
    if failed:
        each = f"did not train ({100 * accuracy:.1f} %, chance 10.0 %)"
        assert found["a"] == f"seed 10 {each}; seed 11 {each}; seed 12 {each}"


def test_what_is_near_chance_depends_on_the_most_frequent_label() -> None:
    table = histories({"a": [0.91, 0.91, 0.91]})
    assert set(failures(table, chance=0.95, natural=())) == {"a"}
    assert failures(table, chance=0.5, natural=()) == {}
    assert set(failures(histories({"a": [math.nan]}), chance=0.1, natural=())) == {"a"}


@pytest.mark.parametrize(
    ("accuracies", "seeds"),
    [
        ([0.9, 0.9, 0.9], ""),
        ([0.9, 0.9, 0.8], ""),  # ten points, to rounding
        ([0.9, 0.9, 0.799], "12"),
        ([0.9, 0.9, 0.11], "12"),
        ([0.3, 0.4, 0.9], "12"),  # more than half of the seeds failed: the other is far from them
        ([0.7, 0.9], ""),
        ([0.69, 0.9], "10 11"),
        ([0.5], ""),
    ],
)
def test_a_seed_far_from_the_median_of_all_failed(accuracies: list[float], seeds: str) -> None:
    found = failures(histories({"a": accuracies, "b": len(accuracies) * [0.95]}), chance=0.1, natural=())
    assert set(found) == ({"a"} if seeds else set())
    for seed in range(10, 10 + len(accuracies)):
        assert (f"seed {seed} " in found.get("a", "")) == (str(seed) in seeds.split())


def test_how_far_a_seed_is_from_the_others_is_said_of_each_accuracy() -> None:
    found = failures(histories({"a": [0.9, 0.9, 0.7], "b": [0.9, 0.9, 0.7]}), chance=0.1, natural=("b",))
    clean = "seed 12 is far from the others (clean 70.0 %, median of the seeds 90.0 %)"
    assert found == {"a": f"{clean}; {clean.replace('clean', 'under the training attack')}", "b": clean}


def test_accuracy_under_the_training_attack_counts_for_those_that_train_on_it() -> None:
    table = histories({"a": 3 * [0.9], "b": 3 * [0.9]}, {"a": [0.6, 0.6, 0.0], "b": [0.6, 0.6, 0.0]})
    found = failures(table, chance=0.1, natural=["b"])
    assert found == {
        "a": "seed 12 is far from the others (under the training attack 0.0 %, median of the seeds 60.0 %)"
    }
    # robust to nothing, alike in all seeds, is a result
    assert failures(histories({"a": 3 * [0.9]}, {"a": 3 * [0.0]}), chance=0.1, natural=()) == {}


def test_a_seed_at_chance_is_said_once() -> None:
    found = failures(histories({"a": [0.9, 0.9, 0.1]}), chance=0.1, natural=())
    assert found == {"a": "seed 12 did not train (10.0 %, chance 10.0 %)"}


# -- how many models an influence takes


@pytest.mark.parametrize("fraction", [0.5, 0.7, 0.8])
@pytest.mark.parametrize(("influence", "pairs", "rate"), [(0.15, 3200, 0.05), (0.25, 2, 0.1), (0.05, 100_000, 0.01)])
def test_with_so_many_models_an_influence_is_significant_among_pairs_without_any(
    influence: float, fraction: float, pairs: int, rate: float
) -> None:
    models = models_to_find(influence, fraction, pairs=pairs, false_discovery_rate=rate)
    assert models is not None
    passed = []
    for size in (models, models - 1):
        # right in half of all models, where the standard error is largest
        error = math.sqrt(0.25 / (fraction * size) + 0.25 / ((1 - fraction) * size))
        p_values = np.append(np.ones(pairs - 1), norm.sf(influence / error))
        passed.append(bool(false_discovery_control(p_values)[-1] <= rate))
    assert passed == [True, False]


def test_the_worst_standard_error_is_that_of_the_test() -> None:
    models = models_to_find(0.15, 0.7, pairs=3200, false_discovery_rate=0.05)
    assert models == 918  # v = 1.190476, z = 4.164161: 917.47
    n_in, n_out = 643, 275
    right = [np.array([number]) for number in (round(n_in * 0.545), n_in, round(n_out * 0.395), n_out)]
    assert greater_p_value(*right)[0] == pytest.approx(0.05 / 3200, rel=0.3)  # models come in whole numbers


def test_an_influence_of_nothing_takes_no_number_of_models() -> None:
    assert models_to_find(0.0, 0.7, pairs=10, false_discovery_rate=0.05) is None
    assert models_to_find(0.5, 0.7, pairs=1, false_discovery_rate=0.9) == 1


def test_models_that_are_just_enough_are_enough() -> None:
    z = norm.isf(0.05 / 7)  # v = 1
    found = [models_to_find(z / math.sqrt(models), 0.5, pairs=7, false_discovery_rate=0.05) for models in range(1, 99)]
    assert found == [*range(1, 99)]


def tables(atypical: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ten training samples of classes 0 and 1 in turn, of which some are atypical, and 30 test samples of class 1."""
    index = np.arange(10)
    scores = pd.DataFrame({"train_index": index, "label": index % 2, "atypical": np.isin(index, atypical)})
    return scores, pd.DataFrame({"test_index": np.arange(30), "label": 1, "atypical": False})


MORE = (
    "none of 60 pairs has an influence over memorization.threshold (0.15) that is significant with {} models: raise "
    "memorization.subset_models to 523 or more, with which any influence over the threshold is significant at a false "
    "discovery rate of 0.05 (a strong one also with fewer), or lower memorization.threshold"
)
NONE = "there is no atypical training sample of the same class to influence it: lower memorization.threshold (0.15)"


@pytest.mark.parametrize(
    ("atypical", "models", "threshold", "said"),
    [
        ([1, 3, 4], 200, 0.15, MORE.format(200)),
        ([1, 3, 4], 522, 0.15, MORE.format(522)),
        (
            [1, 3, 4],
            523,
            0.15,
            "none of 60 pairs has an influence over memorization.threshold (0.15), and 523 models are enough to find "
            "one: lower memorization.threshold",
        ),
        (
            [1, 3, 4],
            200,
            0.0,
            "none of 60 pairs has an influence over memorization.threshold (0) that is significant with 200 models: "
            "raise memorization.subset_models or the threshold",
        ),
        # of another class, or none at all: more models do not help
        ([4], 200, 0.15, NONE),
        ([], 200, 0.15, NONE),
    ],
)
def test_why_no_sample_is_atypical(atypical: list[int], models: int, threshold: float, said: str) -> None:
    facts = {"models": models, "fraction": 0.7, "threshold": threshold, "false_discovery_rate": 0.05}
    text = none_atypical(*tables(atypical), **facts)  # type: ignore[arg-type]
    assert text == said


def test_scores_from_a_file_ask_for_no_models() -> None:
    text = none_atypical(*tables([1]), models=0, fraction=None, threshold=0.2, false_discovery_rate=None)
    assert text == "the scores' file holds no influence over memorization.threshold (0.2)"
