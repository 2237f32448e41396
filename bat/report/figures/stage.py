"""Stage 4: figures."""

from typing import Any

import pandas as pd

from bat.io.journal import Journal
from bat.io.tables import check_one_data_set, check_one_run, read_table, read_table_with_facts
from bat.report import figures


def memorization(journal: Journal, *, memorization: str, out: list[str]) -> None:
    """Draw the histogram of memorization."""
    table, facts = read_table_with_facts(memorization, "memorization")
    with journal.work():
        figures.save(figures.memorization(table, threshold=facts["spec"]["threshold"], models=facts["models"]), out)


def gallery(journal: Journal, *, data: str, memorization: str, train_influence: str, out: list[str]) -> None:
    """Draw the most memorized training samples."""
    from bat.io.tensors import read_data

    samples = read_data(data)
    table, facts = read_table_with_facts(memorization, "memorization")
    pairs = read_table(train_influence, "train_influence")
    check_one_data_set(memorization, train_influence, data=(data, samples.digest()))
    check_one_run(memorization, train_influence)
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
    check_one_data_set(*histories, test_groups)
    with journal.work():
        figure = figures.curves(
            pd.concat([table for table, _ in tables], ignore_index=True),
            atypical=int(groups["atypical"].sum()),
            typical=int((~groups["atypical"]).sum()),
            attack=f"PGD-{spec['attack']['steps']}",
            threat=_threat(spec["threat"]),
        )
        figures.save(figure, out)


def weights(journal: Journal, *, samples: list[str], out: list[str]) -> None:
    """Draw the weights of atypical training samples over epochs."""
    tables = [read_table(path, "training_samples") for path in samples]
    check_one_data_set(*samples)
    with journal.work():
        figures.save(figures.weights(pd.concat(tables, ignore_index=True)), out)


def tradeoff(journal: Journal, *, summary: str, methods: list[str], out: list[str]) -> None:
    """Draw clean against robust accuracy."""
    means, about = _summary(summary)
    bases = dict(method.split("=") for method in methods)
    with journal.work():
        figures.save(figures.tradeoff(means, bases, **about), out)


def influence(journal: Journal, *, per_sample: str, methods: list[str], out: list[str]) -> None:
    """Draw accuracies against the strongest influence of an atypical training sample."""
    samples, facts = read_table_with_facts(per_sample, "per_sample")
    with journal.work():
        figure = figures.influence(
            samples[(samples["checkpoint"] == "last") & samples["method"].isin(methods)].reset_index(drop=True),
            tier=samples["tier"].iloc[0],
            threat=_threat(facts["spec"]["threat"]),
        )
        figures.save(figure, out)


def overfitting(journal: Journal, *, summary: str, methods: list[str], out: list[str]) -> None:
    """Draw accuracies at the best and the last epoch."""
    means, about = _summary(summary)
    names = [method.split("=")[0] for method in methods]
    with journal.work():
        del about["confidence"]
        figure = figures.overfitting(means[means["method"].isin(names)], **about)
        figures.save(figure, out)


def finding_a(journal: Journal, *, summary: str, histories: list[str], out: list[str]) -> None:
    """Draw what leaving out memorized samples does. The first of the histories is of the run with all samples."""
    means, about = _summary(summary)
    tables = [read_table(path, "history") for path in histories]
    check_one_data_set(summary, *histories)
    with journal.work():
        base = str(tables[0]["method"].iloc[0])
        figures.save(figures.finding_a(means, pd.concat(tables, ignore_index=True), base=base, **about), out)


def finding_b(journal: Journal, *, comparisons: str, harmful: str, robust_effects: str | None, out: list[str]) -> None:
    """Draw what leaving out harmful samples does, and the effect of each."""
    table, facts = read_table_with_facts(comparisons, "comparisons")
    effects = read_table(robust_effects, "robust_effects") if robust_effects else None
    check_one_data_set(comparisons, harmful, robust_effects)
    with journal.work():
        confidence = facts["spec"]["confidence"]
        divided = read_table(harmful, "harmful")
        figures.save(figures.finding_b(table, effects, divided, confidence=confidence), out)


def harmful(journal: Journal, *, data: str, harmful: str, out: list[str]) -> None:
    """Draw the most harmful and the most benign atypical training samples."""
    from bat.io.tensors import read_data

    samples = read_data(data)
    place = {int(index): row for row, index in enumerate(samples.train.index)}
    table = read_table(harmful, "harmful")
    check_one_data_set(harmful, data=(data, samples.digest()))
    with journal.work():
        figure = figures.harmful(
            lambda index: samples.train.images(slice(place[index], place[index] + 1))[0].numpy(),
            table,
            class_names=samples.class_names,
        )
        figures.save(figure, out)


def _summary(path: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a summary, and what its figures say of it: tier, threat, confidence and the runs whose training failed."""
    means, facts = read_table_with_facts(path, "summary")
    threat = _threat(facts["evaluation"]["threat"])
    said = {"tier": facts["tier"], "threat": threat, "confidence": facts["spec"]["confidence"]}
    return means, said | {"failed": list(facts["failed"])}


def _threat(threat: dict[str, Any]) -> str:
    return f"{ {'linf': 'L-inf', 'l2': 'L2'}[threat['norm']] } {threat['eps']:g}"
