"""How precise scores from K subset models are, and how many models a precision takes."""

import math

import pandas as pd


def worst_standard_error(models: int, fraction: float) -> float:
    """Return the largest standard error that memorization and influence can have with so many subset models.

    Both are differences of two means of 0 or 1, one over fraction * models models and one over the others; the variance
    of a mean is at most 1/4 over their number. With fraction = 0.7 this is 1.09 / sqrt(models).
    """
    return math.sqrt(_worst_variance_of_one(fraction) / models)


def models_for(standard_error: float, fraction: float) -> int:
    """Return the least number of subset models whose worst standard error is at most ``standard_error``."""
    # 1e-9: a whole number must not become the next one by rounding
    return math.ceil(_worst_variance_of_one(fraction) / standard_error**2 * (1 - 1e-9))


def models_to_find(influence: float, fraction: float, *, pairs: int, false_discovery_rate: float) -> int | None:
    """Return the least number K of subset models with which an influence this large is significant; None if it is 0.

    The z-test's standard error is at most sqrt(v / K) with v = 0.25 / fraction + 0.25 / (1 - fraction), and a pair that
    is the only one found among ``pairs`` needs a p-value of at most q = false_discovery_rate / pairs (Benjamini and
    Hochberg's first step), so K = v (z / influence)^2 with z the normal quantile of 1 - q. Where many pairs have an
    influence, or a sample is nearly always or never right, fewer models do. This is of the influence that is measured:
    a true one of that size is measured at or over it in half of all cases.
    """
    if influence <= 0:
        return None
    from scipy.special import ndtri

    z = max(float(-ndtri(false_discovery_rate / pairs)), 0.0)
    return max(math.ceil(_worst_variance_of_one(fraction) * (z / influence) ** 2 * (1 - 1e-9)), 1)


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


def _worst_variance_of_one(fraction: float) -> float:
    return 0.25 / fraction + 0.25 / (1 - fraction)
