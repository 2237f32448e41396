"""Stage 1: models on random subsets, and the scores estimated from them."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bat.config import Method, Natural, PgdAt, check_models, parse, subset_size
from bat.config.specs import NullPairsSpec, ScoresSpec, SubsetsSpec
from bat.errors import BatError
from bat.evaluation.grounds import none_atypical
from bat.evaluation.under_attack import correct, robustly_correct
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.tables import check_labels, check_one_data_set, pack, read_table_with_facts, unpack, write_table
from bat.io.tensors import kept
from bat.models import build
from bat.models.inputs import read_data, read_subset_models, tensor
from bat.scores.estimators import group_table, influence_table, memorization_table, null_pairs_table, subset_masks
from bat.seeds import derive_seed
from bat.training.loop import Inner, fit
from bat.training.losses import objective
from bat.training.untrained import failed_subsets


def subsets(journal: Journal, *, spec: str, data: str, out: str, all_models: int | None, device: str) -> None:
    """Train one shard of models on random subsets and write what each classifies correctly.

    all_models: K of all shards together, refused where they cannot score each sample; None for no such check.
    """
    plan = parse(SubsetsSpec, spec, "--spec")
    samples, digest = read_data(data, device)
    if all_models is not None:
        try:
            check_models(all_models, len(samples.train), plan.subset_fraction)
        except ValueError as error:
            raise BatError(str(error)) from error
    size = subset_size(len(samples.train), plan.subset_fraction)
    masks = subset_masks(
        len(samples.train),
        size,
        design=plan.design,
        seed=plan.seed,
        first=plan.first_model,
        count=plan.models,
    )
    method: Method = Natural(name="natural", objective="natural")
    adversary = plan.adversary
    inner = None
    if adversary:
        method = PgdAt(name="pgd_at", objective="pgd_at", eps_factor=1.0, awp=0.0)
        inner = Inner(adversary.threat, adversary.attack, adversary.attack_bn)
    about = {"spec": json.loads(spec), "data": digest}
    folder = Path(f"{out}.parts")

    def recorded(number: int, seed: int, mask: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Train model ``number`` on its subset and return which samples it classifies correctly."""
        subset = samples.train.take(tensor(np.flatnonzero(mask), samples))
        model = build(plan.model, subset, classes=samples.classes, seed=seed)
        for _ in fit(
            model,
            subset,
            objective=objective(method),
            recipe=plan.recipe,
            seed=seed,
            what=f"subset model {number} (seed {plan.seed})",
            inner=inner,
            compute=plan.compute,
        ):
            pass
        found: dict[str, NDArray[np.bool_]] = {}
        for name, part in samples.parts().items():
            if adversary:
                clean, robust = robustly_correct(
                    model, part, threat=adversary.threat, attack=adversary.attack, seed=seed
                )
                found |= {f"correct_{name}": clean, f"robust_{name}": robust}
            else:
                found[f"correct_{name}"] = correct(model, part)
        return {name: torch.tensor(bits) for name, bits in found.items()}

    seeds, results = [], []
    with journal.work():
        for row, mask in enumerate(journal.bar(masks, len(masks), "models")):
            number = plan.first_model + row
            seeds.append(derive_seed(plan.seed, "model", number))
            # so that a killed shard goes on at its last model
            part = provenance("part", **about, model=number)
            make = partial(recorded, number, seeds[-1], mask)
            results.append(kept(folder / f"{number}.safetensors", part, make, journal.line))
    right = np.stack([found["correct_train"].numpy() for found in results])
    problem = failed_subsets(masks, right, samples.train.labels.cpu().numpy(), recipe="memorization.recipe")
    if problem:
        journal.line(problem)
    columns = {name: pack(np.stack([found[name].numpy() for found in results])) for name in results[0]}
    names = [f"{kind}_{part}" for kind in ("correct", "robust") for part in samples.parts()]
    table = pd.DataFrame(
        {"model": plan.first_model + np.arange(plan.models), "seed": seeds, "in_subset": pack(masks)}
        | dict.fromkeys(names)
        | columns
    )
    write_table(out, "subsets", table, provenance("subsets", **about))
    shutil.rmtree(folder)


def scores(
    journal: Journal,
    *,
    spec: str,
    data: str,
    shards: list[str],
    memorization: str,
    influence: str,
    train_influence: str,
    test_groups: str,
    validation_groups: str,
) -> None:
    """Join the shards and write memorization, influence and the groups of test and validation samples."""
    plan = parse(ScoresSpec, spec, "--spec")
    samples, digest = read_data(data, "cpu")
    models, facts = read_subset_models(shards, data, digest)
    where = shards[0]
    parts = samples.parts()
    labels = {name: part.labels.numpy() for name, part in parts.items()}
    index = {name: part.index.numpy() for name, part in parts.items()}
    mask = unpack(models["in_subset"], len(samples.train), where)
    correct = {name: unpack(models[f"correct_{name}"], len(part), where) for name, part in parts.items()}
    about = {"spec": json.loads(spec) | {"shards": facts}, "data": digest, "models": len(models)}
    with journal.work():
        scores = memorization_table(
            mask,
            correct["train"],
            index["train"],
            labels["train"],
            threshold=plan.threshold,
            confidence=plan.confidence,
        )
        atypical = scores["atypical"].to_numpy()
        journal.line(
            f"{len(models)} models; {atypical.sum()} of {len(atypical)} training samples are atypical "
            f"(memorization over {plan.threshold}); {int(scores['memorization'].isna().sum())} have no score"
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
                false_discovery_rate=plan.false_discovery_rate,
            )
            groups = group_table(correct[name], index[name], labels[name], pairs, scores, threshold=plan.threshold)
            found = int(groups["atypical"].sum())
            journal.line(f"{found} of {len(groups)} {name} samples are atypical, from {len(pairs)} pairs")
            if not found:
                reason = none_atypical(
                    scores,
                    groups,
                    models=len(models),
                    fraction=facts["spec.subset_fraction"],
                    threshold=plan.threshold,
                    false_discovery_rate=plan.false_discovery_rate,
                )
                journal.line(f"no {name} sample is atypical, so no rate of that group can be reported: {reason}")
            kind = f"{name}_groups"
            write_table(path, kind, groups.rename(columns={"target_index": column}), provenance(kind, **about))
            if name == "test":
                strong = pairs[pairs["influence"] > plan.threshold].rename(columns={"target_index": column})
                write_table(influence, "influence", strong, provenance("influence", **about))
        pairs = influence_table(
            mask,
            correct["train"][:, atypical],
            train_index=index["train"],
            train_labels=labels["train"],
            target_index=index["train"][atypical],
            target_labels=labels["train"][atypical],
            false_discovery_rate=plan.false_discovery_rate,
            counted=~mask[:, atypical],
        )
        strong = pairs[pairs["influence"] > plan.threshold].rename(columns={"target_index": "influenced_index"})
        write_table(train_influence, "train_influence", strong, provenance("train_influence", **about))


def null_pairs(journal: Journal, *, spec: str, data: str, shards: list[str], memorization: str, out: str) -> None:
    """Count the pairs of atypical training and test samples that are found, and how many where there are none."""
    plan = parse(NullPairsSpec, spec, "--spec")
    samples, digest = read_data(data, "cpu")
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
            threshold=plan.threshold,
            false_discovery_rate=plan.false_discovery_rate,
            shuffles=plan.shuffles,
            seed=plan.seed,
            train_index=train.index.numpy()[atypical],
            train_labels=train.labels.numpy()[atypical],
            target_index=test.index.numpy(),
            target_labels=test.labels.numpy(),
        )
    measured, by_chance = table["found"].iloc[0], table["found"].iloc[1:].mean()
    journal.line(f"{measured} pairs found; {by_chance:.2f} by chance, the mean of {plan.shuffles} shuffles")
    about = {"spec": json.loads(spec) | {"shards": facts}, "data": digest, "models": len(models)}
    write_table(out, "null_pairs", table, provenance("null_pairs", **about))
