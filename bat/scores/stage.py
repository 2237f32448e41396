"""Stage 1: models on random subsets, and the scores estimated from them."""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bat.config import check_models, subset_size
from bat.config.ranges import Models
from bat.config.specs import NullPairsSpec, ScoresSpec, SubsetsSpec
from bat.data.saved import load_data, tensor
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Parquet
from bat.io.tables import check_labels, check_one_data_set, pack, read_table_with_facts, unpack, write_table
from bat.io.tensors import kept
from bat.scores.estimators import group_table, influence_table, memorization_table, null_pairs_table
from bat.scores.precision import none_atypical
from bat.scores.subsets import ANSWERS_FORMAT, read_subset_models, recorded, subset_masks
from bat.seeds import derive_seed
from bat.training.untrained import failed_subsets


def subsets(
    journal: Journal,
    *,
    spec: SubsetsSpec,
    data: Path,
    shard: Parquet,
    all_models: Models | None = None,
    device: str = "auto",
) -> None:
    """Train one shard of models on random subsets and write what each classifies correctly.

    shard: one row per model: its subset, and what it says of each sample
    all_models: K of all shards together, refused where they cannot score each sample (default: no such check)
    """
    samples, digest = load_data(data, device)
    if all_models is not None:
        try:
            check_models(all_models, len(samples.train), spec.subset_fraction)
        except ValueError as error:
            raise BatError(str(error)) from error
    size = subset_size(len(samples.train), spec.subset_fraction)
    masks = subset_masks(
        len(samples.train),
        size,
        design=spec.design,
        seed=spec.seed,
        first=spec.first_model,
        count=spec.models,
    )
    about = {"spec": asdict(spec), "data": digest}
    folder = Path(f"{shard}.parts")

    def record(number: int, seed: int, mask: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Train model ``number`` on its subset and return which samples it classifies correctly."""
        subset = samples.train.take(tensor(np.flatnonzero(mask), samples))
        found = recorded(samples, subset, spec, seed=seed, what=f"subset model {number} (seed {spec.seed})")
        return {name: torch.tensor(bits) for name, bits in found.items()}

    seeds, results = [], []
    with journal.work():
        for row, mask in enumerate(journal.bar(masks, len(masks), "models")):
            number = spec.first_model + row
            seeds.append(derive_seed(spec.seed, "model", number))
            # so that a killed shard goes on at its last model
            part = provenance("part", **about, model=number, format=ANSWERS_FORMAT)
            make = partial(record, number, seeds[-1], mask)
            results.append(kept(folder / f"{number}.safetensors", part, make, journal.line))
    right = np.stack([found["correct_train"].numpy() for found in results])
    problem = failed_subsets(masks, right, samples.train.labels.cpu().numpy(), recipe="memorization.recipe")
    if problem:
        journal.line(problem)
    columns = {name: pack(np.stack([found[name].numpy() for found in results])) for name in results[0]}
    names = [f"{kind}_{part}" for kind in ("correct", "robust") for part in samples.parts()]
    table = pd.DataFrame(
        {"model": spec.first_model + np.arange(spec.models), "seed": seeds, "in_subset": pack(masks)}
        | dict.fromkeys(names)
        | columns
    )
    write_table(shard, "subsets", table, provenance("subsets", **about))
    shutil.rmtree(folder)


def scores(
    journal: Journal,
    *,
    spec: ScoresSpec,
    data: Path,
    shards: list[Path],
    memorization: Parquet,
    influence: Parquet,
    train_influence: Parquet,
    test_groups: Parquet,
    validation_groups: Parquet,
) -> None:
    """Join the shards and write memorization, influence and the groups of test and validation samples.

    memorization: one row per training sample
    influence: one row per pair of an atypical training and a test sample over the threshold
    train_influence: the same of a training and an atypical training sample
    test_groups: one row per test sample: typical or atypical, and by which training sample
    validation_groups: one row per validation sample
    """
    samples, digest = load_data(data, "cpu")
    models, facts = read_subset_models(shards, data, digest)
    where = shards[0]
    parts = samples.parts()
    labels = {name: part.labels.numpy() for name, part in parts.items()}
    index = {name: part.index.numpy() for name, part in parts.items()}
    mask = unpack(models["in_subset"], len(samples.train), where)
    correct = {name: unpack(models[f"correct_{name}"], len(part), where) for name, part in parts.items()}
    about = {"spec": asdict(spec) | {"shards": facts}, "data": digest, "models": len(models)}
    with journal.work():
        scores = memorization_table(
            mask,
            correct["train"],
            index["train"],
            labels["train"],
            threshold=spec.threshold,
            confidence=spec.confidence,
        )
        atypical = scores["atypical"].to_numpy()
        journal.line(
            f"{len(models)} models; {atypical.sum()} of {len(atypical)} training samples are atypical "
            f"(memorization over {spec.threshold}); {int(scores['memorization'].isna().sum())} have no score"
        )
        problem = failed_subsets(mask, correct["train"], labels["train"], recipe="memorization.recipe")
        if problem:
            journal.line(problem)
        write_table(memorization, "memorization", scores, provenance("memorization", **about))
        for name, path, column in (
            ("test", test_groups, "test_index"),
            ("validation", validation_groups, "validation_index"),
        ):
            pairs = influence_table(
                mask[:, atypical],
                correct[name],
                train_index=index["train"][atypical],
                train_labels=labels["train"][atypical],
                target_index=index[name],
                target_labels=labels[name],
                false_discovery_rate=spec.false_discovery_rate,
            )
            groups = group_table(correct[name], index[name], labels[name], pairs, scores, threshold=spec.threshold)
            found = int(groups["atypical"].sum())
            journal.line(f"{found} of {len(groups)} {name} samples are atypical, from {len(pairs)} pairs")
            if not found:
                reason = none_atypical(
                    scores,
                    groups,
                    models=len(models),
                    fraction=facts["spec.subset_fraction"],
                    threshold=spec.threshold,
                    false_discovery_rate=spec.false_discovery_rate,
                )
                journal.line(f"no {name} sample is atypical, so no rate of that group can be reported: {reason}")
            kind = f"{name}_groups"
            write_table(path, kind, groups.rename(columns={"target_index": column}), provenance(kind, **about))
            if name == "test":
                strong = pairs[pairs["influence"] > spec.threshold].rename(columns={"target_index": column})
                write_table(influence, "influence", strong, provenance("influence", **about))
        pairs = influence_table(
            mask,
            correct["train"][:, atypical],
            train_index=index["train"],
            train_labels=labels["train"],
            target_index=index["train"][atypical],
            target_labels=labels["train"][atypical],
            false_discovery_rate=spec.false_discovery_rate,
            counted=~mask[:, atypical],
        )
        strong = pairs[pairs["influence"] > spec.threshold].rename(columns={"target_index": "influenced_index"})
        write_table(train_influence, "train_influence", strong, provenance("train_influence", **about))


def null_pairs(
    journal: Journal, *, spec: NullPairsSpec, data: Path, shards: list[Path], memorization: Path, null_pairs: Parquet
) -> None:
    """Count the pairs of atypical training and test samples that are found, and how many where there are none.

    null_pairs: one row per shuffle of the models' results, after the one without
    """
    samples, digest = load_data(data, "cpu")
    models, facts = read_subset_models(shards, data, digest)
    scores, scored = read_table_with_facts(memorization, "memorization")
    check_one_data_set(memorization, data=(data, digest))
    if scored["spec"].get("shards") != facts or scored["models"] != len(models):
        raise BatError(f"{memorization}: of other subset models than {shards[0]}: run stage scores again")
    train, test = samples.train, samples.test
    check_labels(memorization, scores, "train_index", train.index.numpy(), train.labels.numpy())
    atypical = scores["atypical"].to_numpy()
    with journal.work():
        table = null_pairs_table(
            unpack(models["in_subset"], len(train), shards[0])[:, atypical],
            unpack(models["correct_test"], len(test), shards[0]),
            threshold=spec.threshold,
            false_discovery_rate=spec.false_discovery_rate,
            shuffles=spec.shuffles,
            seed=spec.seed,
            train_index=train.index.numpy()[atypical],
            train_labels=train.labels.numpy()[atypical],
            target_index=test.index.numpy(),
            target_labels=test.labels.numpy(),
        )
    measured, by_chance = table["found"].iloc[0], table["found"].iloc[1:].mean()
    journal.line(f"{measured} pairs found; {by_chance:.2f} by chance, the mean of {spec.shuffles} shuffles")
    about = {"spec": asdict(spec) | {"shards": facts}, "data": digest, "models": len(models)}
    write_table(null_pairs, "null_pairs", table, provenance("null_pairs", **about))
