"""Data sets: downloaded once, read once, split and written as one file that all other stages map into memory."""

import os
from dataclasses import asdict

import numpy as np
import pandas as pd

from bat.config.data import chosen_classes
from bat.config.specs import DataSpec, DownloadSpec
from bat.data.dataset import DataSet, split
from bat.data.saved import write_data
from bat.data.sources import Source, open_source
from bat.io.files import provenance, replacing
from bat.io.journal import Journal
from bat.io.outputs import Json, Parquet, Safetensors
from bat.io.tables import write_table


def download(journal: Journal, *, spec: DownloadSpec, receipt: Json) -> None:
    """Download a published data set to its cache, unless it is there, and write a receipt.

    receipt: says that a whole copy is there
    """
    from bat.data import downloading

    downloading.fetch(spec)
    journal.line(f"a whole copy of {spec.name} is in {spec.cache}")
    with replacing(receipt) as temporary:
        temporary.write_text(provenance("download", name=spec.name) + "\n", encoding="utf-8")


def data(journal: Journal, *, spec: DataSpec, data: Safetensors, files: Parquet) -> None:
    """Read a data set from its source, split it, and write it as one file, with a table of its samples and files.

    data: the data set
    files: one row per sample: split, index, class, file
    """
    source = open_source(spec.data, threads=int(os.environ["OMP_NUM_THREADS"]))
    for note in source.notes:
        journal.line(note)
    found = split(source, spec.data, subsample=spec.subsample)
    counts = ", ".join(f"{len(part)} {name}" for name, part in found.parts().items())
    journal.line(f"{counts} samples of {found.classes} classes")
    digest = found.digest()
    # a pool has no test part of its own
    own_test = source.test is not None
    sizes = {"train": len(source.train.labels), "test": len((source.test or source.train).labels), "own_test": own_test}
    labels = list(chosen_classes(spec.data.classes, source.class_names))
    about = provenance("data", spec=asdict(spec), digest=digest, source=sizes, source_labels=labels)
    write_data(data, found, about)
    write_table(files, "files", file_table(found, source), provenance("files", spec=asdict(spec), data=digest))


def file_table(data: DataSet, source: Source) -> pd.DataFrame:
    """Return one row per sample: what its index and label mean, and its file, where it has one of its own."""
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
