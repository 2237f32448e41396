"""Trainings that failed, with which nothing is compared. Rules that are fixed before the numbers."""

from collections.abc import Collection

import pandas as pd

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


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:z.1f} %"
