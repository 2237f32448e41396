"""Memorization and influence under attack, and what atypical training samples do to typical test samples."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

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
    read_table,
    unpack,
    write_table,
)
from bat.scores.estimators import effect_table, influence_table, memorization_table
from bat.scores.subsets import read_subset_models
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
    models, facts = read_subset_models(shards, data, digest)
    check_one_data_set(memorization, test_groups, data=(data, digest))
    check_one_run(memorization, test_groups)
    if models["robust_test"].isna().any():
        raise BatError(f"{shards[0]}: models trained on clean images: give the shards trained adversarially")
    scores, groups = read_table(memorization, "memorization"), read_table(test_groups, "test_groups")
    train, test = samples.train, samples.test
    check_labels(memorization, scores, "train_index", train.index.numpy(), train.labels.numpy())
    check_labels(test_groups, groups, "test_index", test.index.numpy(), test.labels.numpy())
    if groups["atypical"].all():
        raise BatError(f"{test_groups}: no test sample is typical, so no effect on these: raise memorization.threshold")
    mask = unpack(models["in_subset"], len(train), shards[0])
    about = {"spec": asdict(spec) | {"shards": facts}, "data": digest, "models": len(models)}
    atypical, typical = scores["atypical"].to_numpy(), ~groups["atypical"].to_numpy()
    with journal.work():
        correct = {
            name: unpack(models[f"{column}_test"], len(test), shards[0])
            for name, column in (("clean", "correct"), ("robust", "robust"))
        }
        robust = memorization_table(
            mask,
            unpack(models["robust_train"], len(train), shards[0]),
            train.index.numpy(),
            train.labels.numpy(),
            threshold=spec.threshold,
            confidence=spec.confidence,
        )
        pairs = influence_table(
            mask[:, atypical],
            correct["robust"],
            train_index=train.index.numpy()[atypical],
            train_labels=train.labels.numpy()[atypical],
            target_index=test.index.numpy(),
            target_labels=test.labels.numpy(),
            false_discovery_rate=spec.false_discovery_rate,
        )
        effects = effect_table(
            mask[:, atypical],
            {name: right[:, typical].sum(1, dtype=np.int64) for name, right in correct.items()},
            scores[atypical],
            samples=int(typical.sum()),
            false_discovery_rate=spec.false_discovery_rate,
        )
    right = unpack(models["correct_train"], len(train), shards[0])
    problem = failed_subsets(mask, right, train.labels.numpy(), recipe="memorization.recipe")
    if problem:
        journal.line(problem)
    low = effects["robust_significant"] & (effects["robust_effect"] < 0)
    journal.line(
        f"{len(models)} models; {robust['atypical'].sum()} training samples have robust memorization over "
        f"{spec.threshold}; {low.sum()} of {len(effects)} atypical samples lower the robust accuracy of typical ones"
    )
    write_table(robust_memorization, "robust_memorization", robust, provenance("robust_memorization", **about))
    strong = pairs[pairs["influence"] > spec.threshold].rename(columns={"target_index": "test_index"})
    write_table(robust_influence, "robust_influence", strong, provenance("robust_influence", **about))
    write_table(robust_effects, "robust_effects", effects, provenance("robust_effects", **about))
