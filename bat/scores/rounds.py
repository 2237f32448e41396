"""Subset models in rounds, until the scores near the threshold are precise."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from bat.config.specs import EnoughSpec
from bat.data.saved import load_data
from bat.io.files import provenance, replacing
from bat.io.journal import Journal
from bat.io.outputs import Json
from bat.scores.estimators import error_column, memorization_table, score_column
from bat.scores.shards import class_by_class, open_shards
from bat.statistics import ROUNDING, Floats


def enough(journal: Journal, *, spec: EnoughSpec, data: Path, shards: list[Path], enough: Json) -> None:
    """Say whether the scores near the threshold are as precise as memorization.until asks.

    enough: a JSON object: enough, true or false; models; near, how many training samples are near the threshold; and
        standard_error, which the asked share of them has at most, null where there is none

    Example:
        bat enough --data data.safetensors --shards shard-000.parquet shard-001.parquet --enough enough.json \\
            --spec '{"score": "hard", "threshold": 0.15, "standard_error": 0.05, "quantile": 0.9}'
    """
    samples, digest = load_data(data, "cpu")
    models = open_shards(shards, data, samples, digest)
    with journal.work():
        tables = [
            # the intervals are not looked at
            memorization_table(
                one.columns["in_subset"], one.columns["correct_train"], one.columns["p_train"], confidence=0.95
            )
            for one in class_by_class(models, samples, ("correct", "p"))
        ]
    near = errors_near(pd.concat(tables), score=spec.score, threshold=spec.threshold)
    reached = smallest_of_share(near, spec.quantile) if len(near) else None
    found = {
        "models": models.models,
        "near": len(near),
        "standard_error": reached,
        "enough": reached is None or reached <= spec.standard_error + ROUNDING,
    }
    error = "" if reached is None else f", of which {spec.quantile:.0%} have a standard error of at most {reached:.3f}"
    journal.line(
        f"{models.models} models: {len(near)} training samples are near the threshold{error}: "
        f"{'enough' if found['enough'] else 'more'}, for {spec.standard_error:g}"
    )
    about = json.loads(provenance("enough", spec=asdict(spec) | {"shards": models.facts}, data=digest))
    with replacing(enough) as temporary:
        temporary.write_text(json.dumps(about | found, sort_keys=True) + "\n", encoding="utf-8")


def errors_near(table: pd.DataFrame, *, score: str, threshold: float) -> Floats:
    """Return the standard errors of the samples whose memorization is within two of them of the threshold.

    table: of ``memorization_table``; score: hard or soft. A sample without a score is none of them.
    """
    error = table[error_column(score)]
    errors: Floats = error[(table[score_column(score)] - threshold).abs() <= 2 * error].to_numpy()
    return errors


def smallest_of_share(values: Floats, share: float) -> float:
    """Return the smallest of some values that at least a share of them does not exceed."""
    return float(np.sort(values)[max(math.ceil(share * len(values) - ROUNDING), 1) - 1])
