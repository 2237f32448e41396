"""What groups of samples did in training, joined from the records of all samples. No torch: it takes a second."""

from pathlib import Path

from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Parquet
from bat.io.tables import check_one_data_set, check_one_run, read_scores, read_table, read_table_with_facts, write_table
from bat.training.records import history_table, samples_table


def groups(
    journal: Journal,
    *,
    memorization: Path,
    validation_groups: Path,
    test_groups: Path,
    records: list[Path],
    histories: list[Parquet],
    samples: list[Parquet],
) -> None:
    """Write the history of each run, and the record of its atypical training samples, from its records of all samples.

    histories: one row per epoch, of the same runs in the same order
    samples: one row per epoch and atypical training sample, of the same runs in the same order
    """
    if not len(records) == len(histories) == len(samples):
        raise BatError(
            f"--records names {len(records)} files, --histories {len(histories)}, --samples {len(samples)}: "
            "give one of each a run"
        )
    check_one_data_set(memorization, validation_groups, test_groups, *records)
    check_one_run(memorization, validation_groups, test_groups)
    scores, _ = read_scores(memorization)
    atypical = {"train": scores["atypical"].to_numpy(bool)}
    for split, path in (("validation", validation_groups), ("test", test_groups)):
        atypical[split] = read_table(path, f"{split}_groups")["atypical"].to_numpy(bool)
    with journal.work():
        for path, history, rows in journal.bar(zip(records, histories, samples, strict=True), len(records), "runs"):
            table, about = read_table_with_facts(path, "records")
            this = {"spec": about["spec"], "data": about["data"]}
            write_table(history, "history", history_table(table, atypical, path), provenance("history", **this))
            rare = samples_table(table, scores, path)
            write_table(rows, "training_samples", rare, provenance("training_samples", **this))
