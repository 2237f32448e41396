"""Stage 2: one method with one seed."""

import json
from typing import Any

from bat import training
from bat.config import parse
from bat.files import provenance
from bat.journal import Journal
from bat.specs import TrainSpec
from bat.stages.inputs import read_data, tensor
from bat.tables import check_labels, read_table, write_table
from bat.tensors import write_tensors


def train(
    journal: Journal,
    *,
    spec: str,
    data: str,
    memorization: str,
    validation_groups: str,
    test_groups: str,
    best: str,
    last: str,
    history: str,
    device: str,
) -> None:
    """Train one method with one seed; write the weights of its best and last epoch, and its history."""
    plan = parse(TrainSpec, spec, "--spec")
    samples, digest = read_data(data, device)
    atypical = {}
    for name, path, column in (
        ("train", memorization, "train_index"),
        ("validation", validation_groups, "validation_index"),
        ("test", test_groups, "test_index"),
    ):
        table = read_table(path, "memorization" if name == "train" else f"{name}_groups")
        part = samples.parts()[name]
        check_labels(path, table, column, part.index.cpu().numpy(), part.labels.cpu().numpy())
        atypical[name] = tensor(table["atypical"].to_numpy(), samples)
    with journal.work():
        trained = training.train(plan, samples, atypical, lambda each: journal.bar(each, plan.recipe.epochs, "epochs"))
    facts: dict[str, Any] = {"spec": json.loads(spec), "data": digest}
    table = trained.history.assign(method=plan.method.name, seed=plan.seed)
    journal.line(f"best epoch {trained.best_epoch} of {plan.recipe.epochs}")
    write_tensors(best, trained.best, provenance("model", **facts, epoch=trained.best_epoch))
    write_tensors(last, trained.last, provenance("model", **facts, epoch=plan.recipe.epochs))
    write_table(history, "history", table, provenance("history", **facts))
