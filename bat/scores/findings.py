"""What atypical training samples do: harmful and benign ones, and memorization and influence under attack."""

import json

import numpy as np

from bat.config import parse
from bat.config.specs import HarmfulSpec, ScoresSpec
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.tables import (
    check_labels,
    check_one_data_set,
    check_one_run,
    read_table,
    read_table_with_facts,
    unpack,
    write_table,
)
from bat.models.inputs import read_data, read_subset_models
from bat.scores.estimators import effect_table, influence_table, memorization_table
from bat.training.records import samples_table
from bat.training.selection import harmful_table
from bat.training.untrained import failed_subsets


def harmful(journal: Journal, *, spec: str, memorization: str, records: list[str], out: str) -> None:
    """Divide the atypical training samples into harmful and benign ones, by one method's records of all seeds."""
    plan = parse(HarmfulSpec, spec, "--spec")
    scores = read_table(memorization, "memorization")
    check_one_data_set(memorization, *records)
    read = {path: read_table_with_facts(path, "records") for path in records}
    specs = [facts["spec"] | {"seed": None} for _, facts in read.values()]
    for path, other in zip(records, specs, strict=True):
        if other != specs[0]:
            raise BatError(f"{records[0]} and {path} were trained by different specs: train both again")
    samples = [samples_table(table, scores, path) for path, (table, _) in read.items()]
    table = harmful_table(samples, threshold=plan.threshold)
    journal.line(f"{table['harmful'].sum()} of {len(table)} atypical training samples are harmful")
    write_table(out, "harmful", table, provenance("harmful", spec=json.loads(spec), data=read[records[0]][1]["data"]))


def robust_scores(
    journal: Journal,
    *,
    spec: str,
    data: str,
    shards: list[str],
    memorization: str,
    test_groups: str,
    robust_memorization: str,
    robust_influence: str,
    robust_effects: str,
) -> None:
    """Estimate memorization and influence of robust correctness, and each atypical sample's effect on typical ones."""
    plan = parse(ScoresSpec, spec, "--spec")
    samples, digest = read_data(data, "cpu")
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
    about = {"spec": json.loads(spec) | {"shards": facts}, "data": digest, "models": len(models)}
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
            threshold=plan.threshold,
            confidence=plan.confidence,
        )
        pairs = influence_table(
            mask[:, atypical],
            correct["robust"],
            train_index=train.index.numpy()[atypical],
            train_labels=train.labels.numpy()[atypical],
            target_index=test.index.numpy(),
            target_labels=test.labels.numpy(),
            false_discovery_rate=plan.false_discovery_rate,
        )
        effects = effect_table(
            mask[:, atypical],
            {name: right[:, typical].sum(1, dtype=np.int64) for name, right in correct.items()},
            scores[atypical],
            samples=int(typical.sum()),
            false_discovery_rate=plan.false_discovery_rate,
        )
    right = unpack(models["correct_train"], len(train), shards[0])
    problem = failed_subsets(mask, right, train.labels.numpy(), recipe="memorization.recipe")
    if problem:
        journal.line(problem)
    low = effects["robust_significant"] & (effects["robust_effect"] < 0)
    journal.line(
        f"{len(models)} models; {robust['atypical'].sum()} training samples have robust memorization over "
        f"{plan.threshold}; {low.sum()} of {len(effects)} atypical samples lower the robust accuracy of typical ones"
    )
    write_table(robust_memorization, "robust_memorization", robust, provenance("robust_memorization", **about))
    strong = pairs[pairs["influence"] > plan.threshold].rename(columns={"target_index": "test_index"})
    write_table(robust_influence, "robust_influence", strong, provenance("robust_influence", **about))
    write_table(robust_effects, "robust_effects", effects, provenance("robust_effects", **about))
