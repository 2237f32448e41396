"""What statements stand on: trainings that worked, and models enough. Rules that are fixed before the numbers."""

from collections.abc import Collection

import pandas as pd

from bat.planning.cost import models_to_find
from bat.statistics import ROUNDING, near_chance

FAR = 0.1
"""Accuracies of one seed and the median of all that are further apart than this are far from each other."""


def failures(histories: pd.DataFrame, *, chance: float, natural: Collection[str]) -> dict[str, str]:
    """Return the runs whose training failed, each with what is wrong, in words.

    histories: rows of models/{run}/seed-{s}/history.parquet; chance: the share of the most frequent label among the
    training samples; natural: the runs that train on clean images alone.

    By the accuracies on the training samples after the last epoch. A seed did not train where the clean one is near
    chance (``statistics.near_chance``), and it is far from the others where it differs from the median of the run's
    seeds by more than ``FAR``, in clean accuracy or, unless the run is natural, under the attack of training. Either
    way of the median, since more than half of the seeds may be those that failed. Samples that a run leaves out count
    too, since the history does not tell them apart.
    """
    last = histories.sort_values("epoch").groupby(["method", "seed"]).tail(1)
    found = {}
    for run in histories["method"].unique():
        seeds = last[last["method"] == run].set_index("seed").sort_index()
        clean = seeds["train_all_clean_accuracy"]
        lost = [seed for seed, accuracy in clean.items() if near_chance(accuracy, chance)]
        reasons = [f"seed {seed} did not train ({_percent(clean[seed])}, chance {_percent(chance)})" for seed in lost]
        accuracies = {"clean": clean}
        if run not in natural:
            accuracies["under the training attack"] = seeds["train_all_pgd_accuracy"]
        for name, accuracy in accuracies.items():
            apart = (accuracy - accuracy.median()).abs() > FAR + ROUNDING
            reasons += [
                f"seed {seed} is far from the others ({name} {_percent(accuracy[seed])}, median of the seeds "
                f"{_percent(accuracy.median())})"
                for seed in apart.index[apart]
                if seed not in lost
            ]
        if reasons:
            found[str(run)] = "; ".join(reasons)
    return found


def none_atypical(
    scores: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    models: int,
    fraction: float | None,
    threshold: float,
    false_discovery_rate: float | None,
) -> str:
    """Say why no sample of ``groups`` is atypical, and what would help.

    scores, groups: as in scores/memorization.parquet and scores/test_groups.parquet; models: K, 0 for scores from a
    file, for which fraction and false_discovery_rate are None.
    """
    rare = scores.loc[scores["atypical"], "label"].value_counts()
    pairs = int(groups["label"].map(rare).sum())
    if not pairs:
        return (
            "there is no atypical training sample of the same class to influence it: lower memorization.threshold "
            f"({threshold:g})"
        )
    if fraction is None or false_discovery_rate is None:
        return f"the scores' file holds no influence over memorization.threshold ({threshold:g})"
    needed = models_to_find(threshold, fraction, pairs=pairs, false_discovery_rate=false_discovery_rate)
    over = f"none of {pairs} pairs has an influence over memorization.threshold ({threshold:g})"
    if needed is None:
        return f"{over} that is significant with {models} models: raise memorization.subset_models or the threshold"
    if models >= needed:
        return f"{over}, and {models} models are enough to find one: lower memorization.threshold"
    return (
        f"{over} that is significant with {models} models: raise memorization.subset_models to {needed} or more, with "
        f"which any influence over the threshold is significant at a false discovery rate of {false_discovery_rate:g} "
        "(a strong one also with fewer), or lower memorization.threshold"
    )


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:z.1f} %"
