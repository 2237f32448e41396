"""Memorization and influence under attack, and what atypical training samples do to typical test samples."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from bat.config.specs import ScoresSpec
from bat.data.saved import load_data
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Parquet
from bat.io.tables import (
    check_labels,
    check_one_data_set,
    check_one_run,
    read_scores,
    read_table,
    write_table,
)
from bat.scores.estimators import InfluenceFinder, effect_table, memorization_table, over_threshold, taken_for
from bat.scores.shards import class_by_class, in_order, open_shards
from bat.training.untrained import failed_subsets


def robust_scores(
    journal: Journal,
    *,
    spec: ScoresSpec,
    data: Path,
    shards: list[Path],
    memorization: Path,
    test_groups: Path,
    robust_memorization: Parquet,
    robust_influence: Parquet,
    robust_effects: Parquet,
) -> None:
    """Estimate memorization and influence of robust correctness, and each atypical sample's effect on typical ones.

    robust_memorization: one row per training sample
    robust_influence: one row per pair of an atypical training and a test sample over the threshold
    robust_effects: one row per atypical training sample: its effect on typical test samples
    """
    samples, digest = load_data(data, "cpu")
    models = open_shards(shards, data, samples, digest)
    check_one_data_set(memorization, test_groups, data=(data, digest))
    check_one_run(memorization, test_groups)
    (scores, _), groups = read_scores(memorization), read_table(test_groups, "test_groups")
    train, test = samples.train, samples.test
    check_labels(memorization, scores, "train_index", train.index.numpy(), train.labels.numpy())
    check_labels(test_groups, groups, "test_index", test.index.numpy(), test.labels.numpy())
    if groups["atypical"].all():
        raise BatError(f"{test_groups}: no test sample is typical, so no effect on these: raise memorization.threshold")
    about = {"spec": asdict(spec) | {"shards": models.facts}, "data": digest, "models": models.models}
    atypical, typical = scores["atypical"].to_numpy(), ~groups["atypical"].to_numpy()
    rare, usual = train.index.numpy()[atypical], test.index.numpy()[typical]
    pairs = InfluenceFinder(false_discovery_rate=spec.false_discovery_rate, over=spec.threshold)
    rows: list[pd.DataFrame] = []
    right = {name: np.zeros(models.models, dtype=np.int64) for name in ("own", "size", "clean", "robust")}
    with journal.work():
        kinds = ("correct", "robust", "robust_p", "robust_class")
        for one in journal.bar(class_by_class(models, samples, kinds), samples.classes, "classes"):
            mask, test_index = one.columns["in_subset"], one.index["test"]
            counted = np.isin(test_index, usual)
            right["own"] += (mask & one.columns["correct_train"]).sum(1)
            right["size"] += mask.sum(1)
            right["clean"] += one.columns["correct_test"][:, counted].sum(1)
            right["robust"] += one.columns["robust_test"][:, counted].sum(1)
            table = memorization_table(
                mask, one.columns["robust_train"], one.columns["robust_p_train"], confidence=spec.confidence
            )
            taken = taken_for(one.columns["robust_class_train"], ~mask, samples.classes)
            rows.append(pd.concat([table, taken], axis=1).assign(index=one.index["train"], label=one.label))
            chosen = np.isin(one.index["train"], rare)
            pairs.add(
                mask[:, chosen],
                one.columns["robust_test"],
                one.columns["robust_p_test"],
                label=one.label,
                train_index=one.index["train"][chosen],
                target_index=test_index,
            )
        found = pairs.result().pairs
        effects = effect_table(
            models.read({"in_subset": np.flatnonzero(atypical)})["in_subset"],
            {name: right[name] for name in ("clean", "robust")},
            scores[atypical],
            samples=int(typical.sum()),
            false_discovery_rate=spec.false_discovery_rate,
        )
    robust = in_order(rows, train).rename(columns={"index": "train_index"})
    robust = robust.assign(
        atypical=over_threshold(robust, spec.score, spec.threshold), **scores[["class_name", "file"]]
    )
    problem = failed_subsets(right["own"] / right["size"], train.labels.numpy(), recipe="memorization.recipe")
    if problem:
        journal.line(problem)
    low = effects["robust_significant"] & (effects["robust_effect"] < 0)
    journal.line(
        f"{models.models} models; {robust['atypical'].sum()} training samples have robust memorization over "
        f"{spec.threshold}; {low.sum()} of {len(effects)} atypical samples lower the robust accuracy of typical ones"
    )
    write_table(robust_memorization, "robust_memorization", robust, provenance("robust_memorization", **about))
    strong = found.rename(columns={"target_index": "test_index"})
    write_table(robust_influence, "robust_influence", strong, provenance("robust_influence", **about))
    write_table(robust_effects, "robust_effects", effects, provenance("robust_effects", **about))
