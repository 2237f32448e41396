"""Trained networks as stage train writes them."""

import hashlib
from pathlib import Path
from typing import Any

from bat.config import Model, parse
from bat.data.dataset import DataSet
from bat.errors import BatError
from bat.io.tensors import read_tensors
from bat.models.network import Network, build


def check_one_training(best: tuple[Path, dict[str, Any]], last: tuple[Path, dict[str, Any]]) -> None:
    """Raise BatError unless two models, by path and provenance, are of one training."""
    own = ("epoch", "digest")
    facts = [{key: value for key, value in found.items() if key not in own} for _, found in (best, last)]
    if facts[0] != facts[1]:
        raise BatError(f"{best[0]} and {last[0]} are not of one training: run stage train again")


def read_model(path: Path, plan: Model, samples: DataSet, data: tuple[Path, str]) -> tuple[Network, dict[str, Any]]:
    """Read a trained network, and its provenance with the digest of its weights. data: path and digest of ``samples``.

    Raises:
        BatError: the weights are damaged, of another network, or were trained on other data.
    """
    weights, facts = read_tensors(path, "model")
    if facts["data"] != data[1]:
        raise BatError(f"{path}: trained on other data than {data[0]}: remove it and run stage train again")
    trained: Model = parse(Model, facts["spec"]["model"], str(path))  # type: ignore[arg-type]  # a union
    if trained != plan:
        raise BatError(f"{path}: not the weights of {plan.name}: of {trained}, not {plan}: run stage train again")
    model = build(plan, samples.train, classes=samples.classes, seed=0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise BatError(f"{path}: not the weights of {plan.name} ({' '.join(str(error).split())})") from error
    return model.eval(), facts | {"digest": hashlib.sha256(path.read_bytes()).hexdigest()}
