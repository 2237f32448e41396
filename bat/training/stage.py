"""Stage 2: one method with one seed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bat.config import parse
from bat.config.specs import TrainSpec
from bat.data.dataset import Part
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.tables import check_labels, check_one_data_set, read_table, write_table
from bat.io.tensors import write_tensors
from bat.models.inputs import read_data, tensor
from bat.training import run as training
from bat.training.checkpoints import Checkpoint
from bat.training.records import unpacked
from bat.training.selection import atypical_for, removed
from bat.training.untrained import failure


def train(
    journal: Journal,
    *,
    spec: str,
    data: str,
    memorization: str | None,
    harmful: str | None,
    robust_memorization: str | None,
    best: str,
    last: str,
    records: str,
    checkpoint_minutes: int,
    device: str,
) -> None:
    """Train one method with one seed; write the weights of best and last epoch, and the records of all epochs.

    Groups of samples are formed by stage groups, so that only methods that read a score, and runs without some samples,
    depend on scores. A run that was killed goes on from its checkpoint, a file beside ``last``, that is written after
    an epoch when ``checkpoint_minutes`` have passed since the one before, and at SIGTERM.
    """
    plan = parse(TrainSpec, spec, "--spec")
    dataset, digest = read_data(data, device)
    check_one_data_set(memorization, harmful, robust_memorization, data=(data, digest))
    scores = _scores(memorization, "memorization", dataset.train)
    robust = _scores(robust_memorization, "robust_memorization", dataset.train)
    chosen = atypical_for(scores, robust, plan.method, seed=plan.seed)
    left_out = np.zeros(len(dataset.train), dtype=bool)
    if plan.without:
        if scores is None:
            raise BatError(f"trained without {plan.without.name} samples: give --memorization, of stage scores")
        divided = read_table(harmful, "harmful") if harmful else None
        left_out = removed(scores, plan.without, divided, seed=plan.seed)
        if len(left_out) - left_out.sum() < 2:
            raise BatError(
                f"removal: without {plan.without.name}, {left_out.sum()} of {len(left_out)} training samples would be "
                "left out, which leaves too few: lower removal.fractions, raise memorization.threshold, or set "
                "removal.method to null"
            )
        journal.line(f"trained without {left_out.sum()} of {len(left_out)} samples: {plan.without.name}")
        wanted = removed(scores, replace(plan.without, random=False), divided, seed=plan.seed).sum()
        if left_out.sum() < wanted:
            journal.line(
                f"{wanted} samples are named, so that there are not as many others: this run is no fair control; "
                "lower removal.fractions, or raise memorization.threshold"
            )
    facts: dict[str, Any] = {"spec": json.loads(spec), "data": digest}
    marks = hashlib.sha256(b"".join(np.packbits(each).tobytes() for each in (chosen, left_out) if each is not None))
    checkpoint = Checkpoint(Path(f"{last}.checkpoint"), facts | {"samples": marks.hexdigest()})
    with journal.work(), checkpoint.guarding():
        progress = checkpoint.read(dataset.train.labels.device, journal.line)
        epochs = plan.recipe.epochs - (progress.epoch if progress else 0)
        if progress:
            journal.line(f"goes on after epoch {progress.epoch}, from {checkpoint.path}")
        trained = training.train(
            plan,
            dataset,
            lambda each: journal.bar(each, epochs, "epochs"),
            chosen=None if chosen is None else tensor(chosen, dataset),
            removed=tensor(left_out, dataset),
            progress=progress,
            keep=lambda done: checkpoint.keep(done, checkpoint_minutes),
        )
    this: dict[str, Any] = {"method": plan.method.name, "seed": plan.seed}
    epochs = len(trained.records)
    journal.line(f"best epoch {trained.best_epoch} of {epochs}" + (": stopped early" * (epochs < plan.recipe.epochs)))
    right = unpacked(trained.records, "train_clean_correct", len(dataset.train), records)[-1]
    problem = failure(
        right[~left_out].mean(),
        trained.records["loss"].to_list(),
        dataset.train.labels.cpu().numpy()[~left_out],
        recipe="training.recipe",
    )
    if problem:
        journal.line(problem)
    write_tensors(best, trained.best, provenance("model", **facts, epoch=trained.best_epoch))
    write_tensors(last, trained.last, provenance("model", **facts, epoch=epochs))
    write_table(records, "records", trained.records.assign(**this), provenance("records", **facts))
    checkpoint.remove()


def _scores(path: str | None, kind: str, train: Part) -> pd.DataFrame | None:
    """Read a table of scores of the training samples, None where there is none."""
    if path is None:
        return None
    table = read_table(path, kind)
    check_labels(path, table, "train_index", train.index.cpu().numpy(), train.labels.cpu().numpy())
    return table
