"""Runs against one another: paired differences of accuracy, with intervals and tests."""

from collections.abc import Collection, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from bat.evaluation.summary import METRICS, by_seed_and_sample, groups_of
from bat.seeds import derive_seed
from bat.statistics import ROUNDING, Floats, bootstrap_interval, holm, paired_p_value

HIGHER, LOWER = "higher", "lower"
UNCORRECTED = "no difference shown after correction"
NOT_SHOWN = "no difference shown"
"""Verdicts on a difference."""

FAILED = "no comparison: a training failed"
NOTHING_LEFT_OUT = "nothing to test: no sample is left out"
UNFAIR = "no comparison: another number of samples is left out"
EQUAL = "no comparison: equal results"
GROUNDLESS = (FAILED, NOTHING_LEFT_OUT, UNFAIR, EQUAL)
"""Verdicts where a difference, whatever it is, says nothing."""

_COLUMNS = ["question", "method", "baseline", "checkpoint", "group", "metric", "seeds", "samples"]
_COLUMNS += ["difference", "ci_low", "ci_high", "p_value", "verdict"]


def comparison_table(
    samples: pd.DataFrame,
    questions: Mapping[str, Sequence[tuple[str, str]]],
    *,
    confidence: float,
    bootstrap: int,
    seed: int,
    failed: Collection[str] = (),
    left_out: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Return a row for each compared pair of runs, checkpoint, group of test samples and metric.

    samples: as in ``evaluation.accuracies_by_seed``; questions: by name, pairs of a run and the one it is compared
    with; failed: runs whose training failed; left_out: of runs, how many training samples they are trained without.
    difference: accuracy of the first less that of the second, over the seeds that both have, paired by seed and
    test sample; its interval by the bootstrap over seeds and test samples; p_value by ``paired_p_value``, and p_holm
    adjusted over the pairs of one question, in each checkpoint, group and metric. The verdict names a difference only
    if the interval excludes 0 and p_holm is at most 1 - confidence.

    No difference is tested (no p-value, no place in the correction) between runs of which one failed; between a run
    that should leave samples out and leaves none and any other; between runs that leave out different numbers; and
    between runs that are right and wrong on the same test samples throughout: the verdict is then one of
    ``GROUNDLESS``.
    """
    results = {key: by_seed_and_sample(run) for key, run in samples.groupby(["method", "checkpoint"])}
    columns = samples.drop_duplicates("test_index").set_index("test_index")["atypical"].sort_index()
    groups = groups_of(columns)
    rows = []
    for question, pairs in questions.items():
        for (method, baseline), checkpoint in product(pairs, samples["checkpoint"].unique()):
            first, second = results[method, checkpoint], results[baseline, checkpoint]
            seeds = first.index.intersection(second.index)
            groundless = None
            if method in failed or baseline in failed:
                groundless = FAILED
            elif question == "removal" and left_out is not None:
                control = any(baseline == other for other, _ in pairs)
                groundless = _removal(left_out[method], left_out[baseline], control=control)
            if groundless is None and first.loc[seeds].equals(second.loc[seeds]):
                groundless = EQUAL
            gained = {
                metric: first.loc[seeds, column].to_numpy(dtype=np.int64)
                - second.loc[seeds, column].to_numpy(dtype=np.int64)
                for metric, column in METRICS.items()
            }
            for (group, chosen), metric in product(groups.items(), METRICS):
                differences = gained[metric][:, chosen]
                interval = bootstrap_interval(
                    differences, confidence=confidence, resamples=bootstrap, seed=derive_seed(seed, "bootstrap")
                )
                p_value = np.nan if groundless else paired_p_value(differences)
                found = (*differences.shape, differences.mean(), *interval, p_value, groundless)
                rows.append((question, method, baseline, checkpoint, group, metric, *found))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    family = table.groupby(["question", "checkpoint", "group", "metric"])["p_value"]
    table["p_holm"] = family.transform(lambda values: _adjusted(values.to_numpy()))
    above, below = table["ci_low"] > ROUNDING, table["ci_high"] < -ROUNDING
    passed = table["p_holm"] <= 1 - confidence + ROUNDING
    direction = np.where(above, HIGHER, LOWER)
    tested = np.where(above | below, np.where(passed, direction, UNCORRECTED), NOT_SHOWN)
    return table.assign(verdict=table["verdict"].where(table["verdict"].notna(), tested))


def _removal(method: int, baseline: int, *, control: bool) -> str | None:
    """Say why a run without so many samples cannot be compared with one without so many; None if it can.

    control: the other is a run that leaves samples out too, and should leave out as many.
    """
    if method == 0:
        return NOTHING_LEFT_OUT
    return UNFAIR if control and baseline != method else None


def _adjusted(p_values: Floats) -> Floats:
    """Return Holm's p-values over those that are no NaN."""
    adjusted = p_values.copy()
    known = ~np.isnan(p_values)
    adjusted[known] = holm(p_values[known])
    return adjusted
