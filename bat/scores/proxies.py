"""Proxies of memorization that cost nothing: what natural training records of samples, and how it agrees with scores.

They do not follow how memorization changes with the size of a network (Lukasik et al., arXiv 2310.05337).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bat.config import PROXIES
from bat.config.specs import ProxiesSpec
from bat.data.dataset import DataSet
from bat.data.saved import load_data
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Parquet
from bat.io.tables import check_labels, check_one_data_set, read_table_with_facts, write_table
from bat.scores.agreement import auc, precision, spearman
from bat.scores.estimators import memorization_table, score_column
from bat.scores.shards import Shards, class_by_class, in_order, open_shards
from bat.statistics import Bools, Counts, Floats
from bat.training.records import unpacked

HALF = "half of the subset models"
"""What stands in the place of a proxy where one half of the subset models is compared with the other."""


def proxies_of_run(loss: Floats, correct: Bools, error: Floats, epoch: Counts) -> pd.DataFrame:
    """Return the proxies of one run of natural training: one row per sample, each higher for what is more memorized.

    loss, correct, error: (epochs, n) of the measured epochs, as ``measure`` has them; epoch: (epochs,) their numbers
    from 1.

    csl: the sum of the losses (Ravikumar et al. 2025). lt_iqr: the interquartile range of the losses (arXiv
    2411.05743). forgetting: from how many epochs to the next the sample goes from right to wrong (Toneva et al. 2019);
    one that is never right has the number of epochs, more than any other. first_learned: the first epoch in which it is
    right, one after the last if none is. early_loss, el2n: the loss, and the norm of the error of the probabilities
    (Paul et al. 2021), at the first epoch that has a tenth of training behind it. final_loss: of the last epoch.
    """
    loss = loss.astype(np.float64)
    low, high = np.quantile(loss, [0.25, 0.75], axis=0)
    early = (epoch * 10 >= epoch[-1]).argmax()
    learned = correct.any(axis=0)
    return pd.DataFrame(
        {
            "csl": loss.sum(axis=0),
            "lt_iqr": high - low,
            "forgetting": np.where(learned, (correct[:-1] & ~correct[1:]).sum(axis=0), len(epoch)),
            "first_learned": np.where(learned, epoch[correct.argmax(axis=0)], epoch[-1] + 1),
            "early_loss": loss[early],
            "el2n": error[early].astype(np.float64),
            "final_loss": loss[-1],
        }
    )


def agreement_rows(
    proxy: str,
    scores: Mapping[str, tuple[Floats, Floats]],
    *,
    threshold: float,
    confidence: float,
    bootstrap: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return how well a proxy agrees with memorization: a row per score and metric.

    scores: by kind of score, hard or soft, the proxy and the memorization, (n,) each; samples without one of them do
    not count, and a kind without any sample has no row. Spearman's correlation; AUC and precision for the samples whose
    memorization is over the threshold.
    """
    rows = []
    resampling: dict[str, Any] = {"confidence": confidence, "resamples": bootstrap, "seed": seed}
    for kind, (value, reference) in scores.items():
        known = ~(np.isnan(value) | np.isnan(reference))
        if not known.any():
            continue
        value, reference = value[known], reference[known]
        atypical = reference > threshold
        found = {
            "spearman": spearman(value, reference, **resampling),
            "auc": auc(value, atypical, **resampling),
            "precision": precision(value, atypical, **resampling),
        }
        about = {"proxy": proxy, "score": kind, "samples": len(value), "atypical": int(atypical.sum())}
        rows += [
            about | {"metric": metric, "value": each.value, "ci_low": each.low, "ci_high": each.high}
            for metric, each in found.items()
        ]
    return rows


def half_scores(shards: Shards, samples: DataSet) -> dict[str, tuple[Floats, Floats]]:
    """Return memorization by the first and by the second half of the subset models, (n,) each, by kind of score."""
    tables: tuple[list[pd.DataFrame], list[pd.DataFrame]] = ([], [])
    cut = shards.models // 2
    for one in class_by_class(shards, samples, ("correct", "p")):
        columns = [one.columns[name] for name in ("in_subset", "correct_train", "p_train")]
        for half, mine in zip((slice(cut), slice(cut, None)), tables, strict=True):
            # intervals are not read: their level is any
            table = memorization_table(*(values[half] for values in columns), confidence=0.95)
            mine.append(table.assign(index=one.index["train"]))
    first, second = (in_order(mine, samples.train) for mine in tables)
    return {
        kind: (first[score_column(kind)].to_numpy(), second[score_column(kind)].to_numpy()) for kind in ("hard", "soft")
    }


def proxies(
    journal: Journal,
    *,
    spec: ProxiesSpec,
    data: Path,
    memorization: Path,
    records: list[Path],
    shards: list[Path] | None = None,
    proxies: Parquet,
    proxy_agreement: Parquet,
) -> None:
    """Write the proxies of memorization that natural training records, and how they agree with memorization.

    records: records.parquet of each seed of natural training
    shards: those that memorization was estimated from, for how one half of the models agrees with the other
    proxies: one row per training sample, means over the runs
    proxy_agreement: one row per proxy, score and metric
    """
    samples, digest = load_data(data, "cpu")
    check_one_data_set(memorization, *records, data=(data, digest))
    scores, scored = read_table_with_facts(memorization, "memorization")
    train = samples.train
    check_labels(memorization, scores, "train_index", train.index.numpy(), train.labels.numpy())
    about: dict[str, Any] = {"spec": asdict(spec), "data": digest, "models": scored["models"]}
    options = asdict(spec)
    with journal.work():
        runs = pd.concat([_of_file(path, len(train)) for path in records])
        mean = runs.groupby(level=0).mean()
        rows = []
        for name in journal.bar(PROXIES, len(PROXIES), "proxies"):
            value = mean[name].to_numpy()
            kinds = {kind: (value, scores[score_column(kind)].to_numpy(np.float64)) for kind in ("hard", "soft")}
            rows += agreement_rows(name, kinds, **options)
        if shards:
            models = open_shards(shards, data, samples, digest)
            models.check_scores(memorization, scored)
            rows += agreement_rows(HALF, half_scores(models, samples), **options)
    table = scores[["train_index", "label"]].join(mean)
    write_table(proxies, "proxies", table, provenance("proxies", **about))
    agreement = pd.DataFrame(rows).assign(runs=len(records), models=scored["models"])
    for row in agreement[(agreement["metric"] == "auc") & (agreement["score"] == "hard")].itertuples():
        journal.line(f"{row.proxy}: AUC {row.value:.3f} for the {row.atypical} atypical training samples")
    write_table(proxy_agreement, "proxy_agreement", agreement, provenance("proxy_agreement", **about))


def _of_file(path: Path, samples: int) -> pd.DataFrame:
    """Read the records of a run and return its proxies.

    Raises:
        BatError: the run is not of natural training on all samples, or the file is not sound; names it.
    """
    table, facts = read_table_with_facts(path, "records")
    spec = facts["spec"]
    if spec["method"]["objective"] != "natural" or spec["without"]:
        raise BatError(f"{path}: of method {spec['method']['name']}: give records of natural training on all samples")
    loss, correct, error = (
        unpacked(table, f"train_clean_{name}", samples, path) for name in ("loss", "correct", "error")
    )
    return proxies_of_run(loss, correct, error, table.loc[table["train_clean_loss"].notna(), "epoch"].to_numpy())
