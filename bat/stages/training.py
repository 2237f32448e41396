"""Stage 2: one method with one seed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bat import training
from bat.checkpoints import Checkpoint
from bat.config import parse
from bat.files import provenance
from bat.journal import Journal
from bat.selection import atypical_for, removed
from bat.specs import TrainSpec
from bat.stages.inputs import read_data, tensor
from bat.tables import check_labels, check_one_data_set, check_one_run, read_table, write_table
from bat.tensors import write_tensors
from bat.untrained import failure


def train(
    journal: Journal,
    *,
    spec: str,
    data: str,
    memorization: str,
    validation_groups: str,
    test_groups: str,
    harmful: str | None,
    robust_memorization: str | None,
    best: str,
    last: str,
    history: str,
    samples: str,
    checkpoint_minutes: int,
    device: str,
) -> None:
    """Train one method with one seed; write the weights of best and last epoch, history and record of samples.

    A run that was killed goes on from its checkpoint, a file beside ``last``, that is written after an epoch when
    ``checkpoint_minutes`` have passed since the one before, and at SIGTERM.
    """
    plan = parse(TrainSpec, spec, "--spec")
    dataset, digest = read_data(data, device)
    scored = (memorization, validation_groups, test_groups, harmful, robust_memorization)
    check_one_data_set(*scored, data=(data, digest))
    check_one_run(memorization, validation_groups, test_groups)
    atypical, tables = {}, {}
    for name, path, column in (
        ("train", memorization, "train_index"),
        ("validation", validation_groups, "validation_index"),
        ("test", test_groups, "test_index"),
    ):
        table = tables[name] = read_table(path, "memorization" if name == "train" else f"{name}_groups")
        part = dataset.parts()[name]
        check_labels(path, table, column, part.index.cpu().numpy(), part.labels.cpu().numpy())
        atypical[name] = tensor(table["atypical"].to_numpy(), dataset)
    scores = tables["train"]
    left_out = np.zeros(len(scores), dtype=bool)
    if plan.without:
        divided = read_table(harmful, "harmful") if harmful else None
        left_out = removed(scores, plan.without, divided, seed=plan.seed)
        journal.line(f"trained without {left_out.sum()} of {len(left_out)} samples: {plan.without.name}")
        wanted = removed(scores, replace(plan.without, random=False), divided, seed=plan.seed).sum()
        if left_out.sum() < wanted:
            journal.line(
                f"{wanted} samples are named, so that there are not as many others: this run is no fair control; "
                "lower removal.fractions, or raise memorization.threshold"
            )
    facts: dict[str, Any] = {"spec": json.loads(spec), "data": digest}
    robust = None
    if robust_memorization:
        robust = read_table(robust_memorization, "robust_memorization")
        part = dataset.train
        check_labels(robust_memorization, robust, "train_index", part.index.cpu().numpy(), part.labels.cpu().numpy())
    chosen = atypical_for(scores, robust, plan.method, seed=plan.seed)
    groups = [tables[name]["atypical"].to_numpy(bool) for name in ("train", "validation", "test")]
    marks = hashlib.sha256(b"".join(np.packbits(each).tobytes() for each in (chosen, left_out, *groups)))
    checkpoint = Checkpoint(Path(f"{last}.checkpoint"), facts | {"samples": marks.hexdigest()})
    with journal.work(), checkpoint.guarding():
        progress = checkpoint.read(dataset.train.labels.device, journal.line)
        epochs = plan.recipe.epochs - (progress.epoch if progress else 0)
        if progress:
            journal.line(f"goes on after epoch {progress.epoch}, from {checkpoint.path}")
        trained = training.train(
            plan,
            dataset,
            atypical,
            lambda each: journal.bar(each, epochs, "epochs"),
            chosen=tensor(chosen, dataset),
            removed=tensor(left_out, dataset),
            progress=progress,
            keep=lambda done: checkpoint.keep(done, checkpoint_minutes),
        )
    this: dict[str, Any] = {"method": plan.method.name, "seed": plan.seed}
    epochs = len(trained.history)
    journal.line(f"best epoch {trained.best_epoch} of {epochs}" + (": stopped early" * (epochs < plan.recipe.epochs)))
    problem = failure(
        trained.history["train_all_clean_accuracy"].iloc[-1],
        trained.history["loss"].to_list(),
        scores["label"].to_numpy(),
        recipe="training.recipe",
    )
    if problem:
        journal.line(problem)
    write_tensors(best, trained.best, provenance("model", **facts, epoch=trained.best_epoch))
    write_tensors(last, trained.last, provenance("model", **facts, epoch=epochs))
    write_table(history, "history", trained.history.assign(**this), provenance("history", **facts))
    rows = trained.samples.merge(scores[["train_index", "memorization"]], on="train_index", how="left").assign(**this)
    write_table(samples, "training_samples", rows, provenance("training_samples", **facts))
    checkpoint.remove()
