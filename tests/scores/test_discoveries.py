"""The false discovery rate of influence pairs, on models whose influences are known."""

import numpy as np
import pandas as pd
import pytest
from influences import find_pairs

from bat.scores.estimators import null_pairs_row, shuffled
from bat.scores.subsets import subset_masks

TRAIN, TARGETS, RATE = 40, 40, 0.05
# sample i helps target i, for the first ten; the classes are the same for all
TRUE = 10
LABELS = {
    "train_index": np.arange(TRAIN),
    "train_labels": np.arange(TRAIN) % 2,
    "target_index": np.arange(TARGETS),
    "target_labels": np.arange(TARGETS) % 2,
}


def models(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Subsets, and correctness under independent noise: base rates between 0.05 and 0.9, true influence 0.3."""
    random = np.random.default_rng(seed)
    mask = subset_masks(TRAIN, round(0.7 * TRAIN), design="balanced", seed=seed, first=0, count=count)
    rate = np.tile(random.uniform(0.05, 0.9, TARGETS), (count, 1))
    rate[:, :TRUE] = random.uniform(0.1, 0.6, TRUE) + 0.3 * mask[:, :TRUE]
    return mask, random.random((count, TARGETS)) < rate


def found(count: int, seed: int) -> tuple[float, float]:
    """Return the share of false pairs among those found, 0 for none, and the share of true pairs that are found."""
    mask, correct = models(count, seed)
    table = find_pairs(mask, correct, false_discovery_rate=RATE, **LABELS).pairs
    chosen = table[table["significant"]]
    true = (chosen["train_index"] == chosen["target_index"]) & (chosen["train_index"] < TRUE)
    return (~true).mean() if len(chosen) else 0.0, true.sum() / TRUE


@pytest.mark.parametrize("count", [50, 200])
def test_false_discovery_rate_holds_on_200_data_sets(count: int) -> None:
    shares = [found(count, seed)[0] for seed in range(200)]
    assert np.mean(shares) <= RATE + 0.02
    # a procedure that finds nothing false in any of the sets would be no test of the level
    assert max(shares) > 0


def test_power_grows_with_the_number_of_models() -> None:
    power = [np.mean([found(count, seed)[1] for seed in range(40)]) for count in (50, 100, 200, 400)]
    assert (np.diff(power) > 0.1).all()
    assert power[-1] > 0.9


def test_shuffled_models_show_pairs_by_chance_only() -> None:
    mask, correct = models(300, 1)
    rows = [
        null_pairs_row(find_pairs(mask, correct[order], false_discovery_rate=RATE, over=0.15, **LABELS))
        for order in shuffled(300, 30, seed=0)
    ]
    table = pd.DataFrame(rows)
    pairs = find_pairs(mask, correct, false_discovery_rate=RATE, **LABELS).pairs
    strong = pairs["influence"] > 0.15
    both = pairs[strong & pairs["significant"]]
    measured = [len(pairs), strong.sum(), pairs["significant"].sum(), len(both), both["target_index"].nunique()]
    assert table.iloc[0][["pairs", "over_threshold", "significant", "found", "targets"]].tolist() == measured
    assert table["found"].iloc[0] >= 8
    by_chance = table.iloc[1:]
    assert (by_chance["pairs"] == len(pairs)).all()
    # all are false here, so the rate is the share of shuffles in which any is found
    assert (by_chance["significant"] > 0).mean() <= 0.2
    # without the test, chance alone passes the threshold
    assert (by_chance["over_threshold"] > 0).all()
    orders = list(shuffled(300, 3, seed=0))
    assert np.array_equal(orders[0], np.arange(300))
    assert all(np.array_equal(*pair) for pair in zip(orders, shuffled(300, 30, seed=0), strict=False))
