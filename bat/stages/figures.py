"""Stage 4: figures."""

from typing import Any

import pandas as pd

from bat import figures
from bat.journal import Journal
from bat.tables import read_table, read_table_with_facts


def memorization(journal: Journal, *, memorization: str, out: list[str]) -> None:
    """Draw the histogram of memorization."""
    table, facts = read_table_with_facts(memorization, "memorization")
    with journal.work():
        figures.save(figures.memorization(table, threshold=facts["spec"]["threshold"], models=facts["models"]), out)


def gallery(journal: Journal, *, data: str, memorization: str, train_influence: str, out: list[str]) -> None:
    """Draw the most memorized training samples."""
    from bat.tensors import read_data

    samples = read_data(data)
    table, facts = read_table_with_facts(memorization, "memorization")
    pairs = read_table(train_influence, "train_influence")
    with journal.work():
        figure = figures.gallery(
            # one by one: the data set may be as large as the memory
            lambda row: samples.train.images(slice(row, row + 1))[0].numpy(),
            table,
            pairs,
            class_names=samples.class_names,
            models=facts["models"],
        )
        figures.save(figure, out)


def curves(journal: Journal, *, histories: list[str], test_groups: str, out: list[str]) -> None:
    """Draw accuracies over epochs."""
    tables = [read_table_with_facts(path, "history") for path in histories]
    spec = tables[0][1]["spec"]
    groups = read_table(test_groups, "test_groups")
    with journal.work():
        figure = figures.curves(
            pd.concat([table for table, _ in tables], ignore_index=True),
            atypical=int(groups["atypical"].sum()),
            typical=int((~groups["atypical"]).sum()),
            attack=f"PGD-{spec['attack']['steps']}",
            threat=_threat(spec["threat"]),
        )
        figures.save(figure, out)


def tradeoff(journal: Journal, *, summary: str, by_seed: str, out: list[str]) -> None:
    """Draw clean against robust accuracy."""
    means, facts = read_table_with_facts(summary, "summary")
    spec = facts["evaluation"]
    with journal.work():
        figure = figures.tradeoff(
            means,
            read_table(by_seed, "by_seed"),
            tier=facts["tier"],
            threat=_threat(spec["threat"]),
            confidence=facts["spec"]["confidence"],
        )
        figures.save(figure, out)


def _threat(threat: dict[str, Any]) -> str:
    return f"{ {'linf': 'L-inf', 'l2': 'L2'}[threat['norm']] } {threat['eps']:g}"
