"""Memorization and influence (Feldman and Zhang 2020, arXiv 2008.03703): estimators and tests. Pure arrays.

Model k is trained on the samples of row k of a mask M (models x training samples); C says which samples model k
classifies correctly. Then, for a training sample i and any sample j,

    memorization(i)   = mean of C[k, i] where M[k, i]  -  mean of C[k, i] where not M[k, i]
    influence(i -> j) = mean of C[k, j] where M[k, i]  -  mean of C[k, j] where not M[k, i]

Soft scores have P[k, j], the probability that model k gives to the label of j, in the place of C[k, j]: the same two
means of a quantity that is not rounded to right or wrong, so that fewer models do. They estimate another thing, an
expected probability, and stand beside the hard ones.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
        with np.errstate(invalid="ignore"):
            # whole numbers, so the one division is all that rounds: 17/20 - 14/20 would be a little more than 0.15
            difference: Floats = (self.correct_in * self.n_out - self.correct_out * self.n_in) / (
                self.n_in * self.n_out
            )
        return difference


class Means(NamedTuple):
    """Sums and sums of squares of probabilities, and models, with a training sample in the subset and with it left out.

    Sums are exact: probabilities are float16, multiples of 2^-24, and float64 holds a sum of 2^29 of them.
    """

    sum_in: Floats
    squares_in: Floats
    n_in: Counts
    sum_out: Floats
    squares_out: Floats
    n_out: Counts

    @property
    def difference(self) -> Floats:
        """Mean in - mean out; NaN where a number of models is 0."""
        with np.errstate(invalid="ignore"):
            difference: Floats = self.sum_in / self.n_in - self.sum_out / self.n_out
        return difference

    def variances(self) -> tuple[Floats, Floats]:
        """Return the variances of the two means, from sample variances; NaN for fewer than two models."""
        sides = (self.sum_in, self.squares_in, self.n_in), (self.sum_out, self.squares_out, self.n_out)
        with np.errstate(invalid="ignore"):
            # what rounding leaves of a variance of 0 must not be negative
            first, second = (np.maximum(squares - sums**2 / n, 0.0) / (n - 1) / n for sums, squares, n in sides)
        return np.where(self.n_in > 1, first, np.nan), np.where(self.n_out > 1, second, np.nan)

    def interval(self, *, confidence: float) -> tuple[Floats, Floats]:
        """Return an interval (low, high) of the difference; NaN for fewer than two models on a side.

        Newcombe's, with as many right and wrong answers as would make the variance of each mean: n / d of them, where
        d is the variance of the probabilities as a share of mean (1 - mean), that of right and wrong answers. One more
        model with the largest variance, 1/4, counts for both, since models that are all sure have said nothing yet of
        the rare one that is not. Where probabilities are 0 and 1, d is 1: the interval of the hard score.

        An interval of t with Welch's degrees of freedom holds the value in 67 to 82 of 100 samples where it says 95:
        it has no width where the models seen happen to agree (``benchmarks/precision.py``).
        """
        sides = []
        for variance, sums, n in zip(
            self.variances(), (self.sum_in, self.sum_out), (self.n_in, self.n_out), strict=True
        ):
            with np.errstate(invalid="ignore"):
                mean = sums / n
                share = (variance * n**2 + 0.25) / (n * mean * (1 - mean) + 0.25)
                answers = n / np.minimum(share, 1.0)
            sides += [mean * answers, answers]
        return newcombe(*sides, confidence=confidence)


def welch(means: Means) -> tuple[Floats, Floats]:
    """Return the standard error of the difference and Welch's degrees of freedom (Welch 1947)."""
    first, second = means.variances()
    with np.errstate(invalid="ignore"):
        freedom = (first + second) ** 2 / (first**2 / (means.n_in - 1) + second**2 / (means.n_out - 1))
    return np.sqrt(first + second), freedom


def welch_p_value(difference: Floats, error: Floats, freedom: Floats) -> Floats:
    """Return the one-sided p-value of a difference over 0 by Welch's t-test; NaN where the error is.

    Where neither side varies it is 0 for a difference over 0 and else 1, as the limit of an error that falls to 0.
    """
    from scipy.special import stdtr

    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = stdtr(freedom, -difference / error)
    return np.where(error == 0, np.where(difference > 0, 0.0, 1.0), p_value)


def memorization_means(mask: Bools, probability: NDArray[Any]) -> Means:
    """Sum, for each training sample, the probabilities of its label. mask, probability: (models, n)."""
    p = probability.astype(np.float64)
    n_in = mask.sum(0)
    inside = np.where(mask, p, 0.0)
    sum_in, squares_in = inside.sum(0), (inside * inside).sum(0)
    outside = p - inside
    return Means(sum_in, squares_in, n_in, outside.sum(0), (outside * outside).sum(0), len(mask) - n_in)


def influence_means(mask: Bools, probability: NDArray[Any], counted: Bools | None = None) -> Means:
    """Sum, for each pair, the probabilities of the target's label. As ``influence_rates``: arrays (n, t)."""
    with_sample = mask.T.astype(np.float64)
    p = probability.astype(np.float64)
    if counted is None:
        n_in = np.repeat(mask.sum(0)[:, None], p.shape[1], axis=1)
        models = np.full(p.shape[1], len(mask))
    else:
        p = np.where(counted, p, 0.0)
        n_in = (mask.T.astype(np.float32) @ counted).astype(np.int64)
        models = counted.sum(0)
    squares = p * p
    sum_in, squares_in = with_sample @ p, with_sample @ squares
    return Means(sum_in, squares_in, n_in, p.sum(0) - sum_in, squares.sum(0) - squares_in, models - n_in)


def memorization_rates(mask: Bools, correct: Bools) -> Rates:
    """Count, for each training sample, the models that classify it correctly. mask, correct: (models, n)."""
    n_in = mask.sum(0)
    correct_in = (mask & correct).sum(0)
    total = correct.sum(0)
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
        n_in = np.repeat(mask.sum(0)[:, None], correct.shape[1], axis=1)
    else:
        n_in = (with_sample @ counted).astype(np.int64)
    right = correct & counted
    correct_in = (with_sample @ right).astype(np.int64)
    total, models = right.sum(0), counted.sum(0)
    return Rates(correct_in, n_in, total - correct_in, models - n_in)


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
        ValueError: the arrays are not bool, not of one shape (models, n) or masked, or confidence is out of (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a number between 0 and 1, as in 0.95")
    if any(isinstance(array, np.ma.MaskedArray) for array in (mask, correct)):
        raise ValueError("a masked array, whose gaps would count: give plain arrays of what is known of all models")
    mask, correct = np.asarray(mask), np.asarray(correct)
    if mask.ndim != 2 or mask.shape != correct.shape or mask.dtype != np.bool_ or correct.dtype != np.bool_:
        found = f"mask is {mask.dtype} of shape {mask.shape}, correct {correct.dtype} of shape {correct.shape}"
        raise ValueError(f"{found}: give bool arrays of one shape (models, n)")
    rates = memorization_rates(mask, correct)
    counts = (rates.correct_in, rates.n_in, rates.correct_out, rates.n_out)
    low, high = newcombe(*counts, confidence=confidence)
    with np.errstate(invalid="ignore"):
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


def memorization_table(mask: Bools, correct: Bools, probability: NDArray[Any], *, confidence: float) -> pd.DataFrame:
    """Return one row per training sample: as ``memorization_scores``, and the same of the soft score.

    probability: (models, n), float16, that each model gives to each sample's label.
    """
    soft = memorization_means(mask, probability)
    error, _ = welch(soft)
    low, high = soft.interval(confidence=confidence)
    with np.errstate(invalid="ignore"):
        soft_in, soft_out = soft.sum_in / soft.n_in, soft.sum_out / soft.n_out
    return memorization_scores(mask, correct, confidence=confidence).assign(
        soft_memorization=soft.difference,
        soft_standard_error=error,
        soft_ci_low=low,
        soft_ci_high=high,
        soft_p_in=soft_in,
        soft_p_out=soft_out,
    )


def fit_text(table: pd.DataFrame) -> str | None:
    """Say how far subset models fit what they were trained on, which is the most that memorization can be.

    table: as of ``memorization_scores``; None where no sample is known both ways, as with scores from a file.
    """
    known = table[["p_in", "p_out"]].dropna()
    if known.empty:
        return None
    missed = int((known["p_in"] < 0.5).sum())
    return (
        f"subset models are right on {known['p_in'].mean():.1%} of what they were trained on and on "
        f"{known['p_out'].mean():.1%} of what they were not; {missed} training samples are wrong in most models "
        "trained on them" + (", which hides their memorization: raise memorization.recipe.epochs" if missed else "")
    )


def over_threshold(table: pd.DataFrame, score: str, threshold: float) -> Bools:
    """Return which rows of ``memorization_table`` have a memorization over the threshold, by the hard or soft score."""
    over: Bools = (table[score_column(score)] > threshold).to_numpy()
    return over


def score_column(score: str) -> str:
    """Return the name of the column of ``memorization_table`` that holds a score, hard or soft."""
    return "soft_memorization" if score == "soft" else "memorization"


def error_column(score: str) -> str:
    """Return the name of the column of ``memorization_table`` with the standard error of a score, hard or soft."""
    return "soft_standard_error" if score == "soft" else "standard_error"


def mean_table(correct: Bools, probability: NDArray[Any]) -> pd.DataFrame:
    """Return the share of models that are right of each sample, and the mean probability of its label, over all models.

    correct, probability: (models, t).
    """
    return pd.DataFrame({"accuracy": correct.mean(0), "soft_accuracy": probability.mean(0, dtype=np.float64)})


def taken_for(predicted: NDArray[Any], counted: Bools | None, classes: int) -> pd.DataFrame:
    """Return what models take samples for: the most frequent class, its share of the models, and the entropy, in nats.

    predicted: (models, n), where ``classes`` stands for no class; counted: (models, n), which models count for a
    sample, all by default. Of classes that are equally frequent the first. Without any model the values are missing.
    """
    n = predicted.shape[1]
    place = predicted.astype(np.int64) + (classes + 1) * np.arange(n)
    chosen = place if counted is None else place[counted]
    counts = np.bincount(chosen.ravel(), minlength=n * (classes + 1)).reshape(n, classes + 1)
    total = counts.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / total[:, None]
        logs = np.where(counts > 0, shares * np.log(shares), 0.0)
    most = counts[:, :classes].argmax(1)
    known = total > 0
    return pd.DataFrame(
        {
            "taken_for": pd.Series(most, dtype="Int64").where(known),
            "taken_for_share": np.where(known, shares[np.arange(n), most], np.nan),
            "entropy": np.where(known, 0.0 - logs.sum(1), np.nan),  # not -logs: no negative zero
        }
    )


class FoundPairs(NamedTuple):
    """Influence of training samples on targets of their class.

    pairs: rows over the threshold, sorted by training sample and target; strongest: by target, influence and
    train_index of the training sample with the highest influence (of equal ones the lowest index); tests: how many
    pairs there are; significant: how many of them are, by the test of the hard and of the soft influence.
    """

    pairs: pd.DataFrame
    strongest: pd.DataFrame
    tests: int
    significant: tuple[int, int]


_PAIRS = 4_000_000
"""Pairs whose sums are in memory at once."""


class InfluenceFinder:
    """Collects the influence of pairs, class by class, and tests them all together.

    false_discovery_rate: of the Benjamini-Hochberg procedure over all pairs; over: only pairs of a (hard) influence
    over this become rows, but all are tested and counted.
    """

    def __init__(self, *, false_discovery_rate: float, over: float) -> None:
        self._rate, self._over = false_discovery_rate, over
        self._rows: list[pd.DataFrame] = []
        self._strongest: list[pd.DataFrame] = []
        self._tests = 0
        # p-values over the rate are never significant: their number is all that matters
        self._known = [0, 0]
        self._small: tuple[list[Floats], list[Floats]] = ([], [])

    def add(
        self,
        mask: Bools,
        correct: Bools,
        probability: NDArray[Any],
        *,
        label: int,
        train_index: Counts,
        target_index: Counts,
        counted: Bools | None = None,
    ) -> None:
        """Add all pairs of training samples and targets of a class.

        mask: (models, n); correct, probability: (models, t); train_index: (n,); target_index: (t,); counted as in
        ``influence_rates``. For targets that are training samples give ``counted = ~mask`` of the targets: models that
        were trained on a target have memorized it, and would dilute what its neighbours do for it. A sample is no
        target of its own.
        """
        if not len(train_index):
            return
        step = max(1, _PAIRS // len(train_index))
        if len(target_index) > step:
            for first in range(0, len(target_index), step):
                some = slice(first, first + step)
                self.add(
                    mask,
                    correct[:, some],
                    probability[:, some],
                    label=label,
                    train_index=train_index,
                    target_index=target_index[some],
                    counted=None if counted is None else counted[:, some],
                )
            return
        rates, means = influence_rates(mask, correct, counted), influence_means(mask, probability, counted)
        source, target = np.broadcast_arrays(train_index[:, None], target_index)
        other = source != target if counted is not None else np.ones(source.shape, dtype=bool)
        influence = rates.difference
        self._tests += int(other.sum())
        self._keep_strongest(np.where(other, influence, np.nan), train_index, target_index)

        soft = means.difference
        error, freedom = welch(means)
        over = other & (influence > self._over)
        values: list[Floats] = []
        for kind, difference, known in (
            (0, influence, (rates.n_in > 0) & (rates.n_out > 0)),
            (1, soft, ~np.isnan(error)),
        ):
            known = known & other
            self._known[kind] += int(known.sum())
            # a p-value under a half needs a difference over 0; rows have theirs in any case
            wanted = over | (known & ((difference > 0) | (self._rate >= 0.5)))
            p_value = np.full(influence.shape, np.nan)
            if kind:
                p_value[wanted] = welch_p_value(soft[wanted], error[wanted], freedom[wanted])
            else:
                p_value[wanted] = greater_p_value(*(count[wanted] for count in rates))
            self._small[kind].append(p_value[p_value <= self._rate])
            values.append(p_value[over])
        self._rows.append(
            pd.DataFrame(
                {
                    "train_index": source[over],
                    "target_index": target[over],
                    "label": label,
                    "influence": influence[over],
                    "standard_error": standard_error(*(count[over] for count in rates)),
                    "p_value": values[0],
                    "soft_influence": soft[over],
                    "soft_standard_error": error[over],
                    "soft_p_value": values[1],
                }
            )
        )

    def _keep_strongest(self, influence: Floats, train_index: Counts, target_index: Counts) -> None:
        order = np.argsort(train_index)
        known = np.where(np.isnan(influence[order]), -np.inf, influence[order])
        best = known.argmax(0)
        highest = known[best, np.arange(len(target_index))]
        there = highest > -np.inf
        self._strongest.append(
            pd.DataFrame(
                {
                    "target_index": target_index[there],
                    "influence": highest[there],
                    "train_index": train_index[order][best][there],
                }
            )
        )

    def result(self) -> FoundPairs:
        """Test all pairs that were added together."""
        names = ["train_index", "target_index", "label", "influence", "standard_error", "p_value"]
        empty = pd.DataFrame({name: pd.Series(dtype=np.int64 if n < 3 else np.float64) for n, name in enumerate(names)})
        empty = empty.assign(**{f"soft_{name}": empty[name] for name in names[3:]})
        pairs = pd.concat([empty, *self._rows]) if any(map(len, self._rows)) else empty
        counts = []
        for kind, prefix in enumerate(("", "soft_")):
            limit, count = _limit(self._small[kind], self._known[kind], self._rate)
            pairs[f"{prefix}significant"] = pairs[f"{prefix}p_value"].to_numpy() <= limit
            counts.append(count)
        pairs = pairs.sort_values(["train_index", "target_index"], ignore_index=True)
        strongest = _strongest(pd.concat([empty[["target_index", "influence", "train_index"]], *self._strongest]))
        return FoundPairs(pairs, strongest, self._tests, (counts[0], counts[1]))


def found_pairs(pairs: pd.DataFrame) -> FoundPairs:
    """Return pairs of an imported file as if they had been found; what is soft about them is unknown."""
    known = pairs.assign(soft_significant=False)
    return FoundPairs(known, _strongest(known), len(known), (int(known["significant"].sum()), 0))


def _strongest(pairs: pd.DataFrame) -> pd.DataFrame:
    falling = pairs.sort_values(["influence", "train_index"], ascending=[False, True])
    first = falling.drop_duplicates("target_index")
    return first.set_index("target_index")[["influence", "train_index"]]


def null_pairs_row(found: FoundPairs) -> dict[str, int]:
    """Count the pairs: all, those over the threshold, and by each test the significant ones, and those that are both.

    found are those over the threshold and significant; targets, the samples that these make atypical.
    """
    row = {"pairs": found.tests, "over_threshold": len(found.pairs)}
    for kind, count in zip(("", "soft_"), found.significant, strict=True):
        both = found.pairs.loc[found.pairs[f"{kind}significant"], "target_index"]
        row |= {f"{kind}significant": count, f"{kind}found": len(both), f"{kind}targets": both.nunique()}
    return row


def shuffled(models: int, shuffles: int, *, seed: int) -> Iterator[Counts]:
    """Yield orders of models: first as it is, then so many shuffles."""
    yield np.arange(models)
    for shuffle in range(1, shuffles + 1):
        yield np.random.default_rng(derive_seed(seed, "null", shuffle)).permutation(models)


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
    n_in = mask.sum(0)
    n_out = len(mask) - n_in
    table = scores[["train_index", "label", "memorization"]].reset_index(drop=True)
    table = table.assign(models=len(mask), n_in=n_in, n_out=n_out)
    for metric, values in right.items():
        # whole numbers: models that are all alike have an effect of 0 and no variance, not what rounding leaves
        total_in, squares_in = values @ mask, values**2 @ mask
        total_out, squares_out = values.sum() - total_in, (values**2).sum() - squares_in
        with np.errstate(invalid="ignore"):
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
    found: FoundPairs,
    index: Counts,
    labels: Counts,
    memorization: pd.DataFrame,
    *,
    threshold: float,
    soft: bool = False,
) -> pd.DataFrame:
    """Return one row per target: is it atypical, and which atypical training sample influences it most.

    A target is atypical when one of the pairs that were found has it, is significant and passes the threshold; soft: by
    the test of the soft influence, and with soft memorization. ``max_influence``, and ``memorization``, that of the
    training sample behind it, are missing where the target's class has no atypical training sample. index, labels:
    (t,); memorization: of ``memorization_table``.
    """
    strongest = found.strongest.reindex(index)
    over = found.pairs[found.pairs["influence"] > threshold]
    hard_atypical, soft_atypical = (
        np.isin(index, over.loc[over[f"{kind}significant"].to_numpy(bool), "target_index"]) for kind in ("", "soft_")
    )
    source = strongest["train_index"]
    memorized = memorization.set_index("train_index")[score_column("soft" if soft else "hard")]
    return pd.DataFrame(
        {
            "target_index": index,
            "label": labels,
            "max_influence": strongest["influence"].to_numpy(),
            "max_influence_train_index": source.to_numpy(),
            "memorization": source.map(memorized).to_numpy(np.float64),
            "atypical": soft_atypical if soft else hard_atypical,
            "hard_atypical": hard_atypical,
            "soft_atypical": soft_atypical,
        }
    )


def _limit(small: Sequence[Floats], tests: int, rate: float) -> tuple[float, int]:
    """Return the largest p-value that the Benjamini-Hochberg procedure over so many tests rejects, and how many.

    small: the p-values, of which those over the rate may be left out; -1.0 where none is rejected.
    """
    values = np.sort(np.concatenate(small)) if small else np.empty(0)
    # in this order of operations a p-value that meets its level exactly is rejected
    passed = values * tests / np.arange(1, len(values) + 1) <= rate
    last = int(passed.nonzero()[0].max(initial=-1))
    return (float(values[last]), last + 1) if last >= 0 else (-1.0, 0)


def _discoveries(p_values: Floats, rate: float) -> Bools:
    """Return which tests pass the Benjamini-Hochberg procedure over all that have a p-value: (n,) bool."""
    known = p_values[~np.isnan(p_values)]
    limit, _ = _limit([known], len(known), rate)
    return p_values <= limit
