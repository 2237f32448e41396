"""Stage 1: models on random subsets, and the scores estimated from them."""

import shutil
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from bat.config import check_models, subset_size
from bat.config.ranges import Models
from bat.config.specs import NullPairsSpec, ScoresSpec, SubsetsSpec
from bat.data.saved import load_data
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Csv, Parquet
from bat.io.schemas import SCHEMAS
from bat.io.tables import check_labels, check_one_data_set, pack, read_table_with_facts, write_table
from bat.io.tensors import kept
from bat.models import Network
from bat.scores.estimators import (
    InfluenceFinder,
    fit_text,
    group_table,
    mean_table,
    memorization_table,
    null_pairs_row,
    over_threshold,
    shuffled,
    taken_for,
)
from bat.scores.label_errors import label_errors_table
from bat.scores.names import read_names, with_names
from bat.scores.precision import none_atypical
from bat.scores.shards import class_by_class, in_order, open_shards
from bat.scores.stacked import MODELS, stackable, train_stacked
from bat.scores.subsets import ANSWERS_FORMAT, answers, recorded, subset_masks, subset_of
from bat.scores.top import write_top
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
    numbers = spec.first_model + np.arange(spec.models)
    seeds = [derive_seed(spec.seed, "model", number) for number in numbers.tolist()]
    ready: dict[int, Network | None] = {}

    @cache
    def together() -> bool:
        """Return whether several models are trained at once; asked only where one is missing."""
        return stackable(samples, masks[:MODELS], spec, seeds=seeds[:MODELS])

    def record(row: int) -> dict[str, Tensor]:
        """Train the model of a row on its subset and return what it says of each sample."""
        if row not in ready and together():
            some = slice(row, row + MODELS)
            ready.update(enumerate(train_stacked(samples, masks[some], spec, seeds=seeds[some]), start=row))
        if model := ready.pop(row, None):
            return answers(model, samples, spec, seed=seeds[row])
        what = f"subset model {numbers[row]} (seed {spec.seed})"
        return recorded(samples, subset_of(samples, masks[row]), spec, seed=seeds[row], what=what)

    results = []
    with journal.work():
        for row, number in enumerate(journal.bar(numbers.tolist(), spec.models, "models")):
            # so that a killed shard goes on at its last model
            part = provenance("part", **about, model=number, format=ANSWERS_FORMAT)
            results.append(kept(folder / f"{number}.safetensors", part, partial(record, row), journal.line))
    columns = {name: np.stack([found[name].numpy() for found in results]) for name in results[0]}
    own = (masks & columns["correct_train"]).sum(1) / masks.sum(1)
    problem = failed_subsets(own, samples.train.labels.cpu().numpy(), recipe="memorization.recipe")
    if problem:
        journal.line(problem)
    bytes_ = {name: pack(values) for name, values in ({"in_subset": masks} | columns).items()}
    table = pd.DataFrame(dict.fromkeys(SCHEMAS["subsets"].names) | {"model": numbers, "seed": seeds} | bytes_)
    write_table(shard, "subsets", table, provenance("subsets", **about))
    shutil.rmtree(folder)


def scores(
    journal: Journal,
    *,
    spec: ScoresSpec,
    data: Path,
    files: Path,
    shards: list[Path],
    memorization: Parquet,
    influence: Parquet,
    train_influence: Parquet,
    test_groups: Parquet,
    validation_groups: Parquet,
    label_errors: Parquet,
    top: Csv,
) -> None:
    """Join the shards and write memorization, influence, label errors and the groups of test and validation samples.

    memorization: one row per training sample
    influence: one row per pair of an atypical training and a test sample over the threshold
    train_influence: the same of a training and an atypical training sample
    test_groups: one row per test sample: typical or atypical, and by which training sample
    validation_groups: one row per validation sample
    label_errors: one row per training sample whose label is likely wrong
    top: the most memorized training samples, for spreadsheets
    """
    samples, digest = load_data(data, "cpu")
    names = read_names(files, data=(data, digest))
    models = open_shards(shards, data, samples, digest)
    train, classes = samples.train, samples.classes
    about = {"spec": asdict(spec) | {"shards": models.facts}, "data": digest, "models": models.models}
    pairs = {
        name: InfluenceFinder(false_discovery_rate=spec.false_discovery_rate, over=spec.threshold)
        for name in samples.parts()
    }
    rows = dict[str, list[pd.DataFrame]](train=[], validation=[], test=[])
    right, size = (np.zeros(models.models, dtype=np.int64) for _ in range(2))
    with journal.work():
        for one in journal.bar(class_by_class(models, samples, ("correct", "p", "class")), classes, "classes"):
            mask = one.columns["in_subset"]
            right += (mask & one.columns["correct_train"]).sum(1)
            size += mask.sum(1)
            table = memorization_table(
                mask, one.columns["correct_train"], one.columns["p_train"], confidence=spec.confidence
            )
            atypical = over_threshold(table, spec.score, spec.threshold)
            for name, index in one.index.items():
                correct, probability = one.columns[f"correct_{name}"], one.columns[f"p_{name}"]
                own = name == "train"
                # models that were trained on a sample know it; of its kind tell those that were not
                taken = taken_for(one.columns[f"class_{name}"], ~mask if own else None, classes)
                about_all = {"index": index, "label": one.label, "atypical": atypical} if own else {"index": index}
                means = table if own else mean_table(correct, probability)
                rows[name].append(pd.concat([means, taken], axis=1).assign(**about_all))
                targets = atypical if own else np.ones(len(index), dtype=bool)
                pairs[name].add(
                    mask if own else mask[:, atypical],
                    correct[:, targets],
                    probability[:, targets],
                    label=one.label,
                    train_index=one.index["train"] if own else one.index["train"][atypical],
                    target_index=index[targets],
                    counted=~mask[:, targets] if own else None,
                )
        found = {name: pairs[name].result() for name in pairs}
    scores = with_names(in_order(rows["train"], train).rename(columns={"index": "train_index"}), names, "train")
    journal.line(
        f"{models.models} models; {scores['atypical'].sum()} of {len(scores)} training samples are atypical "
        f"({spec.score} memorization over {spec.threshold}); {int(scores['memorization'].isna().sum())} have no score"
    )
    for line in (fit_text(scores), failed_subsets(right / size, train.labels.numpy(), recipe="memorization.recipe")):
        if line:
            journal.line(line)
    write_table(memorization, "memorization", scores, provenance("memorization", **about))
    errors = label_errors_table(scores, samples.class_names)
    journal.line(f"{len(errors)} training samples are taken for one other class by most models without them")
    write_table(label_errors, "label_errors", errors, provenance("label_errors", **about))
    write_top(top, scores, samples.class_names, score=spec.score)
    for name, path in (("test", test_groups), ("validation", validation_groups)):
        part, kind = samples.parts()[name], f"{name}_groups"
        groups = group_table(
            found[name],
            part.index.numpy(),
            part.labels.numpy(),
            scores,
            threshold=spec.threshold,
            soft=spec.score == "soft",
        )
        groups = groups.assign(models=models.models).join(in_order(rows[name], part).drop(columns="index"))
        groups = with_names(groups, names, name)
        number = int(groups["atypical"].sum())
        journal.line(f"{number} of {len(groups)} {name} samples are atypical, from {found[name].tests} pairs")
        if not number:
            reason = none_atypical(
                scores,
                groups,
                models=models.models,
                fraction=models.facts["spec.subset_fraction"],
                threshold=spec.threshold,
                false_discovery_rate=spec.false_discovery_rate,
            )
            journal.line(f"no {name} sample is atypical, so no rate of that group can be reported: {reason}")
        write_table(path, kind, groups.rename(columns={"target_index": f"{name}_index"}), provenance(kind, **about))
    for kind, path, name, column in (
        ("influence", influence, "test", "test_index"),
        ("train_influence", train_influence, "train", "influenced_index"),
    ):
        strong = found[name].pairs.rename(columns={"target_index": column})
        write_table(path, kind, strong, provenance(kind, **about))


def null_pairs(
    journal: Journal, *, spec: NullPairsSpec, data: Path, shards: list[Path], memorization: Path, null_pairs: Parquet
) -> None:
    """Count the pairs of atypical training and test samples that are found, and how many where there are none.

    null_pairs: one row per shuffle of the models' results, after the one without
    """
    samples, digest = load_data(data, "cpu")
    models = open_shards(shards, data, samples, digest)
    scores, scored = read_table_with_facts(memorization, "memorization")
    check_one_data_set(memorization, data=(data, digest))
    models.check_scores(memorization, scored)
    train = samples.train
    check_labels(memorization, scores, "train_index", train.index.numpy(), train.labels.numpy())
    chosen = scores.loc[scores["atypical"], "train_index"]
    orders = [*shuffled(models.models, spec.shuffles, seed=spec.seed)]
    pairs = [InfluenceFinder(false_discovery_rate=spec.false_discovery_rate, over=spec.threshold) for _ in orders]
    with journal.work():
        for one in journal.bar(class_by_class(models, samples, ("correct", "p")), samples.classes, "classes"):
            atypical = np.isin(one.index["train"], chosen)
            for order, finder in zip(orders, pairs, strict=True):
                finder.add(
                    one.columns["in_subset"][:, atypical],
                    one.columns["correct_test"][order],
                    one.columns["p_test"][order],
                    label=one.label,
                    train_index=one.index["train"][atypical],
                    target_index=one.index["test"],
                )
        rows = [null_pairs_row(finder.result()) for finder in pairs]
    table = pd.DataFrame(rows).assign(shuffle=np.arange(len(rows)))
    for kind, name in (("", "hard"), ("soft_", "soft")):
        measured, by_chance = table[f"{kind}found"].iloc[0], table[f"{kind}found"].iloc[1:].mean()
        journal.line(f"{name}: {measured} pairs found; {by_chance:.2f} by chance, the mean of {spec.shuffles} shuffles")
    about = {"spec": asdict(spec) | {"shards": models.facts}, "data": digest, "models": models.models}
    write_table(null_pairs, "null_pairs", table, provenance("null_pairs", **about))
