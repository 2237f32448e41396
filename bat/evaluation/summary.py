"""Accuracies of groups of test samples, with their intervals, and the table of runs."""

from collections.abc import Mapping, Sequence

import pandas as pd

from bat.config import Run, is_weighted
from bat.seeds import derive_seed
from bat.statistics import bootstrap_interval, wilson

METRICS = {
    "clean": "clean_correct",
    "pgd": "pgd_correct",
    "robust": "robust_correct",
}
"""Accuracies of the summary and the per-sample columns that they are means of."""


def groups_of(atypical: pd.Series) -> dict[str, "pd.Series[bool]"]:
    """Return the rows of each group of samples that has any: all, typical, atypical."""
    atypical = atypical.astype(bool)
    groups = {"all": atypical | True, "typical": ~atypical, "atypical": atypical}
    return {name: rows for name, rows in groups.items() if rows.any()}


def by_seed_and_sample(run: pd.DataFrame) -> pd.DataFrame:
    """Return what the models of a run have right: a row per seed, columns by metric and test sample, in order."""
    return run.pivot(index="seed", columns="test_index", values=list(METRICS.values()))


def accuracies_by_seed(samples: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """Return the accuracies of each model on each group of test samples, with Wilson intervals over the samples.

    samples: per-sample results with columns method, seed, checkpoint, atypical and those of ``METRICS``. A group
    without samples has no row: it has no rate.
    """
    rows = []
    for (method, seed, checkpoint), model in samples.groupby(["method", "seed", "checkpoint"], sort=False):
        for group, chosen in groups_of(model["atypical"]).items():
            for metric, column in METRICS.items():
                rows.append(
                    (
                        method,
                        seed,
                        checkpoint,
                        group,
                        metric,
                        int(chosen.sum()),
                        int(model.loc[chosen, column].sum()),
                    )
                )
    names = ["method", "seed", "checkpoint", "group", "metric", "samples", "correct"]
    table = pd.DataFrame(rows, columns=names)
    correct, n = table["correct"].to_numpy(), table["samples"].to_numpy()
    low, high = wilson(correct, n, confidence=confidence)
    return table.assign(accuracy=correct / n, ci_low=low, ci_high=high)


def summary_table(samples: pd.DataFrame, *, confidence: float, bootstrap: int, seed: int) -> pd.DataFrame:
    """Return the mean accuracy over seeds of each method, checkpoint and group, with a bootstrap interval.

    samples: as in ``accuracies_by_seed``. The interval resamples seeds and test samples; ``seed`` is the
    bootstrap's, the same for all rows, so that methods meet the same resamples. seed_deviation: standard deviation
    between seeds, NaN for one.
    """
    rows = []
    for (method, checkpoint), models in samples.groupby(["method", "checkpoint"], sort=False):
        first = models[models["seed"] == models["seed"].iloc[0]].set_index("test_index")
        wide = by_seed_and_sample(models)
        right = {metric: wide[column].to_numpy(dtype=bool) for metric, column in METRICS.items()}
        for group, chosen in groups_of(first["atypical"].sort_index()).items():
            for metric in METRICS:
                correct = right[metric][:, chosen]
                low, high = bootstrap_interval(
                    correct, confidence=confidence, resamples=bootstrap, seed=derive_seed(seed, "bootstrap")
                )
                by_seed = correct.sum(1)  # whole numbers: seeds that are alike deviate by 0
                deviation = float(by_seed.std(ddof=1)) / correct.shape[1] if len(by_seed) > 1 else float("nan")
                rows.append(
                    {
                        "method": method,
                        "checkpoint": checkpoint,
                        "group": group,
                        "metric": metric,
                        "seeds": correct.shape[0],
                        "samples": correct.shape[1],
                        "accuracy": correct.mean(),
                        "ci_low": low,
                        "ci_high": high,
                        "seed_deviation": deviation,
                    }
                )
    return pd.DataFrame(rows)


def run_table(runs: Sequence[Run], questions: Mapping[str, Sequence[tuple[str, str]]]) -> pd.DataFrame:
    """Return one row per run: what it is for, and what it is compared with.

    role: see ``Run``. removed: atypical, top (the most memorized), harmful, benign or hardest samples, or as many
    random ones (role random); fraction: the share of training samples that top or hardest is. twin: of a run without
    some samples the one without as many random ones, and the other way round. compared_with: names of runs, with commas
    between them.
    """
    rows = []
    for run in runs:
        without = run.without
        twins = [
            other.name
            for other in runs
            if without
            and other.without
            and other.base == run.base
            and (other.without.what, other.without.fraction) == (without.what, without.fraction)
            and other.without.random != without.random
        ]
        rows.append(
            {
                "method": run.name,
                "base": run.base,
                "role": run.role,
                "objective": run.method.objective,
                "weighted": is_weighted(run.method),
                "removed": without and without.what,
                "fraction": without and without.fraction,
                "twin": twins[0] if twins else None,
                "compared_with": ", ".join(
                    baseline for pairs in questions.values() for method, baseline in pairs if method == run.name
                ),
            }
        )
    return pd.DataFrame(rows)
