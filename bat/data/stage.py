"""Data sets: downloaded once, read once, split and written as one file that all other stages map into memory."""

import json
import os

import numpy as np
import pandas as pd

from bat.config import Cached, parse
from bat.config.specs import DataSpec
from bat.data.dataset import DataSet, split
from bat.data.sources import Source, open_source
from bat.io.files import provenance, replacing
from bat.io.journal import Journal
from bat.io.tables import write_table
from bat.io.tensors import write_data


def download(journal: Journal, *, spec: str, out: str) -> None:
    """Download a published data set to its cache, unless it is there, and write a receipt."""
    from bat.data import downloading

    plan = parse(Cached, spec, "--spec")
    downloading.download(plan)
    journal.line(f"a whole copy of {plan.name} is in {plan.cache}")
    with replacing(out) as temporary:
        temporary.write_text(provenance("download", name=plan.name) + "\n", encoding="utf-8")


def data(journal: Journal, *, spec: str, out: str, files: str) -> None:
    """Read a data set from its source, split it, and write it as one file, with a table of its samples and files."""
    plan = parse(DataSpec, spec, "--spec")
    source = open_source(plan.data, threads=int(os.environ["OMP_NUM_THREADS"]))
    for note in source.notes:
        journal.line(note)
    data = split(source, plan.data, subsample=plan.subsample)
    counts = ", ".join(f"{len(part)} {name}" for name, part in data.parts().items())
    journal.line(f"{counts} samples of {data.classes} classes")
    digest = data.digest()
    # a pool has no test part of its own
    sizes = {"train": len(source.train.labels), "test": len((source.test or source.train).labels)}
    write_data(out, data, provenance("data", spec=json.loads(spec), digest=digest, source=sizes))
    write_table(files, "files", file_table(data, source), provenance("files", spec=json.loads(spec), data=digest))


def file_table(data: DataSet, source: Source) -> pd.DataFrame:
    """Return a row a sample: what its index and label stand for, and its file where it has one of its own."""
    tables = []
    for name, part in data.parts().items():
        held_by = (source.test or source.train) if name == "test" else source.train
        index = part.index.numpy()
        tables.append(
            pd.DataFrame(
                {
                    "split": name,
                    "index": index,
                    "label": part.labels.numpy(),
                    "class_name": np.array(data.class_names, dtype=object)[part.labels.numpy()],
                    "file": None if held_by.files is None else np.array(held_by.files, dtype=object)[index],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
