"""Memorization and influence (Feldman and Zhang 2020, arXiv 2008.03703): estimators and tests. Pure arrays.

Model k is trained on the samples of row k of a mask M (models x training samples); C says which samples model k
classifies correctly. Then, for a training sample i and any sample j,

    memorization(i)   = mean of C[k, i] where M[k, i]  -  mean of C[k, i] where not M[k, i]
    influence(i -> j) = mean of C[k, j] where M[k, i]  -  mean of C[k, j] where not M[k, i]
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from bat.seeds import derive_seed
from bat.statistics import Bools, Counts, Floats, greater_p_value, newcombe, standard_error


class Rates(NamedTuple):
    """Correct classifications, and models, with a training sample in the subset and with it left out."""

    correct_in: Counts
    n_in: Counts
    correct_out: Counts
    n_out: Counts

    @property
    def difference(self) -> Floats:
        """p_in - p_out, never clipped; NaN where a number of models is 0.

        The float64 nearest to the exact fraction: two differences that are equal are equal as floats, and one of
        exactly t is not over t, whatever decimal t is (of up to 9 places, for up to 4,000 models).
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            # whole numbers, so the one division is all that rounds: 17/20 - 14/20 would be a little more than 0.15
            difference: Floats = (self.correct_in * self.n_out - self.correct_out * self.n_in) / (
                self.n_in * self.n_out
            )
        return difference


def memorization_rates(mask: Bools, correct: Bools) -> Rates:
    """Count, for each training sample, the models that classify it correctly. mask, correct: (models, n)."""
    n_in = mask.sum(0, dtype=np.int64)
    correct_in = (mask & correct).sum(0, dtype=np.int64)
    total = correct.sum(0, dtype=np.int64)
    return Rates(correct_in, n_in, total - correct_in, len(mask) - n_in)


def influence_rates(mask: Bools, correct: Bools, counted: Bools | None = None) -> Rates:
    """Count, for each pair, the models that classify the target correctly.

    mask: (models, n) of the influencing training samples; correct: (models, t) of the targets. ``counted``,
    (models, t), says which models count for a target, all by default. Returns arrays (n, t). Two products at most:
    what holds for samples left out follows from the column sums.
    """
    with_sample = mask.T.astype(np.float32)  # counts under 2^24 are exact in float32
    if counted is None:
        counted = np.ones_like(correct)
        n_in = np.repeat(mask.sum(0, dtype=np.int64)[:, None], correct.shape[1], axis=1)
    else:
        n_in = (with_sample @ counted).astype(np.int64)
    right = correct & counted
    correct_in = (with_sample @ right).astype(np.int64)
    total, models = right.sum(0, dtype=np.int64), counted.sum(0, dtype=np.int64)
    return Rates(correct_in, n_in, total - correct_in, models - n_in)


def memorization_table(
    mask: Bools,
    correct: Bools,
    index: Counts,
    labels: Counts,
    *,
    threshold: float,
    confidence: float,
) -> pd.DataFrame:
    """Return one row per training sample with its memorization, uncertainty and counts.

    mask, correct: (models, n); index, labels: (n,). A sample that was never left out (or never in) has NaN memorization
    with its counts, and is not atypical.
    """
    scores = memorization_scores(mask, correct, confidence=confidence)
    table = pd.DataFrame({"train_index": index, "label": labels} | dict(scores.items()))
    return table.assign(atypical=table["memorization"] > threshold)


def memorization_scores(mask: Bools, correct: Bools, *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the memorization of each training sample, with standard errors, Newcombe's intervals, rates and counts.

    mask: (models, n) bool, which samples each model was trained on; correct: (models, n) bool, which it classifies
    correctly. A sample that was never left out (or never in) has NaN memorization.

    >>> import bat, numpy as np
    >>> mask = np.array([[True, True], [True, False], [False, True], [False, False]])
    >>> correct = np.array([[True, True], [True, True], [False, True], [False, True]])
    >>> bat.memorization(mask, correct)[["memorization", "standard_error", "n_in", "n_out"]]
       memorization  standard_error  n_in  n_out
    0           1.0             0.0     2      2
    1           0.0             0.0     2      2

    Raises:
        ValueError: the arrays are not bool, or not of one shape (models, n).
    """
    mask, correct = np.asarray(mask), np.asarray(correct)
    if mask.ndim != 2 or mask.shape != correct.shape or mask.dtype != np.bool_ or correct.dtype != np.bool_:
        found = f"mask is {mask.dtype} of shape {mask.shape}, correct {correct.dtype} of shape {correct.shape}"
        raise ValueError(f"{found}: give bool arrays of one shape (models, n)")
    rates = memorization_rates(mask, correct)
    counts = (rates.correct_in, rates.n_in, rates.correct_out, rates.n_out)
    low, high = newcombe(*counts, confidence=confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_in, p_out = rates.correct_in / rates.n_in, rates.correct_out / rates.n_out
    return pd.DataFrame(
        {
            "memorization": rates.difference,
            "standard_error": standard_error(*counts),
            "ci_low": low,
            "ci_high": high,
            "p_in": p_in,
            "p_out": p_out,
            "n_in": rates.n_in,
            "n_out": rates.n_out,
        }
    )


def influence_table(
    mask: Bools,
    correct: Bools,
    *,
    train_index: Counts,
    train_labels: Counts,
    target_index: Counts,
    target_labels: Counts,
    false_discovery_rate: float,
    counted: Bools | None = None,
) -> pd.DataFrame:
    """Return a row for each pair of a training sample and a target of the same class.

    mask: (models, n); correct: (models, t); train_index, train_labels: (n,); target_index, target_labels: (t,);
    counted as in
    ``influence_rates``. For targets that are training samples give ``counted = ~mask`` of the targets: models that were
    trained on a target have memorized it, and would dilute what its neighbours do for it. A sample is no target of
    its own.

    ``significant``: the one-sided test of influence > 0 passes the Benjamini-Hochberg procedure over all rows.
    """
    parts = []
    for label in np.intersect1d(train_labels, target_labels):
        rows, columns = np.flatnonzero(train_labels == label), np.flatnonzero(target_labels == label)
        chosen = None if counted is None else counted[:, columns]
        rates = influence_rates(mask[:, rows], correct[:, columns], chosen)
        source, target = np.broadcast_arrays(train_index[rows, None], target_index[columns])
        other = source != target if counted is not None else np.ones(source.shape, dtype=bool)
        part = {
            "train_index": source,
            "target_index": target,
            "label": np.full(source.shape, label),
            "influence": rates.difference,
            "standard_error": standard_error(*rates),
            "p_value": greater_p_value(*rates),
        }
        parts.append(pd.DataFrame({name: values[other] for name, values in part.items()}))
    columns_of = ["train_index", "target_index", "label", "influence", "standard_error", "p_value"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns_of, dtype=np.float64)
    return table.assign(significant=_discoveries(table["p_value"].to_numpy(), false_discovery_rate))


def null_pairs_table(
    mask: Bools,
    correct: Bools,
    *,
    threshold: float,
    false_discovery_rate: float,
    shuffles: int,
    seed: int,
    train_index: Counts,
    train_labels: Counts,
    target_index: Counts,
    target_labels: Counts,
) -> pd.DataFrame:
    """Return how many pairs are found with the results of models shuffled among them, when there is no influence.

    A row a shuffle, the first, 0, for the order as it is. Arrays as in ``influence_table``. pairs: that were tested;
    significant; over_threshold, of influence over ``threshold``; found, both at once; targets: samples that these make
    atypical.
    """
    rows = []
    for shuffle in range(shuffles + 1):
        order = np.arange(len(mask))
        if shuffle:
            order = np.random.default_rng(derive_seed(seed, "null", shuffle)).permutation(order)
        pairs = influence_table(
            mask,
            correct[order],
            train_index=train_index,
            train_labels=train_labels,
            target_index=target_index,
            target_labels=target_labels,
            false_discovery_rate=false_discovery_rate,
        )
        strong = pairs["influence"] > threshold
        found = pairs[pairs["significant"] & strong]
        counts = (len(pairs), pairs["significant"].sum(), strong.sum(), len(found), found["target_index"].nunique())
        rows.append((shuffle, *counts))
    return pd.DataFrame(rows, columns=["shuffle", "pairs", "significant", "over_threshold", "found", "targets"])


def effect_table(
    mask: Bools, right: dict[str, Counts], scores: pd.DataFrame, *, samples: int, false_discovery_rate: float
) -> pd.DataFrame:
    """Return what having each training sample in the subset does to a model's accuracies, one row per sample.

    mask: (models, n); right: by metric (models,), how many of ``samples`` test samples each model classifies correctly;
    scores: (n) rows of ``memorization_table``. For each metric: effect, the mean accuracy of models with the sample
    less that of those without; its standard error and two-sided p-value by Welch's t-test, since models, not test
    samples, are what is drawn; significant by Benjamini-Hochberg over the samples. A sample in or out of fewer than two
    models has NaN.
    """
    n_in = mask.sum(0, dtype=np.int64)
    n_out = len(mask) - n_in
    table = scores[["train_index", "label", "memorization"]].reset_index(drop=True)
    table = table.assign(models=len(mask), n_in=n_in, n_out=n_out)
    for metric, values in right.items():
        # whole numbers: models that are all alike have an effect of 0 and no variance, not what rounding leaves
        total_in, squares_in = values @ mask, values**2 @ mask
        total_out, squares_out = values.sum() - total_in, (values**2).sum() - squares_in
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = (total_in * n_out - total_out * n_in) / (n_in * n_out * samples)
            # 0 / 0 for fewer than two models
            deviation_in, deviation_out = (
                np.sqrt((n * squares - total**2) / (n * (n - 1))) / samples
                for n, total, squares in ((n_in, total_in, squares_in), (n_out, total_out, squares_out))
            )
            error = np.hypot(deviation_in / np.sqrt(n_in), deviation_out / np.sqrt(n_out))
        from scipy.stats import ttest_ind_from_stats

        test = ttest_ind_from_stats(effect, deviation_in, n_in, 0.0, deviation_out, n_out, equal_var=False)
        p_value = np.asarray(test.pvalue)
        columns = {"effect": effect, "standard_error": error, "p_value": p_value}
        columns["significant"] = _discoveries(p_value, false_discovery_rate)
        table = table.assign(**{f"{metric}_{name}": column for name, column in columns.items()})
    return table


def group_table(
    correct: Bools,
    index: Counts,
    labels: Counts,
    pairs: pd.DataFrame,
    memorization: pd.DataFrame,
    *,
    threshold: float,
) -> pd.DataFrame:
    """Return one row per target: is it atypical, and which atypical training sample influences it most.

    A target is atypical when one of ``pairs`` (of ``influence_table``) has it, is significant and passes the threshold.
    ``max_influence``, and ``memorization``, that of the training sample behind it, are missing where the target's class
    has no atypical training sample; of several with the same influence the one with the lowest index is named.
    correct: (models, t); index, labels: (t,); memorization: of ``memorization_table``.
    """
    falling = pairs.sort_values(["influence", "train_index"], ascending=[False, True])
    strongest = falling.drop_duplicates("target_index").set_index("target_index").reindex(index)
    chosen = pairs[pairs["significant"] & (pairs["influence"] > threshold)]
    source = strongest["train_index"].astype("Int64")
    return pd.DataFrame(
        {
            "target_index": index,
            "label": labels,
            "accuracy": correct.mean(0),
            "models": len(correct),
            "max_influence": strongest["influence"].to_numpy(),
            "max_influence_train_index": source.to_numpy(),
            "memorization": source.map(memorization.set_index("train_index")["memorization"]).to_numpy(np.float64),
            "atypical": np.isin(index, chosen["target_index"]),
        }
    )


def _discoveries(p_values: Floats, rate: float) -> Bools:
    """Return which tests pass the Benjamini-Hochberg procedure over all that have a p-value: (n,) bool."""
    known = ~np.isnan(p_values)
    passed = np.zeros(len(p_values), dtype=bool)
    if known.any():
        from scipy.stats import false_discovery_control

        passed[known] = false_discovery_control(p_values[known]) <= rate
    return passed
