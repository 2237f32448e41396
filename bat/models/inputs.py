"""What several stages read."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bat.config import Model, parse
from bat.data.dataset import DataSet
from bat.errors import BatError
from bat.io import tensors
from bat.io.tables import read_shards
from bat.models import Network, build


def read_data(path: str, device: str) -> tuple[DataSet, str]:
    """Read a data set to ``device`` with its digest, and set torch's threads."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    samples = tensors.read_data(path)
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
    return torch.device(name)


def tensor(array: Any, samples: DataSet) -> Tensor:
    """Copy a numpy array to a tensor on the device of the data."""
    return torch.tensor(array, device=samples.train.labels.device)


def check_one_training(best: tuple[str, dict[str, Any]], last: tuple[str, dict[str, Any]]) -> None:
    """Raise BatError unless two models, by path and provenance, are of one training."""
    own = ("epoch", "digest")
    facts = [{key: value for key, value in found.items() if key not in own} for _, found in (best, last)]
    if facts[0] != facts[1]:
        raise BatError(f"{best[0]} and {last[0]} are not of one training: run stage train again")


def read_subset_models(shards: list[str], data: str, digest: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the shards of subset models; refuse those trained on other data than that of file ``data``."""
    models, facts = read_shards(shards)
    if facts["data"] != digest:
        raise BatError(f"{shards[0]}: trained on other data than {data}: remove the shards and run stage subsets again")
    return models, facts


def read_model(path: str, plan: Model, samples: DataSet, data: tuple[str, str]) -> tuple[Network, dict[str, Any]]:
    """Read a trained network, and its provenance with the digest of its weights. data: path and digest of ``samples``.

    Raises:
        BatError: the weights are damaged, of another network, or were trained on other data.
    """
    weights, facts = tensors.read_tensors(path, "model")
    if facts["data"] != data[1]:
        raise BatError(f"{path}: trained on other data than {data[0]}: remove it and run stage train again")
    trained: Model = parse(Model, facts["spec"]["model"], path)  # type: ignore[arg-type]  # a union
    if trained != plan:
        raise BatError(f"{path}: not the weights of {plan.name}: of {trained}, not {plan}: run stage train again")
    model = build(plan, samples.train, classes=samples.classes, seed=0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BatError(f"{path}: not the weights of {plan.name} ({' '.join(str(error).split())})") from error
    return model.eval(), facts | {"digest": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
