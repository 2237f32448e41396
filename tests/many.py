"""Made-up tables of any number of methods, for figures."""

from itertools import product

import numpy as np
import pandas as pd
from by_hand import runs_table

NAMES = ("natural", "pgd_at", "bat", "trades", "mart", "gairat", "bat_trades", "bat_mart", "pgd_at_awp")
NAMES += ("bat_no_weights", "bat_no_discrimination", "bat_robust_scores", "bat_drop_harmful", "trades_beta_1")
NAMES += ("bat_alpha_2", "bat_beta_0_5", "bat_threshold_0_3", "fat", "awp_of_a_long_name_0_125", "bat_alpha_4")
CASES = ("atypical", "top_0_1", "top_0_2", "harmful", "benign")
REMOVED = tuple(f"pgd_at_without_{random}{case}" for case in CASES for random in ("", "random_"))
CONTROLS = ("bat_shuffled", "bat_consistency")
SAMPLES = {"all": 997, "typical": 929, "atypical": 68}


def runs(count: int) -> pd.DataFrame:
    """Return the runs of so many methods and variants, controls of BAT, and training without samples."""
    table = runs_table(*NAMES[:count], *CONTROLS, *REMOVED)
    methods = table["removed"].isna()
    table["objective"] = [name.split("_no_")[0] if name.startswith("bat") else name for name in table["method"]]
    table.loc[table["method"].isin(CONTROLS), "role"] = "control"
    variants = table["method"].str.contains(r"(?:alpha|beta|threshold)_\d") & methods
    table.loc[variants, "role"] = "variant"
    table.loc[variants, "base"] = table["method"].str.split("_").str[0]
    table.loc[methods, "weighted"] = table["method"].str.startswith("bat")
    return table.assign(compared_with=np.where(table["method"] == "pgd_at", "", "pgd_at"))


def summary(count: int) -> pd.DataFrame:
    """Return accuracies of all runs, those of natural training hardly robust."""
    random = np.random.default_rng(count)
    keys = list(product(runs(count)["method"], ("best", "last"), SAMPLES, ("clean", "pgd", "robust")))
    table = pd.DataFrame(keys, columns=["method", "checkpoint", "group", "metric"])
    level = {"typical": (0.98, 0.72), "atypical": (0.9, 0.07), "all": (0.975, 0.67)}
    middle = np.array([level[group][metric != "clean"] for _, _, group, metric in keys])
    middle = np.where((table["method"] == "natural") & (table["metric"] != "clean"), 0.1, middle)
    accuracy = np.clip(middle + random.normal(0, 0.006, len(table)), 0.01, 0.99)
    half = np.where(table["group"] == "atypical", 0.06, 0.02)
    ends = {"ci_low": np.clip(accuracy - half, 0, 1), "ci_high": np.clip(accuracy + half, 0, 1)}
    return table.assign(accuracy=accuracy, **ends, samples=table["group"].map(SAMPLES), seeds=5, tier="fast")


def comparisons(count: int) -> pd.DataFrame:
    """Return differences of all runs: to the baseline, of a few further pairs, and of training without samples."""
    random = np.random.default_rng(count)
    names = [*NAMES[:count], *CONTROLS]
    pairs = [("methods", name, "pgd_at") for name in names if name != "pgd_at"]
    pairs += [("pairs", name, "bat") for name in names if name.startswith("bat_")]
    for case in CASES:
        run, twin = (f"pgd_at_without_{part}{case}" for part in ("", "random_"))
        pairs += [("removal", run, "pgd_at"), ("removal", run, twin), ("removal", twin, "pgd_at")]
    keys = [(*pair, *cell) for pair in pairs for cell in product(("best", "last"), SAMPLES, ("clean", "pgd", "robust"))]
    columns = ["question", "method", "baseline", "checkpoint", "group", "metric"]
    table = pd.DataFrame(keys, columns=columns)
    scale = np.where(table["group"] == "atypical", 0.05, 0.01)
    value = random.normal(0, scale)
    value = np.where((table["method"] == "natural") & (table["metric"] != "clean"), -0.57, value)
    ends = {"ci_low": value - scale, "ci_high": value + scale}
    verdict = np.where(value < -scale, "lower", np.where(value > scale, "higher", "no difference shown"))
    equal = (table["method"] == "bat_consistency") & (table["baseline"] == "bat")
    verdict = np.where(equal, "no comparison: equal results", verdict)
    samples = table["group"].map(SAMPLES)
    return table.assign(difference=value, **ends, samples=samples, seeds=5, tier="fast", verdict=verdict)


def histories(count: int, names: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return accuracies over epochs of the first methods, or of some runs, measured at every other epoch."""
    left_out = {"atypical": 8, "top_0_1": 10, "top_0_2": 20, "harmful": 3, "benign": 5}
    rows = []
    for number, run in enumerate(names or NAMES[:count]):
        case = run.partition("_without_")[2].removeprefix("random_")
        for seed, epoch in product(range(2), range(1, 7)):
            row = {"method": run, "seed": seed, "epoch": epoch, "trained_samples": 100 - left_out.get(case, 0)}
            for place, key in enumerate(product(("train", "test"), ("typical", "atypical"), ("clean", "pgd"))):
                value = 0.9 - 0.1 * place - 0.4 / epoch - 0.01 * number + 0.01 * seed
                row["{}_{}_{}_accuracy".format(*key)] = np.nan if epoch % 2 else max(value, 0)
            rows.append(row)
    return pd.DataFrame(rows)


def per_sample(count: int) -> pd.DataFrame:
    """Return results of the last epoch by influence: bins of 60, 30, 12, 9, 0 and 5 samples."""
    random = np.random.default_rng(0)
    influence = np.repeat([-0.1, 0.02, 0.07, 0.12, 0.4], [60, 30, 12, 9, 5])
    table = pd.DataFrame(list(product(NAMES[:count], range(3), range(len(influence)))))
    table.columns = pd.Index(["method", "seed", "test_index"])
    table["max_influence"] = influence[table["test_index"]]
    right = random.random((2, len(table)))
    return table.assign(clean_correct=right[0] < 0.95, robust_correct=right[1] < 0.7 - table["max_influence"])


def weights(count: int) -> pd.DataFrame:
    """Return the weights that the first methods give to ten samples over six epochs."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(list(product(NAMES[:count], range(2), range(1, 7), range(10))))
    table.columns = pd.Index(["method", "seed", "epoch", "train_index"])
    return table.assign(weight=random.choice([1.0, 0.5, 0.9], len(table)))


def effects() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what twelve atypical samples do to the robust accuracy of others, and which are harmful."""
    value = np.linspace(-0.02, 0.03, 12)
    table = pd.DataFrame({"train_index": range(12), "robust_effect": value, "robust_standard_error": 0.01})
    table = table.assign(models=100, robust_significant=value < -0.015)
    return table, pd.DataFrame({"train_index": range(12), "harmful": np.arange(12) % 2 == 0})
