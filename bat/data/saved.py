"""The data set as stage data writes it: one safetensors file, that all other stages map into memory."""

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.io.tensors import read_tensors, write_tensors


def write_data(path: str | Path, data: DataSet, about: str) -> None:
    """Write a data set as one safetensors file."""
    tensors = {
        "classes": torch.tensor(data.classes),
        "pixel_max": torch.tensor(data.train.pixel_max),
    }
    for name, part in data.parts().items():
        tensors |= {f"{name}_pixels": part.pixels, f"{name}_labels": part.labels, f"{name}_index": part.index}
    write_tensors(path, tensors, json.dumps(json.loads(about) | {"class_names": data.class_names}))


def read_data(path: str | Path) -> DataSet:
    """Read a data set that ``write_data`` wrote: its tensors are the file, mapped into memory, not a copy.

    Raises:
        BatError: the file is missing, damaged, or of another kind.
    """
    tensors, facts = read_tensors(path, "data")
    pixel_max = int(tensors["pixel_max"])
    train, validation, test = (
        Part(tensors[f"{name}_pixels"], tensors[f"{name}_labels"], tensors[f"{name}_index"], pixel_max)
        for name in ("train", "validation", "test")
    )
    classes = int(tensors["classes"])
    # without names, a class is named by its number
    names = facts.get("class_names") or map(str, range(classes))
    return DataSet(train, validation, test, classes, tuple(names))


def load_data(path: str | Path, device: str) -> tuple[DataSet, str]:
    """Read a data set to ``device`` with its digest, and set torch's threads."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    samples = read_data(path)
    return samples.to(device_named(device)), samples.digest()


def device_named(name: str) -> torch.device:
    """Return the device of a name; auto is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise BatError(f"--device {name}: no such device: give auto, cpu, cuda or cuda:1, ...")
    if name != "cpu":
        number, there = int(name.partition(":")[2] or 0), torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number >= there:
            raise BatError(f"--device {name}: this machine has {there} GPUs that torch can use: give another, or cpu")
        # float32 is float32, also in convolutions, which torch would round to TF32; and equal runs are equal
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    return torch.device(name)


def tensor(array: Any, samples: DataSet) -> Tensor:
    """Copy a numpy array to a tensor on the device of the data."""
    return torch.tensor(array, device=samples.train.labels.device)
