"""Stage 2: one method with one seed."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bat.config.ranges import Minutes
from bat.config.specs import HarmfulSpec, TrainSpec
from bat.data.dataset import Part
from bat.data.saved import load_data, tensor
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Parquet, Safetensors
from bat.io.tables import (
    check_labels,
    check_one_data_set,
    read_scores,
    read_table,
    read_table_with_facts,
    write_table,
)
from bat.io.tensors import write_tensors
from bat.training import run as training
from bat.training.checkpoints import Checkpoint
from bat.training.records import late_losses, samples_table, unpacked
from bat.training.selection import atypical_for, difficulty_for, hardest_table, harmful_table, removed
from bat.training.untrained import failure


def train(
    journal: Journal,
    *,
    spec: TrainSpec,
    data: Path,
    memorization: Path | None = None,
    harmful: Path | None = None,
    hardest: Path | None = None,
    robust_memorization: Path | None = None,
    proxies: Path | None = None,
    best: Safetensors,
    last: Safetensors,
    records: Parquet,
    checkpoint_minutes: Minutes = 10,
    device: str = "auto",
) -> None:
    """Train one method with one seed; write the weights of best and last epoch, and the records of all epochs.

    Groups of samples are formed by stage groups, so that only methods that read a score, and runs without some samples,
    depend on scores. A run that was killed goes on from its checkpoint, a file beside ``last``, that is written after
    an epoch when ``checkpoint_minutes`` have passed since the one before, and at SIGTERM.

    memorization: memorization.parquet, for methods that read a score, and runs without some samples
    harmful: harmful.parquet, for runs without harmful or benign samples
    hardest: hardest.parquet, for runs without the hardest samples
    robust_memorization: robust_memorization.parquet, for methods that score by it
    proxies: proxies.parquet, for methods that score by one of them
    best: weights of the best epoch
    last: weights of the last epoch
    records: one row per epoch, with packed values of each sample
    checkpoint_minutes: minutes after which an epoch's end is kept, for a killed run to resume there
    """
    dataset, digest = load_data(data, device)
    check_one_data_set(memorization, harmful, hardest, robust_memorization, proxies, data=(data, digest))
    scores = _scores(memorization, "memorization", dataset.train)
    robust = _scores(robust_memorization, "robust_memorization", dataset.train)
    cheap = _scores(proxies, "proxies", dataset.train)
    chosen = atypical_for(scores, robust, spec.method, seed=spec.seed, proxies=cheap)
    difficulty = difficulty_for(scores, robust, spec.method, seed=spec.seed)
    left_out = np.zeros(len(dataset.train), dtype=bool)
    if spec.without:
        if scores is None:
            raise BatError(f"trained without {spec.without.name} samples: give --memorization, of stage scores")
        divided = read_table(harmful, "harmful") if harmful else None
        losses = read_table(hardest, "hardest") if hardest else None
        left_out = removed(scores, spec.without, divided, losses, seed=spec.seed)
        if len(left_out) - left_out.sum() < 2:
            raise BatError(
                f"removal: without {spec.without.name}, {left_out.sum()} of {len(left_out)} training samples would be "
                "left out, which leaves too few: lower removal.fractions, raise memorization.threshold, or set "
                "removal.method to null"
            )
        journal.line(f"trained without {left_out.sum()} of {len(left_out)} samples: {spec.without.name}")
        wanted = removed(scores, replace(spec.without, random=False), divided, losses, seed=spec.seed).sum()
        if left_out.sum() < wanted:
            journal.line(
                f"{wanted} samples are named, so that there are not as many others: this run is no fair control; "
                "lower removal.fractions, or raise memorization.threshold"
            )
    facts: dict[str, Any] = {"spec": asdict(spec), "data": digest}
    marks = hashlib.sha256(b"".join(np.packbits(each).tobytes() for each in (chosen, left_out) if each is not None))
    if difficulty is not None:
        marks.update(difficulty.tobytes())
    checkpoint = Checkpoint(Path(f"{last}.checkpoint"), facts | {"samples": marks.hexdigest()})
    with journal.work(), checkpoint.guarding():
        progress = checkpoint.read(dataset.train.labels.device, journal.line)
        epochs = spec.recipe.epochs - (progress.epoch if progress else 0)
        if progress:
            journal.line(f"goes on after epoch {progress.epoch}, from {checkpoint.path}")
        trained = training.train_run(
            spec,
            dataset,
            lambda each: journal.bar(each, epochs, "epochs"),
            chosen=None if chosen is None else tensor(chosen, dataset),
            difficulty=None if difficulty is None else tensor(difficulty.astype(np.float32), dataset),
            removed=tensor(left_out, dataset),
            progress=progress,
            keep=lambda done: checkpoint.keep(done, checkpoint_minutes),
        )
    this: dict[str, Any] = {"method": spec.method.name, "seed": spec.seed}
    epochs = len(trained.records)
    journal.line(f"best epoch {trained.best_epoch} of {epochs}" + (": stopped early" * (epochs < spec.recipe.epochs)))
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


def harmful(journal: Journal, *, spec: HarmfulSpec, memorization: Path, records: list[Path], harmful: Parquet) -> None:
    """Divide the atypical training samples into harmful and benign ones, by one method's records of all seeds."""
    scores, read, digest = _of_one_method(memorization, records)
    samples = [samples_table(table, scores, path) for path, table in read.items()]
    table = harmful_table(samples, threshold=spec.threshold)
    journal.line(f"{table['harmful'].sum()} of {len(table)} atypical training samples are harmful")
    write_table(harmful, "harmful", table, provenance("harmful", spec=asdict(spec), data=digest))


def hardest(journal: Journal, *, memorization: Path, records: list[Path], hardest: Parquet) -> None:
    """Write how hard each training sample is under attack, by one method's records of all seeds."""
    scores, read, digest = _of_one_method(memorization, records)
    losses = [late_losses(table, len(scores), path) for path, table in read.items()]
    table = hardest_table(scores, losses)
    journal.line(
        f"the mean loss under attack is {table['adversarial_loss'].mean():.4g}, over {sum(map(len, losses))} epochs"
    )
    write_table(hardest, "hardest", table, provenance("hardest", data=digest))


def _of_one_method(memorization: Path, records: list[Path]) -> tuple[pd.DataFrame, dict[Path, pd.DataFrame], str]:
    """Read the scores and one method's records of all seeds; return the digest of their data, too."""
    scores, _ = read_scores(memorization)
    check_one_data_set(memorization, *records)
    read = {path: read_table_with_facts(path, "records") for path in records}
    specs = [facts["spec"] | {"seed": None} for _, facts in read.values()]
    for path, other in zip(records, specs, strict=True):
        if other != specs[0]:
            raise BatError(f"{records[0]} and {path} were trained by different specs: train both again")
    return scores, {path: table for path, (table, _) in read.items()}, read[records[0]][1]["data"]


def _scores(path: Path | None, kind: str, train: Part) -> pd.DataFrame | None:
    """Read a table of scores of the training samples, None where there is none."""
    if path is None:
        return None
    table = read_table(path, kind) if kind == "proxies" else read_scores(path, kind)[0]
    check_labels(path, table, "train_index", train.index.cpu().numpy(), train.labels.cpu().numpy())
    return table
