"""Stage 1 without subset models: scores from a file."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bat.config.specs import ImportScoresSpec
from bat.data.saved import load_data, tensor
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.given import located, open_file
from bat.io.journal import Journal
from bat.io.outputs import Csv, Parquet
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table
from bat.io.tensors import read_tensors
from bat.scores.estimators import found_pairs, group_table
from bat.scores.names import read_names, source_files, with_names
from bat.scores.released import check_released_labels, read_released, released_influence, released_memorization
from bat.scores.top import write_top


def import_scores(
    journal: Journal,
    *,
    spec: ImportScoresSpec,
    data: Path,
    files: Path,
    scores: Path,
    memorization: Parquet,
    influence: Parquet,
    train_influence: Parquet,
    test_groups: Parquet,
    validation_groups: Parquet,
    top: Csv,
) -> None:
    """Write the tables of stage scores from a file of released scores; what it does not hold is NaN or empty.

    scores: npz, Parquet or CSV; see docs
    top: the most memorized training samples, for spreadsheets

    Example:
        bat import-scores --spec '{"format": "cscores", "threshold": 0.15}' --data data.safetensors \\
            --files files.parquet --scores cifar100-cscores-orig-order.npz --memorization memorization.parquet \\
            --influence influence.parquet --train-influence train_influence.parquet \\
            --test-groups test_groups.parquet --validation-groups validation_groups.parquet --top top.csv
    """
    file = str(scores)
    samples, digest = load_data(data, "cpu")
    names = read_names(files, data=(data, digest))
    # samples in the source's parts, of which the data set may be a draw
    facts = read_tensors(data, "data")[1]
    sizes = facts.get("source")
    released = read_released(file, spec.format, source_files(names, sizes) if sizes else None)
    for kind in check_released_labels(file, released, samples, sizes, facts.get("source_labels")):
        journal.line(f"the file has no labels of {kind} samples: whether it has the order of the data set is not known")
    with open_file(located(file)) as opened:
        source = {"name": Path(file).name, "sha256": hashlib.file_digest(opened, "sha256").hexdigest()}
    # no models: what figures and readers take for the number of subset models
    about = {"spec": asdict(spec), "file": source, "data": digest, "models": 0}
    with journal.work():
        found = released_memorization(file, released, samples.train, threshold=spec.threshold)
        if found["memorization"].isna().all():
            raise BatError(f"{file}: has a score of other samples, but of no training sample: give another file")
        if found["memorization"].nunique() == 1:
            journal.line(f"all scores are {found['memorization'].min():g}: they tell no sample from another")
        atypical = samples.train.take(tensor(np.flatnonzero(found["atypical"]), samples))
        journal.line(
            f"{len(atypical)} of {len(found)} training samples are atypical (memorization over {spec.threshold}); "
            f"{int(found['memorization'].isna().sum())} have no score"
        )
        found = with_names(found, names, "train")
        write_table(memorization, "memorization", found, provenance("memorization", **about))
        write_top(top, found, samples.class_names, score="hard")
        pairs = released_influence(released, atypical, samples.test, threshold=spec.threshold)
        nothing = pairs.iloc[:0]
        for name, path, over in (("test", test_groups, pairs), ("validation", validation_groups, nothing)):
            part, column, kind = samples.parts()[name], f"{name}_index", f"{name}_groups"
            index, labels = part.index.numpy(), part.labels.numpy()
            groups = group_table(found_pairs(over), index, labels, found, threshold=spec.threshold)
            groups = groups.reindex(columns=["target_index", *SCHEMAS[kind].names[1:]])
            groups = with_names(groups, names, name).assign(models=0).rename(columns={"target_index": column})
            write_table(path, kind, groups, provenance(kind, **about))
            journal.line(f"{int(groups['atypical'].sum())} of {len(groups)} {name} samples are atypical")
        if not released.influence:
            journal.line("the file has no influence: no test sample can be called atypical, all count as typical")
        elif not pairs["significant"].any():
            journal.line("no test sample is atypical, so no rate of that group can be reported")
        journal.line("validation samples are training samples of the file, which has no influence on them: all typical")
        strong = pairs[pairs["significant"]].rename(columns={"target_index": "test_index"})
        write_table(influence, "influence", strong, provenance("influence", **about))
        # no release holds influence of training samples on one another
        among = nothing.rename(columns={"target_index": "influenced_index"})
        write_table(train_influence, "train_influence", among, provenance("train_influence", **about))
