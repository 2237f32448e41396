"""Runs against one another: paired differences of accuracy, with intervals and tests."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from bat.evaluation import METRICS, groups_of
from bat.seeds import derive_seed
from bat.statistics import bootstrap_interval, holm, paired_p_value

HIGHER, LOWER = "higher", "lower"
UNCORRECTED = "no difference shown after correction"
NOT_SHOWN = "no difference shown"
"""Verdicts on a difference."""

_COLUMNS = ["question", "method", "baseline", "checkpoint", "group", "metric", "seeds", "samples"]
_COLUMNS += ["difference", "ci_low", "ci_high", "p_value"]


def comparison_table(
    samples: pd.DataFrame,
    questions: Mapping[str, Sequence[tuple[str, str]]],
    *,
    confidence: float,
    bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """Return a row for each compared pair of runs, checkpoint, group of test samples and metric.

    samples: as in ``evaluation.accuracies_by_seed``; questions: by name, pairs of a run and the one it is compared
    with. difference: accuracy of the first less that of the second, over the seeds that both have, paired by seed and
    test sample; its interval by the bootstrap over seeds and test samples; p_value by ``paired_p_value``, and p_holm
    adjusted over the pairs of one question, in each checkpoint, group and metric. The verdict names a difference only
    if the interval excludes 0 and p_holm is at most 1 - confidence.
    """
    results = {
        key: run.pivot(index="seed", columns="test_index", values=list(METRICS.values()))
        for key, run in samples.groupby(["method", "checkpoint"], sort=False)
    }
    columns = samples.drop_duplicates("test_index").set_index("test_index")["atypical"].sort_index()
    groups = groups_of(columns)
    rows = []
    for question, pairs in questions.items():
        for (method, baseline), checkpoint in product(pairs, samples["checkpoint"].unique()):
            first, second = results[method, checkpoint], results[baseline, checkpoint]
            seeds = first.index.intersection(second.index)
            for (group, chosen), (metric, column) in product(groups.items(), METRICS.items()):
                right = [run.loc[seeds, column].to_numpy(dtype=np.int64)[:, chosen] for run in (first, second)]
                differences = right[0] - right[1]
                interval = bootstrap_interval(
                    differences, confidence=confidence, resamples=bootstrap, seed=derive_seed(seed, "bootstrap")
                )
                found = (*differences.shape, differences.mean(), *interval, paired_p_value(differences))
                rows.append((question, method, baseline, checkpoint, group, metric, *found))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    family = table.groupby(["question", "checkpoint", "group", "metric"])["p_value"]
    table["p_holm"] = family.transform(lambda values: holm(values.to_numpy()))
    apart = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    passed = table["p_holm"] <= 1 - confidence
    direction = np.where(table["difference"] > 0, HIGHER, LOWER)
    return table.assign(verdict=np.where(apart, np.where(passed, direction, UNCORRECTED), NOT_SHOWN))
