"""Models on random subsets: the subsets, one model, and the shards of what models say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bat.config import Natural, PgdAt
from bat.config.specs import SubsetsSpec
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.io.tables import read_shards
from bat.models import Network, build
from bat.scores.own import own_answers
from bat.seeds import derive_seed
from bat.statistics import Bools
from bat.training.loop import Epoch, fit
from bat.training.losses import objective
from bat.training.measure import correct, robustly_correct

NATURAL = Natural(name="natural", objective="natural")
ROBUST = PgdAt(name="pgd_at", objective="pgd_at", eps_factor=1.0, awp=0.0)
"""How subset models are trained, without and with an adversary."""

ANSWERS_FORMAT = 1
"""Of what ``answers`` returns, as an unfinished shard keeps it. Raise it when names, shapes or meaning change, or how a
subset model is trained by the same spec: models of another format are trained anew."""


def subset_masks(samples: int, size: int, *, design: str, seed: int, first: int, count: int) -> Bools:
    """Return the subsets of models first ... first + count - 1: (count, samples) bool, True where in the subset.

    Row k depends on (seed, k) alone, with exactly ``size`` samples. ``independent`` draws each row on its own.
    ``balanced`` cuts the left-out samples of models 0, 1, 2, ... one after the other from a sequence of random
    orders of all samples, so that after any number of models each sample has been left out equally often, give or
    take one.
    """
    out = samples - size
    masks = np.ones((count, samples), dtype=bool)
    if design == "independent":
        for row in range(count):
            random = np.random.default_rng(derive_seed(seed, "subset", first + row))
            masks[row, random.permutation(samples)[:out]] = False
        return masks
    order = np.empty(0, dtype=np.int64)
    number = 0
    for model in range(first + count):
        if len(order) < out:
            random = np.random.default_rng(derive_seed(seed, "order", number))
            fresh = random.permutation(samples)
            # a model that takes the end of one order and the start of the next must not meet a sample twice
            taken = np.isin(fresh, order)
            head = fresh[~taken][: out - len(order)]
            order = np.concatenate([order, head, fresh[~np.isin(fresh, head)]])
            number += 1
        if model >= first:
            masks[model - first, order[:out]] = False
        order = order[out:]
    return masks


def epochs_on(model: Network, subset: Part, spec: SubsetsSpec, *, seed: int, what: str) -> Iterator[Epoch]:
    """Train a model on its subset, in place, and yield after each epoch. what: names the model in errors."""
    return fit(
        model,
        subset,
        objective=objective(ROBUST if spec.adversary else NATURAL),
        recipe=spec.recipe,
        seed=seed,
        what=what,
        adversary=spec.adversary,
        compute=spec.compute,
    )


def answers(model: Network, samples: DataSet, spec: SubsetsSpec, *, seed: int) -> dict[str, Bools]:
    """Return which samples of each split a model classifies correctly, with an adversary also under its attack.

    Names are those of the columns of a shard: correct_train, robust_train, ...; each (n,) bool.
    """
    found: dict[str, Bools] = {}
    for name, part in samples.parts().items():
        if spec.adversary:
            clean, robust = robustly_correct(
                model, part, threat=spec.adversary.threat, attack=spec.adversary.attack, seed=seed
            )
            found |= {f"correct_{name}": clean, f"robust_{name}": robust}
        else:
            found[f"correct_{name}"] = correct(model, part)
    return found


def recorded(samples: DataSet, subset: Part, spec: SubsetsSpec, *, seed: int, what: str) -> dict[str, Bools]:
    """Train a model on its subset, this package's or the user's; return as ``answers`` what it classifies correctly."""
    if spec.trainer:
        return own_answers(spec.trainer, subset, samples, seed=seed)
    model = network(subset, spec, classes=samples.classes, seed=seed)
    for _ in epochs_on(model, subset, spec, seed=seed, what=what):
        pass
    return answers(model, samples, spec, seed=seed)


def network(subset: Part, spec: SubsetsSpec, *, classes: int, seed: int) -> Network:
    """Build an untrained subset model of this package."""
    if spec.model is None:
        raise BatError("spec: model is null, and so is trainer: give one")
    return build(spec.model, subset, classes=classes, seed=seed)


def read_subset_models(shards: list[Path], data: Path, digest: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the shards of subset models; refuse those trained on other data than that of file ``data``."""
    models, facts = read_shards(shards)
    if facts["data"] != digest:
        raise BatError(f"{shards[0]}: trained on other data than {data}: remove the shards and run stage subsets again")
    return models, facts
