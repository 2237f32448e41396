"""Which training samples a run leaves out, and which a method takes for atypical. Pure arrays."""

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pandas as pd

from bat.config import PROXIES, Bat, BatMart, BatTrades, Dpls, Method, OwnMethod, Without
from bat.errors import BatError
from bat.seeds import derive_seed
from bat.statistics import Bools, Floats


def removed(
    scores: pd.DataFrame,
    without: Without,
    harmful: pd.DataFrame | None,
    hardest: pd.DataFrame | None = None,
    *,
    seed: int,
) -> Bools:
    """Return which training samples a run is trained without: (n,) bool, in the order of ``scores``.

    Of samples that are memorized alike the first ones of ``scores`` count as the most memorized, and of those with one
    loss as the hardest. scores: of ``memorization_table``; harmful: of ``harmful_table``, needed for harmful and benign
    samples; hardest: of ``hardest_table``, needed for the hardest. Random
    samples are drawn by ``seed`` among those that are not named, class by class as many as are named; where a class
    has too few others, the rest comes from all classes, and where all have too few, the others are all that is drawn.

    Raises:
        BatError: ``harmful`` or ``hardest`` is needed and None.
    """
    named = _named(scores, without, harmful, hardest)
    if not without.random:
        return named
    random = np.random.default_rng(derive_seed(seed, "without", without.name))
    labels = scores["label"].to_numpy()
    order = random.permutation(np.flatnonzero(~named))
    chosen = np.zeros(len(scores), dtype=bool)
    for label in np.unique(labels[named]):
        chosen[order[labels[order] == label][: (named & (labels == label)).sum()]] = True
    rest = order[~chosen[order]]
    chosen[rest[: named.sum() - chosen.sum()]] = True
    return chosen


def atypical_for(
    scores: pd.DataFrame | None,
    robust: pd.DataFrame | None,
    method: Method,
    *,
    seed: int,
    proxies: pd.DataFrame | None = None,
) -> Bools | None:
    """Return which training samples a method takes for atypical, (n,) bool; None for a method that reads no score.

    By memorization; shuffled among all samples, a control, by ``seed``; by 1 - consistency, the share of the models
    without a sample that get it wrong (Jiang et al. 2021 estimate it over several subset fractions); by memorization
    under attack, in ``robust``, a table like ``scores``. A sample without a score is typical. Or by a proxy, a column
    of ``proxies``: those with the highest values, as many as memorization has over the threshold, since a proxy has a
    scale of its own; of equal ones the first.

    Raises:
        BatError: the table of the method's score is None, or it is consistency and no sample has one, as where the
            scores come from a file.
    """
    if not isinstance(method, Bat | BatTrades | BatMart | OwnMethod) or method.score is None:
        return None
    table = _scored(scores, robust, method)
    if method.score == "consistency":
        # 1 - p_out is rounded: 1 - 17/20 is a little more than 0.15
        consistent: Bools = table["p_out"].to_numpy() < float(1 - Decimal(str(method.threshold)))
        return consistent
    if method.score in PROXIES:
        if proxies is None:
            raise BatError(f"method {method.name}: its score needs --proxies, of stage proxies")
        number = (table["memorization"].to_numpy() > method.threshold).sum()
        top = (-proxies[method.score].to_numpy()).argsort(kind="stable")[:number]
        return np.isin(np.arange(len(table)), top)
    chosen: Bools = _values(table, method, seed) > method.threshold
    return chosen


def difficulty_for(
    scores: pd.DataFrame | None, robust: pd.DataFrame | None, method: Method, *, seed: int
) -> Floats | None:
    """Return each training sample's difficulty for a method, (n,) in [0, 1]; None for a method that reads none.

    It is the method's score, as in ``atypical_for``, clipped; 0 without a score. That Lee et al. 2025 may be followed
    with memorization as difficulty is the project's reading. Raises as ``atypical_for``.
    """
    if not isinstance(method, Dpls):
        return None
    difficulty: Floats = np.nan_to_num(_values(_scored(scores, robust, method), method, seed).clip(0, 1))
    return difficulty


def harmful_table(samples: Sequence[pd.DataFrame], *, threshold: float) -> pd.DataFrame:
    """Return one row per atypical training sample: is it harmful, that is, attacked to a confidently wrong class?

    samples: of each seed, rows of epochs and atypical samples as of ``records.samples_table``.
    wrong_probability is the mean of q over seeds and the last half of epochs, wrong_share the share of these in which
    the sample was misclassified; harmful where wrong_probability is over ``threshold``.
    """
    late = [table[table["epoch"] > table["epoch"].max() / 2] for table in samples]
    rows = pd.concat(late, ignore_index=True)
    rows["wrong_share"] = (rows["wrong_probability"] > 0).astype(float)
    keys = ["train_index", "label", "memorization"]
    table: pd.DataFrame = rows.groupby(keys, as_index=False)[["wrong_probability", "wrong_share"]].mean()
    return table.assign(harmful=table["wrong_probability"] > threshold)


def hardest_table(scores: pd.DataFrame, losses: Sequence[Floats]) -> pd.DataFrame:
    """Return one row per training sample: its loss under attack, the mean over seeds and the last half of epochs.

    scores: one row per training sample, with train_index and label; losses: of each seed, (epochs, n), of
    ``records.late_losses``. Liu et al. 2024 (arXiv 2112.07324) call samples hard by their loss in training; the mean
    over seeds and late epochs is the project's reading.
    """
    return scores[["train_index", "label"]].assign(adversarial_loss=np.concatenate(losses).mean(axis=0))


def _scored(
    scores: pd.DataFrame | None, robust: pd.DataFrame | None, method: Bat | BatTrades | BatMart | Dpls | OwnMethod
) -> pd.DataFrame:
    """Return the table that has a method's score.

    Raises:
        BatError: it is None, or has nothing of the score.
    """
    table, source = scores, "--memorization, of stage scores"
    if method.score == "robust_memorization":
        table, source = robust, "--robust-memorization, of stage robust-scores"
    if table is None:
        raise BatError(f"method {method.name}: its score needs {source}")
    if method.score == "consistency" and table["p_out"].isna().all():
        raise BatError(
            f"method {method.name}: score is consistency, but the scores have no p_out: take memorization, or estimate "
            "the scores (scores.source: subsets)"
        )
    return table


def _values(table: pd.DataFrame, method: Bat | BatTrades | BatMart | Dpls | OwnMethod, seed: int) -> Floats:
    """Return each sample's score, (n,), NaN without one."""
    if method.score == "consistency":
        return 1 - table["p_out"].to_numpy(float)
    value = table["memorization"].to_numpy(float)
    if method.score == "shuffled":
        value = np.random.default_rng(derive_seed(seed, "shuffled")).permutation(value)
    return value


def _named(scores: pd.DataFrame, without: Without, harmful: pd.DataFrame | None, hardest: pd.DataFrame | None) -> Bools:
    if without.what == "atypical":
        return scores["atypical"].to_numpy(bool)
    if without.what == "top":
        return _highest(scores["memorization"], without)
    if without.what == "hardest":
        if hardest is None:
            raise BatError("hardest samples need the table of losses: give --hardest, from stage hardest")
        losses = hardest.set_index("train_index")["adversarial_loss"]
        return _highest(losses.reindex(scores["train_index"]), without)
    if harmful is None:
        raise BatError(f"{without.what} samples need the table of harmful samples: give --harmful, from stage harmful")
    chosen = harmful["harmful"] == (without.what == "harmful")
    return np.isin(scores["train_index"], harmful.loc[chosen, "train_index"])


def _highest(values: "pd.Series[float]", without: Without) -> Bools:
    """Return which samples have the highest values, as many as the fraction says; none without a value."""
    if without.fraction is None:
        raise ValueError(f"{without.name} samples need a fraction")
    # of the decimal as written: 0.575 * 100 is a little less than 57.5
    count = round(Decimal(str(without.fraction)) * len(values))
    named = np.zeros(len(values), dtype=bool)
    named[(-values.to_numpy()).argsort(kind="stable")[:count]] = True
    return named & values.notna().to_numpy()
